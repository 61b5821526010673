//! A federation of real processes on the digits that ship: the whole job, and what happens when parts of it die.
//!
//! Merged tables depend on the samples and the program alone, so every one of these federations must end with the
//! very bits of the same federation simulated in memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is how they say what went wrong")]

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Federation, assert_documented, digits, exeunt, repository, run, wait_for};
use exeunt_data::Reader;
use exeunt_protocol::operator::RunReport;
use exeunt_simulate::{Plan, in_memory};
use ndarray::{Array1, Array2};
use ndarray_npy::NpzReader;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

/// The run as it must come out: the same shares, in one process and without a socket.
fn undisturbed(file: &Path, nodes: u32, partition: &str, seed: u64) -> (Plan, RunReport) {
    let mut plan = Plan::read(file, None, Some(&digits())).unwrap();
    plan.nodes = nodes;
    plan.partition = partition.parse().unwrap();
    plan.seed = seed;
    let report = in_memory(&plan, &mut |_, _, _| {}).unwrap().report;
    (plan, report)
}

/// What a run found, without what differs from one federation to the next: ids, names, bytes and times.
fn findings(report: &Value) -> Value {
    let nodes = report["nodes"].as_array().unwrap().iter().map(|node| {
        let keys = [
            "samples",
            "withheld_classes",
            "without_second_moments",
            "withheld",
            "network_accuracy",
            "curve",
        ];
        keys.map(|key| node[key].clone())
    });
    // Ids order the nodes, and are made of random keys.
    let mut nodes: Vec<String> = nodes.map(|node| json!(node).to_string()).collect();
    nodes.sort_unstable();
    let queries = report["queries"].as_array().unwrap().iter();
    let queries: Vec<Value> = queries
        .map(|query| {
            let count = |key: &str| query[key].as_array().unwrap().len();
            json!([query["query"], query["name"], query["withdrawn"], count("answered"), count("declined")])
        })
        .collect();
    json!({ "digest": report["digest"], "result": report["result"], "exits": report["exits"], "snapshot": report["snapshot"],
            "nodes": nodes, "queries": queries })
}

#[track_caller]
fn assert_same(found: &Value, expected: &RunReport) {
    let expected = serde_json::to_value(expected).unwrap();
    assert_eq!(found["digest"], expected["digest"], "digest of the merged tables");
    assert_eq!(findings(found), findings(&expected));
}

/// Writes images of the evaluation part as PNG files; returns them with their labels.
fn write_images(plan: &Plan, folder: &Path, count: usize) -> Vec<(PathBuf, u32)> {
    let classes = plan.file.task.names();
    let mut reader = Reader::new(&plan.data, &plan.file.data, plan.file.seed, &classes);
    let samples = reader.part(&plan.file.data.evaluation).unwrap();
    let write = |i: usize| {
        let image = samples.load(i).unwrap();
        let (width, height) = (u32::try_from(image.width).unwrap(), u32::try_from(image.height).unwrap());
        let path = folder.join(format!("image-{i}.png"));
        image::GrayImage::from_raw(width, height, image.to_grey().pixels).unwrap().save(&path).unwrap();
        (path, samples.labels()[i])
    };
    (0..count).map(write).collect()
}

#[test]
fn the_whole_job_on_eight_node_processes() {
    let file = repository().join("configs/digits.toml");
    let (plan, expected) = undisturbed(&file, 8, "dirichlet(1.0)", 1);
    let mut federation = Federation::serve();
    let text = federation.operator(&["node", "list"]).ok();
    assert!(text.contains("exeunt token"), "{text}");
    let token = federation.operator(&["token", "--valid", "5m", "--label", "spare", "--json"]).json();
    assert_documented("token", &token);
    assert!(token["token"].as_str().unwrap().starts_with("exeunt1") && token["expires"].is_u64());
    for node in 0..8 {
        let joined = federation.join(node, 8, "dirichlet(1.0):1").ok();
        assert!(joined.contains(&format!("joined as 'node-{node}', short id ")), "{joined}");
        federation.start_node(node);
    }
    let run = federation.start_run(&file);
    assert_eq!(run, "digits-1");
    let report = federation.operator(&["run", "show", "--wait", "--json"]).json();
    assert_documented("run show", &report);
    assert_same(&report, &expected);
    assert!(report["result"]["network_accuracy"].as_f64().unwrap() > 0.9);
    assert!(
        report["nodes"].as_array().unwrap().iter().all(|node| node["traffic"][0]["up"].as_u64() > Some(0))
    );

    policies_reach_the_nodes(&federation, &plan);
    what_lists_show(&federation, &report);
    the_snapshot(&federation, &report, &plan);
    what_an_operator_decides(&federation);
    the_end(&mut federation);
}

fn policies_reach_the_nodes(federation: &Federation, plan: &Plan) {
    let policy = federation.operator(&["policy", "set", "--max-drop", "1", "--json"]).json();
    assert_documented("policy set", &policy);
    assert_eq!(
        (&policy["version"], &policy["asked"]),
        (&json!(1), &json!("at most 1 points worse on the calibration part"))
    );
    let (cost, accuracy) = (policy["cost"].as_f64().unwrap(), policy["accuracy"].as_f64().unwrap());
    assert!(cost > 0.0 && cost < 0.9 && accuracy > 0.85, "{policy}");
    let status = wait_for("the policy at a node", || {
        let status = federation.node(3, &["status", "--json"]).json();
        (status["policy"]["version"] == json!(1)).then_some(status)
    });
    assert_documented("status", &status);
    assert_eq!(
        (&status["running"], &status["report"]["connected"], &status["settings"]["name"]),
        (&json!(true), &json!(true), &json!("node-3"))
    );

    let images = write_images(plan, federation.folder.path(), 40);
    let files: Vec<&str> = images.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    let lines = federation.node(3, &[&["classify", "--json"], files.as_slice()].concat()).ok();
    let verdicts: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), 40);
    assert_documented("classify", &verdicts[0]);
    let taps: Vec<&str> = plan.file.exits.named().iter().map(|exit| exit.tap.as_str()).collect();
    let (mut right, mut early) = (0, 0);
    for (verdict, (path, label)) in verdicts.iter().zip(&images) {
        assert_eq!((&verdict["file"], &verdict["policy_version"]), (&json!(path), &json!(1)));
        right += u32::from(verdict["class_id"] == json!(label));
        let cost = verdict["cost"].as_f64().unwrap();
        match verdict["tap"].as_str() {
            Some(tap) => {
                early += 1;
                assert!(taps.contains(&tap) && cost < 1.0, "{verdict}");
            }
            None => assert!(cost >= 1.0, "{verdict}"),
        }
    }
    assert!(right >= 34, "{right} of 40 right");
    assert!(early >= 10, "{early} of 40 left early");
    let text = federation.node(3, &["classify", files[0]]).ok();
    assert!(text.lines().count() == 1 && text.contains("margin") && text.contains("image-0.png"), "{text}");

    let refused = federation.operator(&["policy", "set", "--fraction", "1.5"]);
    refused.failed(4, &["1.5"]);
    let refused = federation.operator(&["policy", "set", "--thresholds", "off,off"]);
    refused.failed(4, &["2", "8"]);
    let all_off = ["off"; 8].join(",");
    let text = federation.operator(&["policy", "set", "--thresholds", &all_off]).ok();
    assert!(text.contains("policy 2 of digits-1 is in force") && text.contains("cost 1.000"), "{text}");
}

fn what_lists_show(federation: &Federation, report: &Value) {
    let nodes = federation.operator(&["node", "list", "--json"]).json();
    let nodes = nodes.as_array().unwrap();
    assert_eq!(nodes.len(), 8);
    assert_documented("node list", &nodes[0]);
    assert!(nodes.iter().all(|node| node["connected"] == json!(true) && node["revoked"] == json!(false)));
    let status = federation.node(0, &["status", "--json"]).json();
    let mine = nodes.iter().find(|node| node["name"] == json!("node-0")).unwrap();
    assert_eq!((&mine["short"], &mine["node"]), (&status["report"]["short"], &status["report"]["id"]));

    let runs = federation.operator(&["run", "list", "--json"]).json();
    assert_documented("run list", &runs[0]);
    assert_eq!((&runs[0]["run"], &runs[0]["standing"]), (&json!("digits-1"), &json!("ready")));
    let text = federation.operator(&["run", "show", "digits-1"]).ok();
    for part in [
        "run digits-1: ready",
        "bare network",
        "trade-off",
        "node-7",
        "at most 1 points worse",
        "digest of the merged",
    ] {
        assert!(text.contains(part), "'{part}' is missing in {text}");
    }
    // Measuring two policies has sealed two more tables.
    let now = federation.show().expect("the coordinator runs");
    assert_ne!(now["digest"], report["digest"]);
    assert!(text.contains(now["digest"].as_str().unwrap()), "{text}");
}

fn the_snapshot(federation: &Federation, report: &Value, plan: &Plan) {
    let path = federation.folder.path().join("means.npz");
    federation.operator(&["snapshot", "export", "--out", path.to_str().unwrap()]).ok();
    let mut archive = NpzReader::new(File::open(&path).unwrap()).unwrap();
    for e in 0..plan.file.exits.named().len() {
        let means: Array2<f32> = archive.by_name(&format!("mean{e}")).unwrap();
        let counts: Array1<u64> = archive.by_name(&format!("count{e}")).unwrap();
        let dim = report["exits"][e]["dim"].as_u64().unwrap();
        assert_eq!((means.nrows(), means.ncols() as u64), (10, dim));
        assert!(means.iter().all(|mean| mean.is_finite()) && means.iter().any(|mean| *mean != 0.0));
        let withheld: u64 =
            report["nodes"].as_array().unwrap().iter().map(|n| n["withheld_classes"].as_u64().unwrap()).sum();
        // Every withheld class has one or two samples under the floor of three.
        let missing = 900 - counts.sum();
        assert!(withheld <= missing && missing <= 2 * withheld, "{missing} missing, {withheld} withheld");
    }
    let about = std::fs::read(path.with_extension("json")).unwrap();
    let about: Value = serde_json::from_slice(&about).unwrap();
    assert_eq!((&about["run"], &about["heads"]), (&json!("digits-1"), &report["snapshot"]));
    assert_eq!(about["classes"].as_array().unwrap().len(), 10);
}

fn what_an_operator_decides(federation: &Federation) {
    let operator = |arguments: &[&str]| federation.operator(arguments);
    operator(&["policy", "save", "careful", "--version", "1"]).ok();
    operator(&["policy", "apply", "careful", "--node", "node-6", "--json"]).ok();
    let policies = operator(&["policy", "list", "--json"]).json();
    assert_documented("policy list", &policies);
    let of = |version: usize| &policies["policies"][version - 1];
    assert_eq!(of(3)["policy"], of(1)["policy"]);
    wait_for("a policy of its own at a node", || {
        let node = operator(&["node", "show", "node-6", "--json"]).json();
        assert_documented("node show", &node);
        let policy = &node["report"]["policy"];
        (policy == &json!({ "wanted": 3, "overridden": true, "using": 3 })).then_some(())
    });
    operator(&["policy", "clear", "node-6"]).ok();
    operator(&["policy", "forget", "careful"]).ok();
    operator(&["policy", "apply", "careful"]).failed(4, &["careful", "digits-1"]);
    assert_eq!(operator(&["node", "live", "--json"]).json(), json!([]));

    operator(&["node", "rename", "node-7", "porch"]).ok();
    operator(&["node", "quarantine", "porch"]).ok();
    operator(&["node", "approve", "porch"]).failed(4, &["porch", "quarantined", "waits for approval"]);
    let text = operator(&["node", "list"]).ok();
    assert!(text.contains("porch") && text.contains("quarantined") && !text.contains("node-7"), "{text}");
    operator(&["node", "release", "porch"]).ok();

    operator(&["run", "remove", "porch"]).ok();
    let report = operator(&["run", "show", "--wait", "--json"]).json();
    assert_eq!(report["removed"].as_array().unwrap().len(), 1);
    let snapshots = operator(&["snapshot", "list", "--json"]).json();
    assert_documented("snapshot list", &snapshots[1]);
    let cohorts = [0, 1].map(|at| snapshots[at]["cohort"].as_array().unwrap().len());
    assert_eq!(cohorts, [8, 7]);
    let difference = operator(&["snapshot", "diff", "1", "2", "--json"]).json();
    assert_documented("snapshot diff", &difference);
    assert_eq!(difference["left"], report["removed"]);
    let text = operator(&["snapshot", "diff", "1", "2"]).ok();
    assert!(text.contains("left: porch") && text.contains("accuracy at equal cost"), "{text}");

    // From another machine, with nothing but what was handed out.
    let folder = federation.folder.path().join("laptop");
    operator(&["operator", "anna", "--out", folder.to_str().unwrap()]).ok();
    let elsewhere = run(&mut exeunt(&["--connect", folder.to_str().unwrap(), "run", "list"])).ok();
    assert!(elsewhere.contains("digits-1"), "{elsewhere}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_ends_the_program_quietly() {
    let model = repository().join("assets/digits_resnet.onnx");
    let err = tempfile::NamedTempFile::new().unwrap();
    let mut child = exeunt(&["inspect", model.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .stderr(err.reopen().unwrap())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_to_string(err.path()).unwrap(), "");
}

fn the_end(federation: &mut Federation) {
    federation.operator(&["node", "revoke", "node-5"]).ok();
    // A live connection ends at once, and the node does not come back.
    assert_eq!(federation.nodes[5].wait().code(), Some(4));
    assert!(federation.nodes[5].text().contains("revoked"), "{}", federation.nodes[5].text());
    let nodes = federation.operator(&["node", "list", "--json"]).json();
    let revoked: Vec<&Value> =
        nodes.as_array().unwrap().iter().filter(|node| node["revoked"] == json!(true)).collect();
    assert_eq!((revoked.len(), &revoked[0]["name"]), (1, &json!("node-5")));
    federation.start_node(5);
    assert_eq!(federation.nodes[5].wait().code(), Some(4), "{}", federation.nodes[5].text());

    federation.operator(&["run", "stop", "digits-1"]).ok();
    let runs = federation.operator(&["run", "list", "--json"]).json();
    assert_eq!(runs[0]["standing"], json!("stopped"));
    federation.operator(&["policy", "set", "--fraction", "0.3"]).failed(4, &["digits-1", "stopped"]);
    let file = repository().join("configs/digits.toml");
    let started = federation.operator(&["run", "start", file.to_str().unwrap(), "--json"]).json();
    assert_documented("run start", &started);
    assert_eq!(started["run"], json!("digits-2"));
    federation.operator(&["run", "show", "nothing-7"]).failed(4, &["nothing-7", "digits-2"]);
    doctors(federation);
}

/// What `doctor` finds, and whether it is content.
fn checks(done: &Value) -> (bool, impl Fn(&str) -> Value + use<'_>) {
    let of = move |name: &str| {
        let checks = done["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["check"] == json!(name));
        found.cloned().unwrap_or_else(|| panic!("no check '{name}' in {done}"))
    };
    (done["healthy"] == json!(true), of)
}

/// Both doctors are content while everything runs, and with the store once the coordinator was stopped in order; a node
/// without its coordinator is not.
fn doctors(federation: &mut Federation) {
    let found = federation.operator(&["doctor", "--json"]).json();
    assert_documented("doctor", &found);
    let (healthy, check) = checks(&found);
    assert!(healthy, "{found}");
    assert_eq!((&check("store")["outcome"], &check("service")["running"]), (&json!("note"), &json!(true)));
    let found = federation.node(3, &["doctor", "--json"]).json();
    assert_documented("doctor", &found);
    let (healthy, check) = checks(&found);
    assert!(healthy, "{found}");
    assert_eq!(
        (&check("service")["connected"], &check("coordinator")["reached"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(check("policy")["outcome"], json!("good"));

    federation.coordinator.signal("TERM");
    assert_eq!(federation.coordinator.wait().code(), Some(0), "{}", federation.coordinator.text());
    let found = federation.operator(&["doctor", "--json"]).json();
    let (healthy, check) = checks(&found);
    let store = check("store");
    assert!(healthy && store["outcome"] == json!("good"), "{found}");
    assert_eq!((&store["tables"]["nodes"], &store["problem_count"]), (&json!(8), &json!(0)));
    let done = federation.node(3, &["doctor"]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stdout.contains("BAD   coordinator"), "{}", done.stdout);
}

#[test]
fn what_needs_no_coordinator_prints_what_is_documented() {
    let root = repository();
    let network = root.join("assets/digits_resnet.onnx");
    let inspected = run(&mut exeunt(&["inspect", network.to_str().unwrap(), "--json"])).json();
    assert_documented("inspect", &inspected);
    assert_eq!(inspected["output"]["shape"], json!([10]));
    let place =
        ["inspect", network.to_str().unwrap(), "--place", "3", "--pool", "2", "--engine", "tract", "--json"];
    let placed = &run(&mut exeunt(&place)).json()["placed"];
    let places = placed["places"].as_array().unwrap();
    assert_eq!(places.iter().filter(|place| place["exit"].is_u64()).count(), 3);
    assert!(
        places.iter().all(|place| place["until_ms"].as_f64() <= placed["network_ms"].as_f64()),
        "{placed}"
    );
    let file = root.join("configs/digits.toml");
    let simulate = ["simulate", file.to_str().unwrap(), "--nodes", "3", "--json"];
    let simulated = run(&mut exeunt(&simulate)).json();
    assert_documented("simulate", &simulated);
    assert_eq!(simulated["samples"]["statistics"], json!(900));
    let (times, curve) = (&simulated["times"], simulated["curve"].as_array().unwrap());
    assert_eq!(times["nodes"], json!(3));
    assert_eq!(times["curve_ms"].as_array().unwrap().len(), curve.len());
    let (first, last) = (&times["curve_ms"][0], &times["curve_ms"][curve.len() - 1]);
    assert!(first.as_f64() < last.as_f64() && last == &times["network_ms"], "{times}");
}

#[test]
fn exits_left_to_the_machine_are_named_before_the_run_starts() {
    let named = std::fs::read_to_string(repository().join("configs/digits.toml")).unwrap();
    let (begin, end) = (named.find("exits = [").unwrap(), named.find("\n]\n").unwrap());
    let text = format!("{}exits = {{ auto = 3 }}{}", &named[..begin], &named[end + 2..]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auto.toml");
    std::fs::write(&file, text).unwrap();
    let network = repository().join("assets/digits_resnet.onnx");
    let (file, network, data) = (file.to_str().unwrap(), network.to_str().unwrap(), digits());
    let arguments = ["--network", network, "--data", data.to_str().unwrap(), "--nodes", "2", "--json"];
    let simulated = run(&mut exeunt(&[&["simulate", file], &arguments[..]].concat())).json();
    assert_eq!(simulated["exits"].as_array().unwrap().len(), 3);
}

/// Rounds of killing; EXEUNT_KILL_ROUNDS for more. EXEUNT_SEED repeats the first round of an earlier time.
#[test]
fn a_coordinator_and_two_nodes_killed_in_the_middle_change_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let first = number("EXEUNT_SEED").unwrap_or_else(rand::random);
    let rounds = number("EXEUNT_KILL_ROUNDS").unwrap_or(1);
    let mut federation = Federation::with_nodes(4, "dirichlet(1.0):3");
    let file = federation.run_file(&[("quorum = 8", "quorum = 4")]);
    let (_, expected) = undisturbed(&file, 4, "dirichlet(1.0)", 3);
    let mut kills = 0;
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        eprintln!("EXEUNT_SEED={seed}");
        let start = std::time::Instant::now();
        federation.start_run(&file);
        kills += kill_some(&mut federation, &mut StdRng::seed_from_u64(seed));
        let report = federation.ready();
        assert_same(&report, &expected);
        assert!(report["late"].as_array().unwrap().is_empty(), "{}", report["late"]);
        eprintln!("  {:.1} s", start.elapsed().as_secs_f64());
    }
    println!("{rounds} rounds, {kills} kills: nothing lost, nothing counted twice, nobody stuck");
}

/// Who dies, when, and for how long. The moments are random and not waited for: that is the point. Returns how many
/// were killed.
fn kill_some(federation: &mut Federation, rng: &mut StdRng) -> usize {
    enum Event {
        Kill(Option<usize>),
        Restart(Option<usize>),
    }
    let first = rng.random_range(0..4);
    let second = (first + rng.random_range(1..4)) % 4;
    let mut events = Vec::new();
    for victim in [None, Some(first), Some(second)] {
        let at = rng.random_range(0..2_500);
        events.push((at, Event::Kill(victim)));
        events.push((at + rng.random_range(0..1_000), Event::Restart(victim)));
    }
    events.sort_by_key(|(at, _)| *at);
    let (mut now, mut kills) = (0, 0);
    for (at, event) in events {
        kills += usize::from(matches!(event, Event::Kill(_)));
        std::thread::sleep(Duration::from_millis(at - now));
        now = at;
        match event {
            Event::Kill(None) => federation.coordinator.kill(),
            Event::Kill(Some(node)) => federation.nodes[node].kill(),
            Event::Restart(None) => federation.restart_coordinator(),
            Event::Restart(Some(node)) => federation.start_node(node),
        }
    }
    kills
}

/// Nodes are ahead of the coordinator that comes back: what it no longer has is asked again.
#[test]
fn a_backup_made_in_the_middle_of_a_run_ends_with_the_same_tables() {
    let mut federation = Federation::with_nodes(3, "dirichlet(1.0):3");
    let file = federation.run_file(&[("quorum = 8", "quorum = 3")]);
    let (_, expected) = undisturbed(&file, 3, "dirichlet(1.0)", 3);
    federation.nodes[2].kill();
    federation.start_run(&file);
    wait_for("two of three answers", || (federation.show()?["answers"] == json!(2)).then_some(()));
    let backup = federation.folder.path().join("backup");
    let backup = backup.to_str().unwrap();
    let made = federation.operator(&["backup", backup, "--json"]).json();
    assert_documented("backup", &made);
    assert_eq!((&made["folder"], &made["on_coordinator"]), (&json!(backup), &json!(false)));
    let left = std::fs::read_dir(federation.home().join("backups")).unwrap().count();
    assert_eq!(left, 0, "the backup was moved, not copied");
    federation.operator(&["backup", backup]).failed(2, &["is there already"]);
    federation.operator(&["restore", backup, "--replace"]).failed(2, &["is running", "stop it first"]);
    federation.start_node(2);
    assert_same(&federation.ready(), &expected);

    // From another machine, where the backup does not go.
    let laptop = federation.folder.path().join("laptop");
    let laptop = laptop.to_str().unwrap();
    federation.operator(&["operator", "anna", "--out", laptop]).ok();
    run(&mut exeunt(&["--connect", laptop, "backup", "here"]))
        .failed(2, &["--connect", "coordinator's machine"]);
    let there = run(&mut exeunt(&["--connect", laptop, "backup", "--json"])).json();
    assert_eq!(there["on_coordinator"], json!(true));
    let there = PathBuf::from(there["folder"].as_str().unwrap());
    assert!(there.starts_with(federation.home().join("backups")) && there.join("store.redb").is_file());

    // The coordinator dies, its disk is lost, and nobody but it has heard that the run has ended.
    federation.coordinator.kill();
    let last = federation.folder.path().join("last");
    federation.operator(&["backup", last.to_str().unwrap()]).ok();
    std::fs::rename(federation.home(), federation.folder.path().join("lost")).unwrap();
    let restored = federation.operator(&["restore", backup, "--json"]).json();
    assert_documented("restore", &restored);
    assert_eq!((&restored["made_ms"], &restored["set_aside"]), (&made["made_ms"], &Value::Null));
    federation.restart_coordinator();
    assert_same(&federation.ready(), &expected);

    // The backup of the dead one, whose store was not closed, has the run's end in it.
    federation.coordinator.kill();
    federation.operator(&["restore", last.to_str().unwrap()]).failed(2, &["--replace"]);
    let text = federation.operator(&["restore", last.to_str().unwrap(), "--replace"]).ok();
    assert!(text.contains("replaced-"), "{text}");
    federation.restart_coordinator();
    assert_same(&federation.show().unwrap(), &expected);
}

#[test]
fn what_the_default_floors_withhold_is_named_and_heads_still_fit() {
    let federation = Federation::with_nodes(4, "dirichlet(0.3):0");
    let file = federation.run_file(&[
        ("quorum = 8", "quorum = 2"),
        ("min_count = 3\n", ""),
        ("second_factor = 1\n", ""),
    ]);
    let (_, expected) = undisturbed(&file, 4, "dirichlet(0.3)", 0);
    federation.start_run(&file);
    let report = federation.ready();
    assert_same(&report, &expected);

    let nodes = report["nodes"].as_array().unwrap();
    let said = |what: &str, why: &str| {
        nodes.iter().find(|node| {
            node["withheld"].as_array().unwrap().iter().any(|withheld| {
                withheld["what"].as_str().unwrap().contains(what)
                    && withheld["why"].as_str().unwrap().contains(why)
            })
        })
    };
    let classes = said("class", "fewer than 10 samples").expect("a class is withheld somewhere");
    let second = said("second moments of exit", "needed (floors.second_factor)").expect("and second moments");
    assert!(classes["withheld_classes"].as_u64() > Some(0));
    assert!(!second["without_second_moments"].as_array().unwrap().is_empty());
    for exit in report["result"]["exits"].as_array().unwrap() {
        assert!(exit["accuracy"]["class-means"].as_f64() > Some(0.3), "{exit}");
    }
    assert!(report["result"]["curve"].as_array().is_some_and(|points| points.len() > 3));

    let text = federation.operator(&["run", "show"]).ok();
    for part in ["withheld at the nodes", "fewer than 10 samples each", "second moments of exit"] {
        assert!(text.contains(part), "'{part}' is missing in {text}");
    }
}

#[test]
fn a_node_that_is_down_is_waited_for_by_name_until_the_deadline() {
    let mut federation = Federation::with_nodes(3, "uniform:5");
    let file = federation.run_file(&[("quorum = 8", "quorum = 2"), ("deadline_s = 60", "deadline_s = 4")]);
    federation.nodes[1].kill();
    federation.start_run(&file);
    let waiting = wait_for("the run to wait for the node that is down alone", || {
        let report = federation.show()?;
        let waiting = report["waiting_for"].as_array()?;
        (waiting.len() == 1 && report["answers"] == json!(2)).then_some(report)
    });
    let missing = &waiting["waiting_for"][0];
    assert_eq!(missing["name"], json!("node-1"));
    assert!(waiting["deadline_in_s"].as_u64().is_some_and(|s| s <= 4), "{waiting}");
    // The coordinator may not have noticed yet that the node is gone; then it tells what it heard last.
    let reason = missing["reason"].as_str().unwrap();
    assert!(!reason.is_empty());
    let text = wait_for("the same in words", || {
        let text = federation.operator(&["run", "show"]).ok();
        text.contains("what keeps it").then_some(text)
    });
    assert!(text.contains("node-1"), "{text}");

    // The deadline closes the query without it, and the next one waits for it again.
    let census = wait_for("the census to close", || {
        let report = federation.show()?;
        (report["queries"].as_array()?.len() > 1).then(|| report["queries"][0].clone())
    });
    assert_eq!(census["answered"].as_array().unwrap().len(), 2);
    // Back again, it is asked what is open.
    federation.start_node(1);
    let report = federation.ready();
    assert_eq!(
        report["queries"].as_array().unwrap().last().unwrap()["answered"].as_array().unwrap().len(),
        3
    );
}

#[test]
fn an_answer_after_the_deadline_is_stored_and_shown() {
    let federation = Federation::with_nodes(3, "uniform:5");
    let file = federation.run_file(&[("quorum = 8", "quorum = 2"), ("deadline_s = 60", "deadline_s = 3")]);
    let answers = |federation: &Federation| federation.nodes[0].text().matches("answered q").count();
    federation.start_run(&file);
    // The coordinator is frozen until node 0 has an answer that it cannot deliver; then the node is.
    let query = wait_for("an answer that is not delivered", || {
        let before = answers(&federation);
        federation.coordinator.signal("STOP");
        let end = std::time::Instant::now() + Duration::from_millis(1_500);
        while answers(&federation) == before && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let caught = answers(&federation) > before;
        if caught {
            federation.nodes[0].signal("STOP");
        }
        federation.coordinator.signal("CONT");
        let log = federation.nodes[0].text();
        let last = log.rsplit("answered ").next().and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        let report = federation.show()?;
        let standing = report["standing"]["standing"].as_str()?;
        assert!(standing != "ready", "the run ended before an answer was caught");
        if !caught {
            return None;
        }
        let query = report["queries"].as_array()?.last()?["query"].clone();
        let waits = report["waiting_for"].as_array()?.iter().any(|w| w["name"] == json!("node-0"));
        if waits && last == query.as_u64().map(|q| format!("q{q}")) {
            return Some(query);
        }
        federation.nodes[0].signal("CONT");
        None
    });
    let closed = wait_for("the query to close without it", || {
        let report = federation.show()?;
        let queries = report["queries"].as_array()?;
        (queries.last()?["query"] != query).then(|| report.clone())
    });
    let index = usize::try_from(query.as_u64().unwrap()).unwrap();
    assert_eq!(closed["queries"][index]["answered"].as_array().unwrap().len(), 2);
    federation.nodes[0].signal("CONT");
    let report = federation.ready();
    let late = report["late"].as_array().unwrap().iter().find(|late| late["query"] == query);
    assert_eq!(late.expect("the late answer")["name"], json!("node-0"));
    let text = federation.operator(&["run", "show"]).ok();
    assert!(text.contains("node-0 answered after the query had closed"), "{text}");
}

/// Whether a process is there and has not ended.
#[cfg(target_os = "linux")]
fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name in brackets; a zombie has ended.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// A demo with two nodes at work, in a folder for temporary files of its own; the nodes' processes.
#[cfg(target_os = "linux")]
fn demo_at_work(folder: &Path) -> (common::Process, Vec<u64>) {
    let mut command = exeunt(&["demo", "--headless", "--nodes", "2"]);
    let demo = common::Process::start(command.env("TMPDIR", folder), folder.with_extension("log"));
    let pids = wait_for("the demo's node processes", || {
        let made = std::fs::read_dir(folder).ok()?.flatten().next()?.path();
        let pid = |node: usize| {
            let status = std::fs::read(made.join(format!("node-{node}/status.json"))).ok()?;
            serde_json::from_slice::<Value>(&status).ok()?["pid"].as_u64()
        };
        Some(vec![pid(0)?, pid(1)?])
    });
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{}", demo.text());
    (demo, pids)
}

#[test]
#[cfg(target_os = "linux")]
fn a_demo_that_is_told_to_stop_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("temporary");
    std::fs::create_dir(&place).unwrap();
    for signal in ["TERM", "INT"] {
        let (mut demo, nodes) = demo_at_work(&place);
        demo.signal(signal);
        assert_eq!(demo.exit_code(), 130, "{}", demo.text());
        assert!(!nodes.iter().any(|pid| is_alive(*pid)), "{nodes:?}");
        let left: Vec<_> = std::fs::read_dir(&place).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn nodes_of_a_demo_that_is_killed_end_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("temporary");
    std::fs::create_dir(&place).unwrap();
    let (mut demo, nodes) = demo_at_work(&place);
    demo.kill();
    wait_for("the end of the demo's nodes", || (!nodes.iter().any(|pid| is_alive(*pid))).then_some(()));
}
