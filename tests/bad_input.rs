//! What a person may do wrong, each with the exit code that `--help` names, a message that says what to change, and
//! nothing on stdout.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is how they say what went wrong")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use common::{Done, Federation, digits, exeunt, repository, run, wait_for};
use exeunt_link::Token;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// Wrong usage or bad input.
const BAD_INPUT: i32 = 2;
const UNREACHABLE: i32 = 3;
const REFUSED: i32 = 4;

/// A copy of the digits' run file with lines replaced, in a folder of its own.
fn run_file(folder: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let configs = repository().join("configs");
    let assets = configs.join("../assets");
    let mut text = fs::read_to_string(configs.join("digits.toml")).unwrap();
    for (from, to) in [("../assets", assets.to_str().unwrap())].iter().chain(changes) {
        assert!(text.contains(from), "'{from}' is not in the run file any more");
        text = text.replacen(from, to, if *from == "../assets" { 2 } else { 1 });
    }
    let path = folder.join("run.toml");
    fs::write(&path, text).unwrap();
    path
}

fn simulate(file: &Path, more: &[&str]) -> Done {
    run(exeunt(&["simulate", file.to_str().unwrap(), "--nodes", "2", "--json"]).args(more))
}

/// The digits in a folder that may be spoilt.
fn copy_of_the_digits(folder: &Path) -> PathBuf {
    let copy = folder.join("digits");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(digits()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn wrong_usage_has_its_own_code() {
    run(&mut exeunt(&["run", "frobnicate"])).failed(BAD_INPUT, &["frobnicate"]);
    run(&mut exeunt(&["token", "--valid", "3w"])).failed(BAD_INPUT, &["--valid", "3w", "expected", "2h"]);
    run(&mut exeunt(&["policy", "set"])).failed(BAD_INPUT, &["--fraction"]);
    let help = run(&mut exeunt(&["--help"])).ok();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for code in ["0 done", "1 failed", "2 wrong usage", "3 coordinator not reachable", "4 refused"] {
        assert!(help.contains(code), "'{code}' is missing in {help}");
    }
}

#[test]
fn run_files_that_are_wrong_name_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |from: &str, to: &str, parts: &[&str]| {
        let file = run_file(folder.path(), &[(from, to)]);
        simulate(&file, &[]).failed(BAD_INPUT, &[&["run.toml"], parts].concat());
    };
    wrong("quorum = 8", "quorom = 8", &["quorom", "did you mean 'quorum'?"]);
    wrong("quorum = 8", "quorum = \"eight\"", &["eight", "expected a whole number"]);
    wrong("quorum = 8", "quorum = 0", &["federation.quorum", "found 0", "expected at least 1"]);
    wrong("std = [0.376]", "std = [0.376, 0.4]", &["input.std", "found 2", "expected 1"]);
    wrong("range = [900, 1797]", "range = [800, 1797]", &["data.calibration", "data.statistics"]);
    let missing = folder.path().join("nowhere.toml");
    simulate(&missing, &[]).failed(BAD_INPUT, &["nowhere.toml"]);
}

#[test]
fn networks_that_cannot_be_used_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("network.onnx");
    fs::write(&text, "this is a text and no network").unwrap();
    let inspect = |path: &Path| run(&mut exeunt(&["inspect", path.to_str().unwrap(), "--json"]));
    inspect(&text).failed(BAD_INPUT, &["network.onnx", "not an ONNX model"]);
    inspect(&folder.path().join("none.onnx")).failed(BAD_INPUT, &["none.onnx"]);
    inspect(folder.path()).failed(BAD_INPUT, &["is not a file"]);
    let file = run_file(folder.path(), &[]);
    simulate(&file, &["--network", text.to_str().unwrap()])
        .failed(BAD_INPUT, &["network.onnx", "not an ONNX model"]);

    let tap = "/stage1/stage1.0/relu_1/Relu_output_0";
    let file = run_file(folder.path(), &[(tap, "/stage1/stage1.0/relu_1/Relu_output_9")]);
    simulate(&file, &[]).failed(BAD_INPUT, &["exits", "has no tensor", "Relu_output_9", "did you mean"]);
    // Inside a residual block: the skip connection goes past it.
    let file = run_file(folder.path(), &[(tap, "/stage1/stage1.0/relu/Relu_output_0")]);
    simulate(&file, &[]).failed(BAD_INPUT, &["cannot be cut at", "/stage1/stage1.0/relu/Relu_output_0"]);
    let file = run_file(folder.path(), &[("class_count = 10", "class_count = 7")]);
    simulate(&file, &[]).failed(BAD_INPUT, &["task.classes", "found 7", "expected 10"]);
}

#[test]
fn data_that_cannot_be_read_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = run_file(folder.path(), &[]);
    let with = |data: &Path| simulate(&file, &["--data", data.to_str().unwrap()]);
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    with(&empty).failed(BAD_INPUT, &["empty/digits-", "No such file"]);

    let data = copy_of_the_digits(folder.path());
    let labels = data.join("digits-labels-idx1-ubyte.gz");
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(&labels).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes[8 + 17] = 12;
    let mut packed = GzEncoder::new(fs::File::create(&labels).unwrap(), flate2::Compression::default());
    packed.write_all(&bytes).unwrap();
    packed.finish().unwrap();
    with(&data).failed(BAD_INPUT, &["digits-", "sample 17 has label 12", "expected 0 to 9"]);

    let images = data.join("digits-images-idx3-ubyte.gz");
    let whole = fs::read(&images).unwrap();
    fs::write(&images, &whole[..whole.len() / 2]).unwrap();
    with(&data).failed(BAD_INPUT, &["digits-images", "gzip that breaks off"]);
}

#[test]
fn nobody_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("nobody");
    let ask = |home: &Path| run(exeunt(&["node", "list", "--json", "--home"]).arg(home));
    ask(&home).failed(BAD_INPUT, &["there is no coordinator in", "exeunt serve", "--home"]);

    let mut federation = Federation::serve();
    let token = federation.token();
    federation.coordinator.kill();
    let stderr = ask(&federation.home()).failed(UNREACHABLE, &["no answer", "is `exeunt serve` running?"]);
    assert!(stderr.contains(federation.listen()), "{stderr}");
    let data = digits();
    let join = ["join", &token, "--data", data.to_str().unwrap()];
    federation.node(0, &join).failed(UNREACHABLE, &["no answer", federation.listen()]);
    for command in [&["start"][..], &["status", "--json"], &["classify", "--json", "x.png"]] {
        federation.node(0, command).failed(BAD_INPUT, &["exeunt-node join TOKEN"]);
    }
}

#[test]
fn an_address_and_a_folder_serve_one_coordinator() {
    let federation = Federation::serve();
    let folder = tempfile::tempdir().unwrap();
    let serve = |listen: &str, home: &Path| run(exeunt(&["serve", "--listen", listen, "--home"]).arg(home));
    serve(federation.listen(), &folder.path().join("second"))
        .failed(BAD_INPUT, &[federation.listen(), "is in use", "another port"]);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    serve(&address, &folder.path().join("third")).failed(BAD_INPUT, &[&address, "is in use"]);
    let stderr =
        serve("127.0.0.1:0", &federation.home()).failed(BAD_INPUT, &["is in use by another process"]);
    assert!(stderr.contains("store.redb"), "{stderr}");
    // The one that runs was not disturbed.
    federation.operator(&["node", "list"]).ok();
}

#[test]
fn a_store_of_a_newer_version_is_left_as_it_is() {
    let mut federation = Federation::serve();
    federation.coordinator.kill();
    let store = federation.home().join("store.redb");
    let database = redb::Database::open(&store).unwrap();
    let change = database.begin_write().unwrap();
    let meta: redb::TableDefinition<'_, &str, u32> = redb::TableDefinition::new("meta");
    change.open_table(meta).unwrap().insert("format", 99).unwrap();
    change.commit().unwrap();
    drop(database);
    let before = fs::read(&store).unwrap();
    let again = run(exeunt(&["serve", "--listen", "127.0.0.1:0", "--home"]).arg(federation.home()));
    again.failed(BAD_INPUT, &["store.redb", "format 99", "use the version that wrote it"]);
    assert!(fs::read(&store).unwrap() == before, "the store was written to");
}

#[test]
fn tokens_that_do_not_let_in() {
    let federation = Federation::serve();
    let data = digits();
    let join = |node: usize, token: &str| {
        federation.node(node, &["join", token, "--data", data.to_str().unwrap(), "--name", "n"])
    };
    let token = federation.token();
    join(0, &token).ok();
    join(1, &token).failed(REFUSED, &["this token was used before", "ask for a new one"]);

    let token = federation.operator(&["token", "--valid", "1s"]).ok();
    let expires = token.trim().parse::<Token>().unwrap().expires();
    wait_for("the end of the token", || (SystemTime::now() > expires).then_some(()));
    join(1, &token).failed(BAD_INPUT, &["the join token expired", "ask for a new one"]);

    let token = federation.token();
    join(1, &token[..token.len() - 5]).failed(BAD_INPUT, &["cut short", "expected"]);
    join(1, "hello").failed(BAD_INPUT, &["a join token begins with", "hello"]);

    // The right address with the fingerprint of another federation: somebody in between.
    let other = Federation::serve();
    let (ours, theirs): (Token, Token) = (token.parse().unwrap(), other.token().parse().unwrap());
    let mixed =
        Token::new(ours.addresses().to_vec(), theirs.authority(), ours.secret().clone(), ours.expires())
            .unwrap();
    let stderr = join(1, &mixed.to_string()).failed(REFUSED, &["certificate", federation.listen()]);
    assert!(
        stderr.contains(&ours.authority().short()) && stderr.contains(&theirs.authority().short()),
        "{stderr}"
    );
    // A token of a coordinator that is gone and was set up anew.
    let foreign =
        Token::new(ours.addresses().to_vec(), ours.authority(), theirs.secret().clone(), ours.expires())
            .unwrap();
    join(1, &foreign.to_string()).failed(REFUSED, &["does not know this token"]);

    let empty = federation.folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (folder, found) in [(empty.to_str().unwrap(), "an empty folder"), ("/nowhere/at/all", "No such file")]
    {
        let done = federation.node(1, &["join", &token, "--data", folder]);
        done.failed(BAD_INPUT, &["--data", folder, found]);
    }
    // None of this spent it.
    join(1, &token).ok();
    let nodes = federation.operator(&["node", "list", "--json"]).json();
    assert_eq!(nodes.as_array().unwrap().len(), 2);
}

#[test]
fn a_run_is_checked_before_anybody_is_asked() {
    let federation = Federation::serve();
    let start = |changes: &[(&str, &str)]| {
        let file = run_file(federation.folder.path(), changes);
        federation.operator(&["run", "start", file.to_str().unwrap(), "--json"])
    };
    start(&[("second_factor", "secnd_factor")])
        .failed(BAD_INPUT, &["run.toml", "did you mean 'second_factor'?"]);
    let tap = "/stage1/stage1.0/relu_1/Relu_output_0";
    start(&[(tap, "/stage1/none")]).failed(BAD_INPUT, &["digits", "/stage1/none"]);
    start(&[("pool = 2", "pool = 200")]).failed(BAD_INPUT, &["digits", "200"]);
    federation.operator(&["run", "show", "--json"]).failed(REFUSED, &["there are no runs yet"]);
    federation.operator(&["run", "show", "Nonsense!"]).failed(BAD_INPUT, &["Nonsense!"]);
    federation.operator(&["node", "revoke", "nobody"]).failed(BAD_INPUT, &["nobody", "exeunt node list"]);
    let policy = ["policy", "set", "--thresholds", "witened:3"];
    federation.operator(&policy).failed(BAD_INPUT, &["--thresholds", "witened:3", "expected"]);
    assert_eq!(federation.operator(&["run", "list", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn a_node_that_cannot_read_its_data_says_so_to_the_operator() {
    let mut federation = Federation::serve();
    let data = federation.folder.path().join("wrong");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("digits-images-idx3-ubyte.gz"), "no images").unwrap();
    let token = federation.token();
    federation.node(0, &["join", &token, "--data", data.to_str().unwrap(), "--name", "spoilt"]).ok();
    federation.start_node(0);
    let file = run_file(federation.folder.path(), &[("quorum = 8", "quorum = 1")]);
    federation.start_run(&file);
    let report = wait_for("the node's refusal", || {
        let report = federation.show()?;
        (!report["queries"][0]["declined"].as_array()?.is_empty()).then_some(report)
    });
    let reason = report["queries"][0]["declined"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("bad_data: ") && reason.contains("digits-"), "{reason}");
    let text = federation.operator(&["run", "show"]).ok();
    for part in ["spoilt declined: bad_data", "federation.quorum", "1 declined"] {
        assert!(text.contains(part), "'{part}' is missing in {text}");
    }
}
