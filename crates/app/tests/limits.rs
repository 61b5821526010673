//! `docs/limits.md` says what the sources say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates that read what others wrote: each of their `MAX_…` is on the page.
const READERS: [&str; 5] = ["coordinator", "data", "link", "node", "protocol"];
const LIMITS: &str = "crates/link/src/limits.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Name, value and source of every limit on the page.
fn page() -> Vec<[String; 3]> {
    let text = read("docs/limits.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        [cells[1].to_owned(), cells[2].to_owned(), cells[3].to_owned()]
    })
    .collect()
}

fn number(text: &str) -> u64 {
    text.trim()
        .replace('_', "")
        .parse()
        .unwrap_or_else(|error| panic!("found {text:?}, expected a number: {error}"))
}

/// A value as the page writes it; times in milliseconds.
fn written(text: &str) -> u64 {
    let (value, unit) = text.split_once(' ').unwrap_or((text, ""));
    number(value)
        * match unit {
            "" | "B" | "ms" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "s" => 1000,
            "h" => 3_600_000,
            "days" => 86_400_000,
            other => panic!("found unit {other:?}, expected B, KiB, MiB, GiB, ms, s, h or days"),
        }
}

/// A value as a source writes it; times in milliseconds.
fn evaluated(text: &str) -> u64 {
    if let Some(seconds) = text.strip_prefix("Duration::from_secs(") {
        return evaluated(seconds.trim_end_matches(')')) * 1000;
    }
    if let Some(milliseconds) = text.strip_prefix("Duration::from_millis(") {
        return evaluated(milliseconds.trim_end_matches(')'));
    }
    if let Some((value, bits)) = text.split_once(" << ") {
        return number(value) << number(bits);
    }
    text.split(" * ").map(number).product()
}

/// Name and value of every constant of a source.
fn constants(source: &str) -> Vec<(&str, &str)> {
    let constant = |line: &'_ str| {
        line.split_once("const ").is_some_and(|(before, _)| {
            let before = before.trim();
            before.is_empty() || before.starts_with("pub")
        })
    };
    let lines = source.lines().filter(|line| constant(line));
    lines
        .filter_map(|line| {
            let (name, rest) = line.split_once("const ")?.1.split_once(": ")?;
            Some((name, rest.split_once(" = ")?.1.strip_suffix(';')?))
        })
        .collect()
}

/// Name and value of every field that `Limits::default` sets; a choice among variants bounds nothing.
fn defaults(source: &str) -> Vec<(&str, &str)> {
    let start = source.find("fn default() -> Self").expect("limits have defaults");
    let fields = source[start..].lines().skip(2).take_while(|line| line.trim() != "}");
    fields
        .map(|line| line.trim().trim_end_matches(',').split_once(": ").expect("a field has a value"))
        .filter(|(_, value)| !value.starts_with("Congestion::"))
        .collect()
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources can be listed") {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_page_of_limits_has_the_values_of_the_sources() {
    let page = page();
    assert!(!page.is_empty());
    for [name, value, file] in page {
        let source = read(&file);
        let mut known = constants(&source);
        if file == LIMITS {
            known.extend(defaults(&source));
        }
        let found: Vec<&str> =
            known.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect();
        assert_eq!(found.len(), 1, "{name} in {file}");
        assert_eq!(
            evaluated(found[0]),
            written(&value),
            "{name} in {file}: {}, documented as {value}",
            found[0]
        );
    }
}

#[test]
fn the_page_of_limits_is_complete() {
    let page: BTreeSet<(String, String)> = page().into_iter().map(|[name, _, file]| (name, file)).collect();
    let mut missing = Vec::new();
    for name in READERS {
        let mut files = Vec::new();
        sources(&root().join(format!("crates/{name}/src")), &mut files);
        for file in files {
            let relative = file.strip_prefix(root()).expect("it lies in the workspace").display().to_string();
            let source = read(&relative);
            let mut expected: Vec<&str> = constants(&source).into_iter().map(|(name, _)| name).collect();
            expected.retain(|name| name.starts_with("MAX_"));
            if relative == LIMITS {
                expected =
                    constants(&source).into_iter().chain(defaults(&source)).map(|(name, _)| name).collect();
            }
            let found = expected.into_iter().map(|name| (name.to_owned(), relative.clone()));
            missing.extend(found.filter(|limit| !page.contains(limit)));
        }
    }
    assert_eq!(missing, [], "limits that docs/limits.md does not name");
}
