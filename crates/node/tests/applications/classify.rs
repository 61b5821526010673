//! `exeunt-node classify`, as a process.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::place::Place;

fn node(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exeunt-node"));
    command.arg("--home").arg(place.home.root()).arg("classify");
    // What is expected comes from this engine, to the last bit.
    command.env("EXEUNT_ENGINE", "tract");
    command
}

/// An 8×8 picture of a slope.
fn picture(path: &Path, step: u8) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |x: u32, y: u32| image::Luma([(x as u8).wrapping_mul(step).wrapping_add(y as u8)]);
    image::GrayImage::from_fn(8, 8, pixel).save(path).unwrap();
    path.to_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn files_and_folders_come_out_in_order_and_a_bad_file_stops_nobody() {
    let place = Place::new(1.0);
    let single = picture(&place.file("single.png"), 3);
    let folder = place.file("pictures");
    let (b, a, deep) = (
        picture(&folder.join("b.png"), 5),
        picture(&folder.join("a.PNG"), 7),
        picture(&folder.join("more/c.png"), 9),
    );
    fs::write(folder.join("notes.txt"), "not a picture").unwrap();
    let broken = place.file("broken.png");
    fs::write(&broken, "not a picture").unwrap();
    let missing = place.file("missing.jpg");

    let output = node(&place).arg("--json").args([&broken, &single, &missing, &folder]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let found = lines(&output);
    let files: Vec<&str> = found.iter().map(|line| line["file"].as_str().unwrap()).collect();
    let expected = [&broken, &single, &missing, &a, &b, &deep].map(|path| path.to_str().unwrap());
    assert_eq!(files, expected);
    assert!(found[0]["error"].as_str().unwrap().starts_with("cannot be decoded"));
    assert!(found[2]["error"].as_str().unwrap().starts_with("cannot be read"));
    let said = String::from_utf8(output.stderr).unwrap();
    for bad in [&broken, &missing] {
        assert!(said.contains(&format!("error: {}: ", bad.display())), "{said}");
    }

    let ready = place.ready();
    for line in found.iter().filter(|line| line["error"].is_null()) {
        let file = line["file"].as_str().unwrap();
        let image = exeunt_data::Image::decode(&fs::read(file).unwrap(), file).unwrap();
        let verdict = ready.inference.classify(&image, file).unwrap();
        assert_eq!(line["class_id"], verdict.class);
        assert_eq!(line["margin"], verdict.margin);
        assert_eq!(line["exit"], verdict.exit.map_or(0, |exit| exit + 1));
        assert_eq!(line["policy_version"], 1);
    }
}

#[test]
fn good_files_alone_end_well() {
    let place = Place::new(1.0);
    let file = picture(&place.file("one.png"), 3);
    let output = node(&place).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("{}: ", file.display())), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn a_folder_without_pictures_is_named() {
    let place = Place::new(1.0);
    let empty = place.file("empty");
    fs::create_dir(&empty).unwrap();
    let output = node(&place).arg(&empty).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("found no JPEG or PNG file in this folder"));
}

#[test]
fn a_stream_of_paths_is_answered_path_by_path() {
    let place = Place::new(1.0);
    let first = picture(&place.file("first.png"), 3);
    let second = picture(&place.file("second.png"), 4);
    let mut process = node(&place)
        .args(["--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut paths = process.stdin.take().unwrap();
    let mut answers = BufReader::new(process.stdout.take().unwrap()).lines();
    for path in [&first, &second] {
        writeln!(paths, "{}", path.display()).unwrap();
        // The answer comes before the next path is sent.
        let line: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["file"], path.to_str().unwrap());
    }
    // A path that is no text is one that is not there, and the stream goes on.
    paths.write_all(b"\xff\n").unwrap();
    let line: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
    assert!(line["error"].as_str().unwrap().starts_with("cannot be read"), "{line}");
    drop(paths);
    assert!(answers.next().is_none());
    assert_eq!(process.wait().unwrap().code(), Some(2));
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_classifies_as_tract_does() {
    let place = Place::new(1.0);
    let files: Vec<PathBuf> =
        (1..20).map(|step| picture(&place.file(&format!("{step}.png")), step * 13)).collect();
    let run = |engine: &str| {
        let output = node(&place).env("EXEUNT_ENGINE", engine).arg("--json").args(&files).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lines(&output)
    };
    let (tract, theirs) = (run("tract"), run("onnxruntime"));
    assert_eq!(tract.len(), files.len());
    for (ours, theirs) in tract.iter().zip(&theirs) {
        for key in ["file", "class_id", "exit"] {
            assert_eq!(ours[key], theirs[key], "{ours}");
        }
        let [ours, theirs] = [ours, theirs].map(|line| line["margin"].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-3, "{ours} and {theirs}");
    }
}
