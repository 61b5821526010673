//! `exeunt bench merge`: adding packed tables up, beside copying and adding plain ones.

use std::cell::RefCell;
use std::time::Duration;

use clap::Args;
use exeunt_stats::{Digest, Table, packed};
use serde::Serialize;

use super::measure::{Contestant, Times, side_by_side};
use super::sessions::{Tables, bytes};
use super::{ms, ratio};
use crate::cli::Json;
use crate::show::{grid, right, size};

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Bytes of a table as it travels
    #[arg(long, value_name = "SIZE", default_value = "100MB", value_parser = bytes)]
    table: u64,
    /// How long to measure, in seconds; at least nine rounds are run
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
    #[command(flatten)]
    output: Json,
}

#[derive(Debug, Serialize)]
struct Report {
    table_bytes: u64,
    cells: usize,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    #[serde(flatten)]
    times: Times,
    /// Bytes of the unpacked table per second.
    bytes_per_s: f64,
}

pub(crate) fn merge(arguments: &MergeArgs) -> anyhow::Result<()> {
    let tables = Tables::new(1, arguments.table)?;
    let packed = tables.of(0);
    let plain = Table::from_cells(packed::decode(&packed, tables.cells())?);
    let copy = RefCell::new(vec![0_i64; plain.len()]);
    // Sums of a few numbers never come near the end of the range within one measurement.
    let totals = [(); 2].map(|()| RefCell::new(Table::zeros(plain.len())));
    let mut contestants: Vec<Contestant<'_>> = vec![
        Box::new(|| {
            copy.borrow_mut().copy_from_slice(std::hint::black_box(plain.cells()));
            Ok(())
        }),
        Box::new(|| Ok(totals[0].borrow_mut().merge(std::hint::black_box(&plain))?)),
        Box::new(|| Ok(totals[1].borrow_mut().merge_packed(std::hint::black_box(&packed))?)),
        Box::new(|| {
            std::hint::black_box(Digest::of(std::hint::black_box(&packed)));
            Ok(())
        }),
    ];
    let times = side_by_side(Duration::from_secs(arguments.seconds), &mut contestants)?;
    drop(contestants);
    let names = ["copied", "a plain table added", "a packed table added", "the packed table's BLAKE3"];
    let plain_bytes = plain.len() as f64 * 8.0;
    let rows = names.into_iter().zip(times).map(|(what, times)| Row {
        what,
        times,
        bytes_per_s: plain_bytes / times.median_ms * 1e3,
    });
    let report = Report { table_bytes: packed.len() as u64, cells: plain.len(), rows: rows.collect() };
    if arguments.output.json {
        crate::out!("{}", serde_json::to_string(&report)?);
    } else {
        crate::out!("{}", table(&report).trim_end());
    }
    Ok(())
}

fn table(report: &Report) -> String {
    let plain = report.cells as u64 * 8;
    let mut text = format!(
        "{} numbers: {} packed, {} plain; one thread\n\n",
        report.cells,
        size(report.table_bytes),
        size(plain)
    );
    let mut rows = grid(&["", "median ms", "p95 ms", "plain MB/s", "of copying"]);
    for Row { what, times, bytes_per_s } in &report.rows {
        let share = ratio(1.0 / times.ratio);
        let (median, p95) = (ms(times.median_ms), ms(times.p95_ms));
        rows.add_row([(*what).to_owned(), median, p95, format!("{:.0}", bytes_per_s / 1e6), share]);
    }
    right(&mut rows, &[1, 2, 3, 4]);
    text.push_str(&format!("{rows}\n"));
    text
}
