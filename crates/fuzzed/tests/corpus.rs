//! Every target stands its corpus, and every target has one.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use exeunt_fuzzed::TARGETS;

/// Most files of a corpus, and most bytes of all: what is kept here is for everybody who clones the repository.
const FILES: usize = 40;
const BYTES: u64 = 1 << 20;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let folder = fuzz().join("corpus").join(target);
    let files = names(&folder);
    assert!((1..=FILES).contains(&files.len()), "{}: found {} files", folder.display(), files.len());
    for file in files {
        // Shown when the test fails.
        println!("{target}/{file}");
        run(&fs::read(folder.join(file)).unwrap());
    }
}

macro_rules! replayed {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_replayed_and_has_a_program_and_a_corpus() {
            let replayed = BTreeSet::from([$(stringify!($target).to_owned()),*]);
            let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            let programs = names(&fuzz().join("targets"));
            let programs: BTreeSet<String> = programs.iter().map(|name| name.replace(".rs", "")).collect();
            assert_eq!(replayed, known);
            assert_eq!(programs, known);
            assert_eq!(names(&fuzz().join("corpus")), known);
            let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
            let built = known.iter().filter(|name| manifest.contains(&format!("name = \"{name}\"")));
            assert_eq!(built.count(), known.len());
        }
    };
}

replayed!(coordinator frames images messages networks node npz records run_files tables tokens);

#[test]
fn the_corpora_are_small() {
    let corpora = names(&fuzz().join("corpus"));
    let files = corpora.iter().flat_map(|target| {
        let folder = fuzz().join("corpus").join(target);
        names(&folder).into_iter().map(move |file| fs::metadata(folder.join(file)).unwrap().len())
    });
    let bytes: u64 = files.sum();
    assert!(bytes <= BYTES, "found {bytes} bytes, expected at most {BYTES}");
}
