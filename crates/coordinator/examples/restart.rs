//! How long a coordinator takes to be ready again: a store with 100,000 nodes and an open query with 1,000
//! contributions, closed in order and after a kill.
//!
//! `cargo run --release -p exeunt-coordinator --example restart -- [NODES] [CONTRIBUTIONS]`

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use exeunt_coordinator::Core;
use exeunt_network::Network;
use exeunt_protocol::coordinator::{Now, Ticket};
use exeunt_protocol::message::{Ack, BlobRef, Contribution, Membership};
use exeunt_protocol::spec::RunFile;
use exeunt_protocol::{DatasetVersion, NodeId, QueryId};
use exeunt_stats::packed;
use exeunt_store::{NodeRecord, RedbStore, Store as _};

const NOW: Now = Now { monotonic: Duration::ZERO, unix_ms: 1 };

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let nodes = arguments.next().transpose()?.unwrap_or(100_000);
    let contributions = arguments.next().transpose()?.unwrap_or(1000).min(nodes);
    let folder = tempfile::tempdir()?;
    let (path, killed) = (folder.path().join("store.redb"), folder.path().join("killed.redb"));
    let start = Instant::now();
    let core = prepare(&path, nodes, contributions)?;
    // What a kill leaves: a store that was never closed.
    std::fs::copy(&path, &killed)?;
    drop(core);
    let bytes = std::fs::metadata(&path)?.len();
    println!(
        "prepared in {:.1} s: {nodes} nodes, {contributions} contributions to an open query, {} MB",
        start.elapsed().as_secs_f64(),
        bytes >> 20
    );
    for (what, path) in [("closed in order", &path), ("killed", &killed)] {
        let start = Instant::now();
        let store = RedbStore::open(path)?;
        let opened = start.elapsed();
        let core = Core::open(Box::new(store), NOW)?;
        let ready = start.elapsed();
        let run = core.run_named(None)?;
        let status = core.machine().run_status(NOW, &run)?;
        println!(
            "{what}: store open after {:.2} s, ready after {:.2} s; {} nodes, {} answers",
            opened.as_secs_f64(),
            ready.as_secs_f64(),
            core.machine().members(),
            status.answers
        );
    }
    Ok(())
}

fn prepare(path: &Path, nodes: u32, contributions: u32) -> Result<Core, Box<dyn Error>> {
    let mut store = RedbStore::unsynced(path)?;
    for node in 0..nodes {
        let name = format!("node-{node}");
        let record = NodeRecord { name, enrolled_ms: 1, revoked: false, membership: Membership::Active };
        store.save_node(id(node), &record, 1)?;
    }
    let mut core = Core::open(Box::new(store), NOW)?;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let file = std::fs::read_to_string(Path::new(root).join("configs/digits.toml"))?;
    let mut file = RunFile::parse(&file, "digits.toml")?;
    file.federation.quorum = nodes;
    let network = Network::load(&Path::new(root).join("assets/digits_resnet.onnx"))?;
    let run = core.start_run(NOW, &file, &network)?;
    core.work(NOW)?;
    // The census, by whom there is one contribution each.
    let bytes = packed::encode(&[900, 450, 450]);
    for node in 0..contributions {
        let contribution = Contribution {
            run: run.clone(),
            query: QueryId(0),
            dataset: DatasetVersion(1),
            table: BlobRef::of(&bytes),
        };
        core.arrived(NOW, id(node), contribution, bytes.clone(), Ticket(u64::from(node)));
    }
    let stored = core
        .work(NOW)?
        .into_iter()
        .filter(|effect| matches!(effect, exeunt_coordinator::Effect::Acknowledge { ack: Ack::Stored, .. }));
    assert_eq!(stored.count() as u32, contributions, "every contribution is stored");
    Ok(core)
}

fn id(number: u32) -> NodeId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}
