//! `exeunt bench ingest`: large tables over one connection, beside the same bytes thrown away and beside the disk.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tempfile::TempDir;

use super::measure::quantile;
use super::ratio;
use super::sessions::{self, SessionsArgs, bytes};
use crate::cli::Json;
use crate::show::{grid, right, size};

/// Bytes written at a time when the disk is measured.
const PIECE: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// Bytes of a table as it travels
    #[arg(long, value_name = "SIZE", default_value = "100MB", value_parser = bytes)]
    table: u64,
    /// How many are delivered, one after the other
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Make the coordinator's folder below this one, on the disk that is to be measured; default: the system's place for
    /// temporary files
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    output: Json,
}

#[derive(Debug, Serialize)]
struct Report {
    table_bytes: u64,
    rounds: u16,
    rows: Vec<Row>,
    /// The coordinator's rate, a share of the floor's or the disk's, whichever is lower.
    ratio: f64,
    /// Most bytes that were resident in the coordinator.
    peak: Option<u64>,
}

/// Medians.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    median_ms: f64,
    bytes_per_s: f64,
}

pub(crate) fn ingest(arguments: &IngestArgs) -> anyhow::Result<()> {
    let report = measure(arguments)?;
    if arguments.output.json {
        crate::out!("{}", serde_json::to_string(&report)?);
    } else {
        crate::out!("{}", table(&report).trim_end());
    }
    Ok(())
}

fn measure(arguments: &IngestArgs) -> anyhow::Result<Report> {
    let IngestArgs { table, rounds, .. } = *arguments;
    let folder = arguments.folder.as_deref();
    // The disk first, and its files stay until the end: what is written into memory that something else has just let go
    // of looks faster than it is.
    let (_files, disk) = disk(folder, table, rounds)?;
    let measured = sessions::measure(&SessionsArgs::of_one(table, rounds, folder, arguments.output))?;
    measured.check()?;
    let row = |what, median_ms: f64| Row {
        what,
        median_ms,
        bytes_per_s: measured.table_bytes as f64 / median_ms * 1e3,
    };
    let rows = vec![
        row("coordinator, durable", measured.coordinator_p50_ms()),
        row("bare quinn, discarded", measured.floor_p50_ms()),
        row("disk, written and synced", disk),
    ];
    let ratio = rows[1].median_ms.max(rows[2].median_ms) / rows[0].median_ms;
    Ok(Report { table_bytes: measured.table_bytes, rounds, rows, ratio, peak: measured.peak() })
}

/// Milliseconds until so many bytes are written to a new file and synced, median; and the files.
fn disk(below: Option<&Path>, bytes: u64, rounds: u16) -> anyhow::Result<(TempDir, f64)> {
    let folder = sessions::folder(below)?;
    // Not zeros: a disk may have a short way for those.
    let piece: Vec<u8> = super::noise(3, PIECE / 4).iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut times = Vec::new();
    for round in 0..rounds {
        let mut file = File::create_new(folder.path().join(round.to_string()))?;
        let begun = Instant::now();
        let mut left = usize::try_from(bytes)?;
        while left > 0 {
            let now = left.min(PIECE);
            file.write_all(&piece[..now])?;
            left -= now;
        }
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok((folder, quantile(&times, 0.5)))
}

fn table(report: &Report) -> String {
    let mut text = format!("tables of {}, {} of each\n\n", size(report.table_bytes), report.rounds);
    let mut rows = grid(&["", "median ms", "MB/s"]);
    for Row { what, median_ms, bytes_per_s } in &report.rows {
        rows.add_row([(*what).to_owned(), format!("{median_ms:.0}"), format!("{:.0}", bytes_per_s / 1e6)]);
    }
    right(&mut rows, &[1, 2]);
    text.push_str(&format!("{rows}\n\n{} of the lower of the two", ratio(report.ratio)));
    if let Some(peak) = report.peak {
        text.push_str(&format!("; the coordinator had at most {} resident", size(peak)));
    }
    text
}
