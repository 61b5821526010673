//! `exeunt node live`.

use exeunt_coordinator::OperatorClient;
use exeunt_exits::{Drift, DriftLevel};
use exeunt_protocol::operator::{NodeLive, OperatorRequest, OperatorResponse};

use crate::remote::{ago, run_id, unexpected};
use crate::show::{grid, percent, right};

pub(super) async fn live(client: &OperatorClient, run: Option<&str>, json: bool) -> anyhow::Result<()> {
    let response = client.ask(&OperatorRequest::Live { run: run_id(run)? }).await?;
    let OperatorResponse::Live(nodes) = response else { return Err(unexpected()) };
    if json {
        crate::out!("{}", serde_json::to_string_pretty(&nodes)?);
    } else if nodes.is_empty() {
        crate::out!(
            "no node has reported on its inference yet; `exeunt-node start --http` serves it, and reports once \
             enough samples were classified"
        );
    } else {
        print(&nodes);
    }
    Ok(())
}

pub(super) fn print(nodes: &[NodeLive]) {
    let head = [
        "node",
        "policy",
        "said",
        "samples",
        "cost",
        "MACs saved",
        "agreement",
        "leaves at",
        "drift",
        "margins",
        "time",
        "energy saved",
    ];
    let mut table = grid(&head);
    let none = || "–".to_owned();
    for node in nodes {
        let counts = &node.counts;
        let samples = counts.samples();
        let left =
            counts.left.iter().map(|left| format!("{:.0}", *left as f64 / samples.max(1) as f64 * 100.0));
        let sampled = |agreement: f64| format!("{} of {}", percent(agreement), counts.sampled);
        let margins = node
            .margin_drift
            .iter()
            .flatten()
            .copied()
            .max_by(|a, b| a.level.cmp(&b.level).then(a.index.total_cmp(&b.index)));
        table.add_row([
            node.name.clone(),
            counts.policy.0.to_string(),
            ago(node.at_ms),
            samples.to_string(),
            node.cost.map_or_else(none, |cost| format!("{cost:.3}")),
            node.cost.map_or_else(none, |cost| percent(1.0 - cost)),
            node.agreement.map_or_else(none, sampled),
            left.collect::<Vec<_>>().join("/") + " %",
            node.drift.map_or_else(none, word),
            margins.map_or_else(none, word),
            node.mean_ms.map_or_else(none, |ms| format!("{ms:.2} ms")),
            node.joules_saved.map_or_else(none, |joules| format!("{joules:.1} J")),
        ]);
    }
    right(&mut table, &[1, 3, 4, 5, 6, 7, 10, 11]);
    crate::out!("{table}");
}

/// The verdict with its figure.
fn word(drift: Drift) -> String {
    match drift.level {
        DriftLevel::TooFew => format!("{} of {} samples", drift.samples, drift.needed),
        DriftLevel::Steady => format!("steady ({:.2})", drift.index),
        DriftLevel::Shifting => format!("shifting ({:.2})", drift.index),
        DriftLevel::Drifted => format!("drifted ({:.2})", drift.index),
    }
}
