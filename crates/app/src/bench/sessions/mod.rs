//! `exeunt bench sessions`: a fleet's real sessions against a real coordinator, beside a server that discards what it
//! reads.

mod federation;
mod nodes;
mod process;
mod tables;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use exeunt_coordinator::Home;
use serde::Serialize;

pub(crate) use nodes::{NodesArgs, nodes};
pub(crate) use process::{DiscardArgs, discard};
pub(super) use tables::Tables;

use self::nodes::{Delivered, Order, Word};
use self::process::{Nodes, Process, Usage};
use self::tables::Counted;
use super::ratio;
use crate::cli::Json;
use crate::failure::BadInput;
use crate::show::{grid, right, size};

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    /// Sessions to open
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Bytes of a table as it travels: 100kB, 1MB
    #[arg(long, value_name = "SIZE", default_value = "100kB", value_parser = bytes)]
    table: u64,
    /// How often every node delivers one, each time when the sum of the round before is made
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Nodes that deliver at the same time; default: all of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    at_once: Option<u32>,
    /// Make the coordinator's folder below this one, on the disk that is to be measured; default: the system's place for
    /// temporary files
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    output: Json,
}

impl SessionsArgs {
    /// One session.
    pub(super) fn of_one(table: u64, rounds: u16, folder: Option<&Path>, output: Json) -> Self {
        Self { nodes: 1, table, rounds, at_once: None, folder: folder.map(Path::to_owned), output }
    }
}

/// A size such as `5kB`, `100 kB`, `1MB`, `64KiB`; bytes without a unit.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("'{text}' is no size: expected a number with B, kB, MB, KiB or MiB behind it, such as 100kB")
    };
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_error| wrong())?;
    number.checked_mul(unit).filter(|bytes| *bytes <= 1 << 28).ok_or_else(wrong)
}

/// One of the two servers.
#[derive(Debug, Serialize)]
struct Measured {
    connect_s: f64,
    #[serde(flatten)]
    delivered: Delivered,
    /// Tables per second until the last was acknowledged.
    per_s: f64,
    /// Bytes per second that they were.
    bytes_per_s: f64,
    /// Of the server, before anything was delivered.
    idle: Usage,
    /// And after.
    after: Usage,
    /// Processor time that deliveries took.
    cpu_s: Option<f64>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    nodes: u32,
    pub(super) table_bytes: u64,
    rounds: u16,
    coordinator: Measured,
    rounds_per_s: f64,
    /// Acknowledged, and not in the sum that the killed coordinator's store has.
    lost: u64,
    /// In the sum more than once.
    twice: u64,
    /// Whether every sum is right in every cell.
    exact: bool,
    floor: Measured,
    /// Tables per second of the coordinator to those of the floor.
    ratio: f64,
}

pub(crate) fn sessions(arguments: &SessionsArgs) -> anyhow::Result<()> {
    let report = measure(arguments)?;
    if arguments.output.json {
        crate::out!("{}", serde_json::to_string(&report)?);
    } else {
        crate::out!("{}", table(&report).trim_end());
    }
    report.check()
}

impl Report {
    /// Fails when something was lost or counted twice.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Self { exact, lost, twice, .. } = self;
        anyhow::ensure!(*exact && *lost == 0 && *twice == 0, "{lost} tables lost, {twice} counted twice");
        Ok(())
    }

    /// Median time of a delivery until it was acknowledged.
    pub(super) fn coordinator_p50_ms(&self) -> f64 {
        self.coordinator.delivered.p50_ms
    }

    /// The same of one that was discarded.
    pub(super) fn floor_p50_ms(&self) -> f64 {
        self.floor.delivered.p50_ms
    }

    /// Most bytes that were resident in the coordinator.
    pub(super) fn peak(&self) -> Option<u64> {
        self.coordinator.after.peak
    }
}

/// Opens the sessions and lets them deliver, to the one server and then to the other.
pub(super) fn measure(arguments: &SessionsArgs) -> anyhow::Result<Report> {
    let SessionsArgs { nodes: count, table, rounds, .. } = *arguments;
    let tables = Tables::new(count as usize, table)?;
    let folder = folder(arguments.folder.as_deref())?;
    let home = Home::new(folder.path().join("coordinator"));
    let mut options = vec![
        ("--folder", home.root().display().to_string()),
        ("--nodes", count.to_string()),
        ("--bytes", table.to_string()),
        ("--rounds", rounds.to_string()),
    ];
    options.extend(arguments.at_once.map(|n| ("--at-once", n.to_string())));
    let mut nodes = Nodes::start(&options)?;
    let Word::Prepared(runs) = nodes.hear()? else { anyhow::bail!("the nodes did not prepare") };

    let server = Process::coordinator(&home)?;
    let coordinator = Measured::of(&mut nodes, &server, &Order::Coordinator, &tables)?;
    // Not asked to stop: what was acknowledged must be on the disk already.
    server.kill()?;
    let counted = federation::check(&home, &tables, &runs)?;

    let (server, address) = Process::discard(&home)?;
    let floor = Measured::of(&mut nodes, &server, &Order::Discard(address), &tables)?;
    server.kill()?;

    let sum = |of: fn(&Counted) -> u64| counted.iter().map(of).sum();
    Ok(Report {
        nodes: count,
        table_bytes: tables.bytes(),
        rounds,
        rounds_per_s: f64::from(rounds) / coordinator.delivered.closed_s,
        lost: sum(|counted| counted.lost),
        twice: sum(|counted| counted.twice),
        exact: counted.iter().all(|counted| counted.exact),
        ratio: coordinator.per_s / floor.per_s,
        coordinator,
        floor,
    })
}

/// A folder for the coordinator, gone with the value.
pub(super) fn folder(below: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let made = match below {
        Some(below) => tempfile::tempdir_in(below),
        None => tempfile::tempdir(),
    };
    made.map_err(|error| BadInput(format!("--folder: {error}"))).context("cannot make a folder")
}

impl Measured {
    fn of(nodes: &mut Nodes, server: &Process, order: &Order, tables: &Tables) -> anyhow::Result<Self> {
        let Word::Connected { seconds } = nodes.tell(order)? else {
            anyhow::bail!("the nodes did not connect")
        };
        let idle = server.usage();
        let Word::Done(delivered) = nodes.tell(&Order::Go)? else {
            anyhow::bail!("the nodes did not deliver")
        };
        let after = server.usage();
        let per_s = delivered.acknowledged as f64 / delivered.seconds;
        Ok(Self {
            connect_s: seconds,
            per_s,
            bytes_per_s: per_s * tables.bytes() as f64,
            cpu_s: after.cpu_s.zip(idle.cpu_s).map(|(after, idle)| after - idle),
            delivered,
            idle,
            after,
        })
    }
}

fn table(report: &Report) -> String {
    let Report { nodes, table_bytes, rounds, coordinator, floor, .. } = report;
    let mut text = format!("{nodes} sessions, tables of {}, {rounds} rounds\n\n", size(*table_bytes));
    let mut rows =
        grid(&["", "tables/s", "MB/s", "p50 ms", "p99 ms", "resident", "idle", "CPU s", "begun again"]);
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "–".to_owned(), size);
    for (what, measured) in [("coordinator, durable", coordinator), ("bare quinn, discarded", floor)] {
        let Measured { delivered, per_s, bytes_per_s, idle, after, cpu_s, .. } = measured;
        rows.add_row([
            what.to_owned(),
            format!("{per_s:.0}"),
            format!("{:.1}", bytes_per_s / 1e6),
            format!("{:.0}", delivered.p50_ms),
            format!("{:.0}", delivered.p99_ms),
            known(after.peak),
            known(idle.resident),
            cpu_s.map_or_else(|| "–".to_owned(), |s| format!("{s:.1}")),
            delivered.again.to_string(),
        ]);
    }
    right(&mut rows, &[1, 2, 3, 4, 5, 6, 7, 8]);
    text.push_str(&format!("{rows}\n\n"));
    text.push_str(&format!(
        "{} of the floor's rate; {:.2} rounds/s with their sums, {} acknowledged, {} lost, {} twice\n",
        ratio(report.ratio),
        report.rounds_per_s,
        coordinator.delivered.acknowledged,
        report.lost,
        report.twice
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        assert_eq!((bytes("100kB"), bytes("5 kB"), bytes("7")), (Ok(100_000), Ok(5_000), Ok(7)));
        assert_eq!((bytes("1MB"), bytes("2MiB")), (Ok(1_000_000), Ok(2 << 20)));
        assert!(["", "kB", "1GB", "1.5MB", "-1kB", "300MiB"].iter().all(|text| bytes(text).is_err()));
    }
}
