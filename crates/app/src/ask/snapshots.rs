//! `exeunt snapshot list` and `snapshot diff`.

use exeunt_coordinator::OperatorClient;
use exeunt_protocol::NodeId;
use exeunt_protocol::operator::{NodeRow, OperatorRequest, OperatorResponse, SnapshotDiff, SnapshotRow};

use super::{moment, nodes};
use crate::cli::SnapshotCommand;
use crate::remote::{run_id, unexpected};
use crate::show::{grid, percent, right};

/// Nodes that are named.
const NAMES: usize = 20;

pub(crate) async fn snapshots(client: &OperatorClient, command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::List { run, output } => {
            let response = client.ask(&OperatorRequest::Snapshots { run: run_id(run.as_deref())? }).await?;
            let OperatorResponse::Snapshots(rows) = response else { return Err(unexpected()) };
            if output.json {
                crate::out!("{}", serde_json::to_string_pretty(&rows)?);
            } else {
                list(&rows);
            }
            Ok(())
        }
        SnapshotCommand::Diff { from, to, run, output } => {
            let request = OperatorRequest::SnapshotDiff { run: run_id(run.as_deref())?, from, to };
            let OperatorResponse::SnapshotDiff(diff) = client.ask(&request).await? else {
                return Err(unexpected());
            };
            if output.json {
                crate::out!("{}", serde_json::to_string_pretty(&diff)?);
            } else {
                differences(&diff, &nodes::rows(client).await?);
            }
            Ok(())
        }
        SnapshotCommand::Export { .. } => Err(unexpected()),
    }
}

fn list(rows: &[SnapshotRow]) {
    if rows.is_empty() {
        crate::out!("no snapshot yet; the first comes when the class sums are merged");
        return;
    }
    let mut table = grid(&["version", "made", "query", "nodes", "samples", "why", "digest"]);
    for row in rows {
        table.add_row([
            row.version.to_string(),
            moment(row.at_ms),
            row.query.to_string(),
            row.cohort.len().to_string(),
            row.samples.to_string(),
            row.reason.clone(),
            row.digest.short(),
        ]);
    }
    right(&mut table, &[0, 3, 4]);
    crate::out!("{table}");
}

fn differences(diff: &SnapshotDiff, known: &[NodeRow]) {
    let (from, to) = (&diff.from, &diff.to);
    crate::out!(
        "{}: from snapshot {} ({} nodes, {} samples) to {} ({} nodes, {} samples)",
        diff.run,
        from.version,
        from.cohort.len(),
        from.samples,
        to.version,
        to.cohort.len(),
        to.samples
    );
    let name = |id: &NodeId| {
        let row = known.iter().find(|row| row.status.node == *id);
        row.map_or_else(|| id.to_string(), |row| row.status.name.clone())
    };
    for (what, nodes) in [("joined", &diff.joined), ("left", &diff.left)] {
        if !nodes.is_empty() {
            let more = nodes.len().saturating_sub(NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            crate::out!(
                "{what}: {}{more}",
                nodes.iter().take(NAMES).map(name).collect::<Vec<_>>().join(", ")
            );
        }
    }
    crate::out!("\nclass means moved, in standard deviations within a class");
    let mut table = grid(&["exit", "tap", "on average", "farthest", "class"]);
    let none = || "–".to_owned();
    for (e, exit) in diff.exits.iter().enumerate() {
        table.add_row([
            (e + 1).to_string(),
            exit.tap.clone(),
            exit.mean.map_or_else(none, |by| format!("{by:.4}")),
            exit.most.map_or_else(none, |by| format!("{by:.4}")),
            exit.farthest.clone().unwrap_or_else(none),
        ]);
    }
    right(&mut table, &[0, 2, 3]);
    crate::out!("{table}");
    let changed = diff.classes.iter().filter(|class| class.from != class.to);
    let mut table = grid(&["class", "samples before", "after"]);
    for class in changed {
        table.add_row([class.class.clone(), class.from.to_string(), class.to.to_string()]);
    }
    if table.row_iter().next().is_some() {
        right(&mut table, &[1, 2]);
        crate::out!("\nclasses whose samples changed\n{table}");
    }
    if !diff.accuracy_at_cost.is_empty() {
        let mut table = grid(&["cost", "accuracy before", "after"]);
        for point in &diff.accuracy_at_cost {
            let shown = |accuracy: Option<f64>| accuracy.map_or_else(none, percent);
            table.add_row([format!("{:.1}", point.cost), shown(point.from), shown(point.to)]);
        }
        right(&mut table, &[0, 1, 2]);
        crate::out!("\naccuracy at equal cost, on the evaluation part\n{table}");
    }
}
