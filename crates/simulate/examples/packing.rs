//! Bytes per number of the tables of a real run as they travel, beside plain ones and general compressors.
//!
//! `cargo run --release -p exeunt-simulate --example packing -- [RUN.toml [NODES]]`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;

use exeunt_data::Partition;
use exeunt_exits::Query;
use exeunt_simulate::{LocalFederation, Plan};
use exeunt_stats::packed;
use exeunt_store::{RedbStore, Store as _};

/// Level of zstd, and of deflate: what each does by default.
const ZSTD: i32 = 3;
/// The most that zstd does without a larger window.
const ZSTD_MOST: i32 = 19;

/// What the tables of one kind of query take.
#[derive(Default)]
struct Sizes {
    tables: usize,
    numbers: usize,
    ways: BTreeMap<&'static str, usize>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().map_or_else(|| root.join("configs/digits.toml"), PathBuf::from);
    let mut plan = Plan::read(&file, None, None)?;
    plan.nodes = arguments.next().map(|text| text.parse()).transpose()?.unwrap_or(4);
    (plan.partition, plan.seed) = (Partition::Dirichlet(1.0), 1);
    plan.close_membership();

    let folder = tempfile::tempdir()?;
    let federation = LocalFederation::start(folder.path()).await?;
    for place in federation.join(&plan, 1).await? {
        tokio::spawn(exeunt_node::run(exeunt_node::Home::new(place.home), std::future::pending()));
    }
    let run = federation.start_run(&plan).await?;
    federation.wait(&run, |_| {}).await?;
    federation.stop().await?;

    let store = RedbStore::open(folder.path().join("coordinator/store.redb"))?;
    let mut found: BTreeMap<&'static str, Sizes> = BTreeMap::new();
    for (id, seal) in store.seals(&run)? {
        let asked = seal.asked.ok_or("a seal does not say what was asked")?;
        let body = store.read_blob(asked, 0, usize::MAX)?.ok_or("a query is gone")?;
        let sizes = found.entry(Query::decode(&body)?.name()).or_default();
        for (node, _, digest) in &seal.cohort {
            let packed = store.contribution(&run, id, *node, *digest)?.ok_or("a table is gone")?;
            sizes.add(&packed, usize::try_from(seal.cells)?)?;
        }
    }
    println!("{}, {} nodes: bytes per number", file.display(), plan.nodes);
    for (query, sizes) in found {
        print!("{query}: {} tables of {} numbers", sizes.tables, sizes.numbers / sizes.tables.max(1));
        for (way, bytes) in &sizes.ways {
            print!("; {way} {:.3}", *bytes as f64 / sizes.numbers as f64);
        }
        println!();
    }
    Ok(())
}

impl Sizes {
    fn add(&mut self, packed: &[u8], cells: usize) -> Result<(), Box<dyn Error>> {
        let numbers = packed::decode(packed, cells)?;
        let plain: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let width = width(&numbers);
        let natural: Vec<u8> =
            numbers.iter().flat_map(|number| number.to_le_bytes().into_iter().take(width)).collect();
        let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        deflated.write_all(&natural)?;
        let ways = [
            ("0 packed", packed.len()),
            ("1 eight bytes each", plain.len()),
            ("2 as wide as the widest", natural.len()),
            ("3 eight bytes, zstd", zstd::bulk::compress(&plain, ZSTD)?.len()),
            ("4 widest, zstd", zstd::bulk::compress(&natural, ZSTD)?.len()),
            ("5 widest, zstd 19", zstd::bulk::compress(&natural, ZSTD_MOST)?.len()),
            ("6 widest, deflate", deflated.finish()?.len()),
            ("7 packed, then zstd 19", zstd::bulk::compress(packed, ZSTD_MOST)?.len()),
        ];
        for (way, bytes) in ways {
            *self.ways.entry(way).or_default() += bytes;
        }
        self.tables += 1;
        self.numbers += cells;
        Ok(())
    }
}

/// Bytes, of 1, 2, 4 and 8, that hold every number.
fn width(numbers: &[i64]) -> usize {
    let fits = |bits: u32| numbers.iter().all(|number| (number >> (bits - 1)) == (number >> 63));
    match [8, 16, 32].into_iter().find(|bits| fits(*bits)) {
        Some(bits) => bits as usize / 8,
        None => 8,
    }
}
