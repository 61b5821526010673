//! Dependencies between our crates point one way (ARCHITECTURE.md, "The map").

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Lower crates first; a crate may use those before it in its list, and no other of ours.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("exeunt-stats", &[]),
    ("exeunt-exits", &["stats"]),
    ("exeunt-protocol", &["stats", "exits"]),
    ("exeunt-network", &["stats"]),
    ("exeunt-data", &["stats", "exits", "protocol"]),
    ("exeunt-link", &["stats"]),
    ("exeunt-store", &["stats", "exits", "protocol"]),
    ("exeunt-coordinator", &["stats", "exits", "protocol", "network", "link", "store"]),
    ("exeunt-node", &["stats", "exits", "protocol", "network", "data", "link"]),
    ("exeunt-dashboard", &["stats", "exits", "protocol"]),
    (
        "exeunt-simulate",
        &["stats", "exits", "protocol", "network", "data", "link", "store", "coordinator", "node"],
    ),
    ("exeunt-fuzzed", &["stats", "exits", "protocol", "network", "data", "link"]),
    (
        "exeunt",
        &[
            "stats",
            "exits",
            "protocol",
            "network",
            "data",
            "link",
            "store",
            "coordinator",
            "node",
            "simulate",
            "dashboard",
        ],
    ),
];

/// Libraries that belong in few places: quinn and rustls to `link`, engines to `network`, HTTP to `node`, windows to no
/// headless crate.
const CONFINED: [(&str, &[&str]); 13] = [
    ("quinn", &["exeunt-link"]),
    ("rustls", &["exeunt-link"]),
    ("rcgen", &["exeunt-link"]),
    ("tract-onnx", &["exeunt-network"]),
    ("hyper", &["exeunt-node"]),
    ("redb", &["exeunt-store"]),
    ("image", &["exeunt-data"]),
    ("egui", &["exeunt-dashboard", "exeunt"]),
    ("egui_plot", &["exeunt-dashboard"]),
    ("egui_table", &["exeunt-dashboard"]),
    ("eframe", &["exeunt"]),
    ("winit", &["exeunt"]),
    ("rfd", &["exeunt"]),
];

/// Never in the pure crates.
const IMPURE: [&str; 7] = ["tokio", "quinn", "rand", "rand_chacha", "getrandom", "redb", "tract-onnx"];

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().exec().expect("cargo metadata")
}

fn used(package: &Package) -> BTreeSet<String> {
    let normal = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
    normal.map(|d| d.name.clone()).collect()
}

#[test]
fn our_crates_depend_in_one_direction() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, BTreeSet<String>> = MAY_USE
        .iter()
        .map(|(name, uses)| (*name, uses.iter().map(|u| format!("exeunt-{u}")).collect()))
        .collect();
    for package in metadata.workspace_packages() {
        let allowed = allowed
            .get(package.name.as_str())
            .unwrap_or_else(|| panic!("{} is not on the map", package.name));
        let ours: BTreeSet<String> = used(package).into_iter().filter(|d| d.starts_with("exeunt")).collect();
        let extra: Vec<_> = ours.difference(allowed).collect();
        assert!(extra.is_empty(), "{} must not use {extra:?}", package.name);
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    for package in metadata().workspace_packages() {
        let used = used(package);
        for (library, homes) in CONFINED {
            let at_home = homes.contains(&package.name.as_str());
            assert!(at_home || !used.contains(library), "{} must not use {library}", package.name);
        }
        if ["exeunt-stats", "exeunt-exits", "exeunt-protocol", "exeunt-dashboard"]
            .contains(&package.name.as_str())
        {
            for library in IMPURE {
                assert!(!used.contains(library), "{} is pure and must not use {library}", package.name);
            }
        }
    }
}
