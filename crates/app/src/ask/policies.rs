//! `exeunt policy …`, beside `policy set`.

use exeunt_coordinator::{Home, OperatorClient};
use exeunt_protocol::PolicyVersion;
use exeunt_protocol::coordinator::Purpose;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse, RunReport};

use super::moment;
use super::nodes::node_id;
use crate::cli::PolicyCommand;
use crate::remote::{run_id, show_policy, show_run, unexpected};
use crate::show::{grid, percent, right};

pub(crate) async fn policies(
    home: &Home,
    client: &OperatorClient,
    command: PolicyCommand,
) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Clear { node, run } => {
            let Some(id) = node_id(client, Some(&node)).await? else { return Err(unexpected()) };
            client.ask(&OperatorRequest::ClearPolicy { run: run_id(run.as_deref())?, node: id }).await?;
            crate::out!("'{node}' infers with the fleet's policy again");
            Ok(())
        }
        PolicyCommand::List { run, output } => {
            let report = show_run(client, run_id(run.as_deref())?).await?;
            if output.json {
                let document =
                    serde_json::json!({ "policies": report.status.policies, "named": report.named });
                crate::out!("{}", serde_json::to_string_pretty(&document)?);
            } else {
                list(&report);
            }
            Ok(())
        }
        PolicyCommand::Save { name, version, run } => {
            let (run, version) = (run_id(run.as_deref())?, version.map(PolicyVersion));
            let request = OperatorRequest::SavePolicy { run, name: name.clone(), version };
            let OperatorResponse::Policy { run, version } = client.ask(&request).await? else {
                return Err(unexpected());
            };
            crate::out!("policy {} of {run} is kept as '{}'", version.0, name.trim());
            Ok(())
        }
        PolicyCommand::Apply { name, node, run, output } => {
            let (run, node) = (run_id(run.as_deref())?, node_id(client, node.as_deref()).await?);
            let request = OperatorRequest::ApplyPolicy { run, name, node };
            let OperatorResponse::Policy { run, version } = client.ask(&request).await? else {
                return Err(unexpected());
            };
            show_policy(home, client, run, version, node.is_some(), output.json).await
        }
        PolicyCommand::Forget { name, run } => {
            let run = run_id(run.as_deref())?;
            client.ask(&OperatorRequest::ForgetPolicy { run, name: name.clone() }).await?;
            crate::out!("no policy is called '{}' any more", name.trim());
            Ok(())
        }
        PolicyCommand::Set { .. } => Err(unexpected()),
    }
}

fn list(report: &RunReport) {
    let name = |id| {
        report
            .nodes
            .iter()
            .find(|node| node.node == id)
            .map_or_else(|| "?".to_owned(), |node| node.name.clone())
    };
    let fleet = report.status.in_force().map(|policy| policy.version);
    let mut table = grid(&["version", "set", "for", "state", "asked for", "cost", "accuracy"]);
    for policy in &report.status.policies {
        let own = policy.node.and_then(|node| report.status.in_force_at(node)).map(|policy| policy.version);
        let state = match policy.purpose {
            Purpose::Trial => "tried",
            Purpose::Force if policy.cleared => "cleared",
            Purpose::Force if fleet == Some(policy.version) || own == Some(policy.version) => "in force",
            Purpose::Force => "replaced",
        };
        let of = policy.node.map_or_else(|| "the fleet".to_owned(), name);
        let missing = if policy.superseded { "old snapshot" } else { "measuring" };
        table.add_row([
            policy.version.0.to_string(),
            moment(policy.set_at_ms),
            of,
            state.to_owned(),
            policy.asked.clone(),
            policy.cost.map_or_else(|| missing.to_owned(), |cost| format!("{cost:.3}")),
            policy.accuracy.map_or_else(|| missing.to_owned(), percent),
        ]);
    }
    right(&mut table, &[0, 5, 6]);
    crate::out!("{table}");
    if !report.named.is_empty() {
        let mut table = grid(&["name", "kept from version", "kept"]);
        for named in &report.named {
            table.add_row([named.name.clone(), named.version.0.to_string(), moment(named.saved_ms)]);
        }
        right(&mut table, &[1]);
        crate::out!("\nkept under a name; `exeunt policy apply NAME` puts one in force\n{table}");
    }
    let (mut acknowledged, mut behind) = (0, Vec::new());
    for node in report.nodes.iter().filter(|node| node.policy.wanted.is_some()) {
        if node.policy.using == node.policy.wanted {
            acknowledged += 1;
        } else {
            behind.push(node.name.as_str());
        }
    }
    if acknowledged > 0 || !behind.is_empty() {
        let rest =
            if behind.is_empty() { String::new() } else { format!("; not yet: {}", behind.join(", ")) };
        crate::out!("\nin use, as they said themselves, at {acknowledged} nodes{rest}");
    }
}
