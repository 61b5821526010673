//! Commands that ask a running coordinator.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use exeunt_coordinator::{Home, OperatorClient, RunPlan};
use exeunt_exits::{ExitRule, Policy, PolicyRequest, Rule};
use exeunt_network::Network;
use exeunt_node::EngineOptions;
use exeunt_protocol::coordinator::Standing;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse, RunReport};
use exeunt_protocol::run_file::{MAX_RUN_FILE_BYTES, RunFileError};
use exeunt_protocol::spec::RunFile;
use exeunt_protocol::{NodeId, PolicyVersion, RunId};

use crate::ask;
use crate::cli::{Command, PolicyCommand, RunCommand, SnapshotCommand, Wish};
use crate::failure::{self, BadInput};
use crate::show::{grid, right};
use crate::simulate::bar;
use crate::{show, snapshot};

/// How often `run show --wait` looks.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn run(home: &Home, command: Command) -> anyhow::Result<()> {
    crate::runtime()?.block_on(async {
        let client = OperatorClient::connect(home).await?;
        let result = ask(home, &client, command).await;
        client.close().await;
        result
    })
}

async fn ask(home: &Home, client: &OperatorClient, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Token { valid, label, approve, output } => {
            token(client, valid, label, approve, output.json).await
        }
        Command::Node { command } => ask::nodes(client, command).await,
        Command::Run { command } => runs(home, client, command).await,
        Command::Policy { command: PolicyCommand::Set { run, wish, node, output } } => {
            let node = ask::node_id(client, node.as_deref()).await?;
            set_policy(home, client, run.as_deref(), &wish, node, output.json).await
        }
        Command::Policy { command } => ask::policies(home, client, command).await,
        Command::Snapshot { command: SnapshotCommand::Export { run, out } } => {
            export(client, run.as_deref(), &out).await
        }
        Command::Snapshot { command } => ask::snapshots(client, command).await,
        Command::Export(arguments) => crate::export::export(client, &arguments).await,
        // The others never get here: `main` runs them without a coordinator.
        _ => Err(unexpected()),
    }
}

pub(crate) fn unexpected() -> anyhow::Error {
    anyhow::anyhow!("the coordinator gave an unexpected answer: is it another version?")
}

async fn token(
    client: &OperatorClient,
    valid: Duration,
    label: String,
    approve: Option<bool>,
    json: bool,
) -> anyhow::Result<()> {
    let request = OperatorRequest::Token { valid_s: valid.as_secs(), label, approve };
    let response = client.ask(&request).await?;
    let OperatorResponse::Token { token, expires } = response else { return Err(unexpected()) };
    if json {
        crate::out!("{}", serde_json::json!({ "token": token, "expires": expires }));
    } else {
        crate::out!("{token}");
        let left = expires.saturating_sub(unix_now());
        eprintln!(
            "works once, for {} min; on the device: exeunt-node join TOKEN --data DIR",
            left.div_ceil(60)
        );
    }
    Ok(())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(crate) fn ago(then_ms: u64) -> String {
    match unix_now().saturating_sub(then_ms / 1000) {
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7_200 => format!("{} min ago", s / 60),
        s @ 7_200..172_800 => format!("{} h ago", s / 3_600),
        s => format!("{} d ago", s / 86_400),
    }
}

async fn runs(home: &Home, client: &OperatorClient, command: RunCommand) -> anyhow::Result<()> {
    match command {
        RunCommand::Start { file, network, engine, output } => {
            start(client, &file, network, &engine, output.json).await
        }
        RunCommand::List { output } => list(client, output.json).await,
        RunCommand::Show { run, wait, svg, output } => {
            let run = run_id(run.as_deref())?;
            let report =
                if wait { wait_for(home, client, run).await? } else { show_run(client, run).await? };
            if output.json {
                crate::out!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                crate::out::write(format_args!("{}", show::report(&report)), "");
            }
            match svg {
                Some(path) => show::save_picture(&report, &path),
                None => Ok(()),
            }
        }
        RunCommand::Remove { node, run } => ask::remove(client, &node, run.as_deref()).await,
        RunCommand::Stop { run } => {
            let run = run_id(Some(&run))?.ok_or_else(unexpected)?;
            client.ask(&OperatorRequest::Stop { run: run.clone() }).await?;
            crate::out!("run {run} is stopped; its tables stay");
            Ok(())
        }
    }
}

pub(crate) fn run_id(text: Option<&str>) -> anyhow::Result<Option<RunId>> {
    let parse = |text: &str| text.parse().map_err(|error| BadInput(format!("{error}")));
    Ok(text.map(parse).transpose()?)
}

/// Reads a run file from disk.
pub(crate) fn read_run_file(path: &Path) -> anyhow::Result<RunFile> {
    let length =
        std::fs::metadata(path).map_err(|error| BadInput(format!("{}: {error}", path.display())))?.len();
    let file = path.display().to_string();
    if length > MAX_RUN_FILE_BYTES as u64 {
        let found = usize::try_from(length).unwrap_or(usize::MAX);
        return Err(BadInput(RunFileError::TooLong { file, found }.to_string()).into());
    }
    let text = std::fs::read_to_string(path).map_err(|error| BadInput(format!("{file}: {error}")))?;
    RunFile::parse(&text, &file).map_err(|error| BadInput(error.to_string()).into())
}

async fn start(
    client: &OperatorClient,
    path: &Path,
    network: Option<PathBuf>,
    engine: &EngineOptions,
    json: bool,
) -> anyhow::Result<()> {
    let mut file = read_run_file(path)?;
    let beside = path.parent().unwrap_or(Path::new("."));
    let network = Network::load(&network.unwrap_or_else(|| beside.join(&file.network)))?;
    if let Some(placed) = crate::place::fill_with(&mut file, &network, engine)? {
        eprint!("{}", placed.explain());
    }
    // The coordinator checks again; here a mistake is found before the network travels.
    RunPlan::new(&file, &network)?;
    let digest = client.put_blob(network.bytes()).await?;
    let request = OperatorRequest::StartRun { file: Box::new(file), network: digest };
    let OperatorResponse::Started { run } = client.ask(&request).await? else { return Err(unexpected()) };
    if json {
        crate::out!("{}", serde_json::json!({ "run": run }));
    } else {
        crate::out!("{run}");
        eprintln!("started; `exeunt run show {run}` says where it stands");
    }
    Ok(())
}

async fn list(client: &OperatorClient, json: bool) -> anyhow::Result<()> {
    let OperatorResponse::Runs(rows) = client.ask(&OperatorRequest::Runs).await? else {
        return Err(unexpected());
    };
    if json {
        crate::out!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if rows.is_empty() {
        crate::out!("no runs yet; `exeunt run start RUN.toml` starts one");
        return Ok(());
    }
    let mut table = grid(&["run", "started", "stands"]);
    for row in &rows {
        table.add_row([row.run.to_string(), ago(row.started_ms), row.standing.clone()]);
    }
    right(&mut table, &[1]);
    crate::out!("{table}");
    Ok(())
}

pub(crate) async fn show_run(client: &OperatorClient, run: Option<RunId>) -> anyhow::Result<RunReport> {
    match client.ask(&OperatorRequest::Show { run }).await? {
        OperatorResponse::Show(report) => Ok(*report),
        _ => Err(unexpected()),
    }
}

/// Looks until the run rests. A coordinator that restarts meanwhile is waited for.
async fn wait_for(home: &Home, client: &OperatorClient, run: Option<RunId>) -> anyhow::Result<RunReport> {
    let bar = bar();
    let mut again: Option<OperatorClient> = None;
    loop {
        let report = match show_run(again.as_ref().unwrap_or(client), run.clone()).await {
            Err(error) if failure::is_unreachable(&error) => {
                eprintln!("{}; waiting until it is back", failure::describe(&error));
                again = Some(reconnect(home).await?);
                continue;
            }
            report => report?,
        };
        match &report.status.standing {
            Standing::Asking { name, query } => bar.set_message(format!(
                "{name} ({query}): {} answers, waiting for {}",
                report.status.answers,
                report.status.waiting_for.len()
            )),
            Standing::Sealing { query } => bar.set_message(format!("merging {query}")),
            Standing::Ready | Standing::Failed { .. } | Standing::Stopped => {
                bar.finish_and_clear();
                return Ok(report);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn reconnect(home: &Home) -> anyhow::Result<OperatorClient> {
    loop {
        tokio::time::sleep(LOOK).await;
        match OperatorClient::connect(home).await.map_err(anyhow::Error::from) {
            Err(error) if failure::is_unreachable(&error) => {}
            result => return result,
        }
    }
}

async fn set_policy(
    home: &Home,
    client: &OperatorClient,
    run: Option<&str>,
    wish: &Wish,
    node: Option<NodeId>,
    json: bool,
) -> anyhow::Result<()> {
    let run = run_id(run)?;
    let wish = match wish {
        Wish { fraction: Some(fraction), .. } => PolicyRequest::Fraction(*fraction),
        Wish { max_drop: Some(points), .. } => PolicyRequest::MaxDrop(*points),
        Wish { thresholds: Some(list), .. } => PolicyRequest::Thresholds(thresholds(list)?),
        _ => {
            return Err(
                BadInput("say which policy: --fraction, --max-drop or --thresholds".to_owned()).into()
            );
        }
    };
    let response = client.ask(&OperatorRequest::SetPolicy { run, wish, node }).await?;
    let OperatorResponse::Policy { run, version } = response else { return Err(unexpected()) };
    show_policy(home, client, run, version, node.is_some(), json).await
}

/// Says what a policy does that was just put in force, once it is measured.
pub(crate) async fn show_policy(
    home: &Home,
    client: &OperatorClient,
    run: RunId,
    version: PolicyVersion,
    for_one: bool,
    json: bool,
) -> anyhow::Result<()> {
    // It is in force at once; what it does on the evaluation part comes a moment later.
    let report = wait_for(home, client, Some(run.clone())).await?;
    let policy = report.status.policies.iter().find(|policy| policy.version == version);
    if json {
        crate::out!("{}", serde_json::to_string_pretty(&policy)?);
        return Ok(());
    }
    let at = if for_one { " at this node alone" } else { "" };
    crate::out!("policy {} of {run} is in force{at}", version.0);
    if let Some((cost, accuracy)) = policy.and_then(|policy| Some((policy.cost?, policy.accuracy?))) {
        let network = report.status.result.as_ref().map_or(accuracy, |result| result.network_accuracy);
        crate::out!(
            "on the evaluation part: cost {cost:.3}, accuracy {} ({:+.1} points to the network)",
            show::percent(accuracy),
            (accuracy - network) * 100.0
        );
    }
    Ok(())
}

/// `off,whitened:3.5,class-means:always`.
fn thresholds(list: &str) -> anyhow::Result<Policy> {
    let entry = |text: &str| -> Result<Option<ExitRule>, BadInput> {
        let wrong = || {
            let expected = "'off', or RULE:MARGIN such as whitened:3.5 or class-means:always";
            BadInput(format!("--thresholds: found '{text}', expected {expected}"))
        };
        if text == "off" {
            return Ok(None);
        }
        let (rule, margin) = text.split_once(':').ok_or_else(wrong)?;
        let rule: Rule = rule.parse().map_err(|_error| wrong())?;
        match margin {
            "always" => Ok(Some(ExitRule::everyone(rule))),
            margin => {
                let margin: f64 = margin.parse().map_err(|_error| wrong())?;
                if margin.is_nan() { Err(wrong()) } else { Ok(Some(ExitRule::new(rule, margin))) }
            }
        }
    };
    let exits = list.split(',').map(|text| entry(text.trim())).collect::<Result<_, _>>()?;
    Ok(Policy { exits })
}

async fn export(client: &OperatorClient, run: Option<&str>, out: &Path) -> anyhow::Result<()> {
    let response = client.ask(&OperatorRequest::Snapshot { run: run_id(run)? }).await?;
    let OperatorResponse::Snapshot(names) = response else { return Err(unexpected()) };
    let heads = exeunt_exits::Heads::decode(&client.blob(names.heads).await?).context("the snapshot")?;
    snapshot::write(out, &names, &heads)?;
    crate::out!("wrote {}", out.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_and_nonsense_is_named() {
        let policy = thresholds("off, whitened:3.5,class-means:always").unwrap();
        assert_eq!(policy.exits[0], None);
        assert_eq!(policy.exits[1], Some(ExitRule::new(Rule::Whitened, 3.5)));
        assert_eq!(policy.exits[2], Some(ExitRule::everyone(Rule::ClassMeans)));
        for list in ["whitened", "whitened:x", "whitened:NaN", "witened:1", ""] {
            assert!(thresholds(list).unwrap_err().to_string().contains("--thresholds: found"), "{list}");
        }
    }
}
