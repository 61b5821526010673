//! `exeunt node …`, and what else is about one node.

use exeunt_coordinator::OperatorClient;
use exeunt_protocol::NodeId;
use exeunt_protocol::message::Membership;
use exeunt_protocol::operator::{
    ContributionState, NodeContribution, NodeDetail, NodeRow, OperatorRequest, OperatorResponse,
};

use super::{live, moment};
use crate::cli::NodeCommand;
use crate::failure::BadInput;
use crate::remote::{ago, run_id, unexpected};
use crate::show::{grid, percent, right, size};

pub(crate) async fn nodes(client: &OperatorClient, command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::List { output } => list(client, output.json).await,
        NodeCommand::Show { node, run, output } => {
            let (node, run) = (find(client, &node).await?.status.node, run_id(run.as_deref())?);
            let OperatorResponse::Node(detail) = client.ask(&OperatorRequest::Node { node, run }).await?
            else {
                return Err(unexpected());
            };
            if output.json {
                crate::out!("{}", serde_json::to_string_pretty(&detail)?);
            } else {
                show(&detail);
            }
            Ok(())
        }
        NodeCommand::Live { run, output } => live::live(client, run.as_deref(), output.json).await,
        NodeCommand::Approve { node } => {
            decide(client, &node, |node| OperatorRequest::Approve { node }, "takes part now").await
        }
        NodeCommand::Rename { node, name } => {
            let row = find(client, &node).await?;
            let request = OperatorRequest::Rename { node: row.status.node, name: name.clone() };
            client.ask(&request).await?;
            crate::out!("node '{}' ({}) is called '{}' now", row.status.name, row.short, name.trim());
            Ok(())
        }
        NodeCommand::Quarantine { node } => {
            let what = "is quarantined: it keeps its policy, is asked nothing and counted in nothing new";
            decide(client, &node, |node| OperatorRequest::Quarantine { node }, what).await
        }
        NodeCommand::Release { node } => {
            decide(client, &node, |node| OperatorRequest::Release { node }, "takes part again").await
        }
        NodeCommand::Revoke { node } => {
            decide(client, &node, |node| OperatorRequest::Revoke { node }, "is shut out").await
        }
    }
}

async fn decide(
    client: &OperatorClient,
    wanted: &str,
    request: impl Fn(NodeId) -> OperatorRequest,
    what: &str,
) -> anyhow::Result<()> {
    let row = find(client, wanted).await?;
    client.ask(&request(row.status.node)).await?;
    crate::out!("node '{}' ({}) {what}", row.status.name, row.short);
    Ok(())
}

/// `exeunt run remove`.
pub(crate) async fn remove(client: &OperatorClient, node: &str, run: Option<&str>) -> anyhow::Result<()> {
    let row = find(client, node).await?;
    client.ask(&OperatorRequest::Remove { run: run_id(run)?, node: row.status.node }).await?;
    crate::out!("what node '{}' ({}) gave is taken out of the run", row.status.name, row.short);
    eprintln!("`exeunt run show --wait` comes back when what followed from it has been asked again");
    Ok(())
}

/// A node's id, where one is named.
pub(crate) async fn node_id(client: &OperatorClient, wanted: Option<&str>) -> anyhow::Result<Option<NodeId>> {
    match wanted {
        Some(wanted) => Ok(Some(find(client, wanted).await?.status.node)),
        None => Ok(None),
    }
}

pub(super) async fn rows(client: &OperatorClient) -> anyhow::Result<Vec<NodeRow>> {
    match client.ask(&OperatorRequest::Nodes).await? {
        OperatorResponse::Nodes(rows) => Ok(rows),
        _ => Err(unexpected()),
    }
}

/// A node by its id, its short id or its name, where only one fits.
async fn find(client: &OperatorClient, wanted: &str) -> anyhow::Result<NodeRow> {
    let fits = |row: &NodeRow| {
        row.status.node.to_string() == wanted || row.short == wanted || row.status.name == wanted
    };
    let mut found: Vec<NodeRow> = rows(client).await?.into_iter().filter(fits).collect();
    match (found.pop(), found.len()) {
        (Some(row), 0) => Ok(row),
        (Some(_), more) => {
            Err(BadInput(format!("'{wanted}' is the name of {} nodes; use an id", more + 1)).into())
        }
        (None, _) => {
            Err(BadInput(format!("no node is called '{wanted}'; `exeunt node list` shows them")).into())
        }
    }
}

/// What a node is, in a word or a few.
fn state(row: &NodeRow) -> &'static str {
    match (row.revoked, row.status.membership, row.status.connected) {
        (true, ..) => "revoked",
        (_, other @ (Membership::Pending | Membership::Quarantined), _) => other.name(),
        (_, Membership::Active, true) => "connected",
        (_, Membership::Active, false) => "away",
    }
}

async fn list(client: &OperatorClient, json: bool) -> anyhow::Result<()> {
    let rows = rows(client).await?;
    if json {
        crate::out!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if rows.is_empty() {
        crate::out!("no nodes yet; `exeunt token` prints what a device needs to join");
        return Ok(());
    }
    let head = [
        "node",
        "short id",
        "state",
        "last seen",
        "enrolled",
        "policy",
        "sent",
        "received",
        "software",
        "engine",
    ];
    let mut table = grid(&head);
    for row in &rows {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
        table.add_row([
            row.status.name.clone(),
            row.short.clone(),
            state(row).to_owned(),
            row.status.last_seen_ms.map_or_else(|| "–".to_owned(), ago),
            ago(row.enrolled_ms),
            row.status
                .using
                .as_ref()
                .map_or_else(|| "–".to_owned(), |using| format!("{} of {}", using.version.0, using.run)),
            size(row.bytes_up),
            size(row.bytes_down),
            known(&row.status.software),
            known(&row.status.engine),
        ]);
    }
    right(&mut table, &[6, 7]);
    crate::out!("{table}");
    if rows.iter().any(|row| row.status.membership == Membership::Pending && !row.revoked) {
        crate::out!("\ncompare short ids with the devices', then `exeunt node approve NODE`");
    }
    Ok(())
}

fn show(detail: &NodeDetail) {
    let NodeDetail { row, report, live, log } = detail;
    crate::out!("node '{}', {}", row.status.name, state(row));
    let mut table = grid(&["", ""]);
    let mut line = |what: &str, value: String| {
        table.add_row([what.to_owned(), value]);
    };
    line("short id", row.short.clone());
    line("id", row.status.node.to_string());
    line("enrolled", moment(row.enrolled_ms));
    line("last seen", row.status.last_seen_ms.map_or_else(|| "–".to_owned(), moment));
    for (what, known) in [("software", &row.status.software), ("engine", &row.status.engine)] {
        line(what, known.clone().unwrap_or_else(|| "–".to_owned()));
    }
    let expires = row.status.certificate_expires_ms;
    line("certificate expires", expires.map_or_else(|| "–".to_owned(), moment));
    line("sent, received", format!("{}, {}", size(row.bytes_up), size(row.bytes_down)));
    if let Some(report) = report {
        if let Some(contribution) = &report.contribution {
            line("answer", answer(contribution));
        }
        if let Some([s, c, e]) = report.samples {
            line("samples", format!("{s} statistics + {c} calibration + {e} evaluation"));
        }
        let policy = match (report.policy.wanted, report.policy.using) {
            (None, _) => "none is set".to_owned(),
            (Some(wanted), using) => {
                let own = if report.policy.overridden { ", for this node alone" } else { "" };
                let using = match using {
                    Some(using) if using == wanted => "in use".to_owned(),
                    Some(using) => format!("still uses {}", using.0),
                    None => "not acknowledged".to_owned(),
                };
                format!("{}{own}, {using}", wanted.0)
            }
        };
        line("policy", policy);
        let own = report.policies.iter().find(|policy| Some(policy.version) == report.policy.wanted);
        if let Some(policy) = own {
            let figures = format!("cost {:.3}, accuracy {}", policy.cost, percent(policy.accuracy));
            line("on its evaluation part", figures);
        }
    }
    crate::out!("{table}");
    if let Some(live) = live {
        crate::out!("\ninference");
        live::print(std::slice::from_ref(live));
    }
    if !log.is_empty() {
        crate::out!("\nlast lines of the audit log about it");
        for line in log {
            crate::out!("{}  {}", moment(line.at_ms), line.text);
        }
    }
}

fn answer(contribution: &NodeContribution) -> String {
    let query = contribution.query;
    match &contribution.state {
        ContributionState::Waiting { reason } => format!("to {query}: waited for ({reason})"),
        ContributionState::Computing { done, of } => {
            format!("to {query}: being computed, {done} of {of} samples")
        }
        ContributionState::Sending => format!("to {query}: on its way"),
        ContributionState::Stored => format!("to {query}: stored"),
        ContributionState::Counted => format!("to {query}: counted"),
        ContributionState::Late => format!("to {query}: came too late; stored, not counted"),
        ContributionState::Declined { reason } => format!("to {query}: declined ({reason})"),
        ContributionState::Rejected { reason } => format!("to {query}: not taken ({reason})"),
        ContributionState::Missing => format!("to {query}: none came"),
        ContributionState::LeftOut { reason } => format!("to {query}: not asked ({reason})"),
    }
}
