//! `exeunt bench` with few nodes and small tables: what is measured at large works, and nothing is timed.

use std::process::Command;

use serde_json::Value;

fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_exeunt"))
        .arg("bench")
        .args(arguments)
        .arg("--json")
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one document")
}

#[test]
fn nothing_is_lost_or_counted_twice_when_the_coordinator_is_killed_after_its_last_word() {
    let report = bench(&["sessions", "--nodes", "20", "--table", "5kB", "--rounds", "3"]);
    for server in ["coordinator", "floor"] {
        assert_eq!(report[server]["acknowledged"], 60, "{server}: {report}");
    }
    assert_eq!((&report["lost"], &report["twice"], &report["exact"]), (&0.into(), &0.into(), &true.into()));
}

#[test]
fn a_long_table_is_delivered_and_added_up() {
    let report = bench(&["ingest", "--table", "3MB", "--rounds", "2"]);
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3, "{report}");
    assert!(rows.iter().all(|row| row["bytes_per_s"].as_f64().is_some_and(|rate| rate > 0.0)), "{report}");
}

#[test]
fn packed_tables_are_added_beside_plain_ones() {
    let report = bench(&["merge", "--table", "100kB", "--seconds", "0"]);
    assert_eq!(report["rows"].as_array().map(Vec::len), Some(4), "{report}");
}
