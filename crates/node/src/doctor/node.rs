//! What a node is made of.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use exeunt_link::{Address, Client, CloseCode, Identity};
use exeunt_stats::Digest;

use super::{Check, Checkup, clock, engine, free_space, identity, processor, sync_latency};
use crate::computing::EngineOptions;
use crate::home::{Home, HomeError, NodeSettings};

/// How long the coordinator is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const JOIN: &str =
    "join with a new token: `exeunt token` on the coordinator, `exeunt-node join TOKEN --data DIR` here";

/// Looks at a node's folder, its data, this machine, and whether the coordinator can be reached.
pub async fn examine(home: &Home, options: &EngineOptions) -> Checkup {
    let now = SystemTime::now();
    let settings = home.settings();
    let threads = settings.as_ref().ok().and_then(|settings| settings.threads);
    let mut checks = vec![engine(options), processor(threads), clock(now)];
    match &settings {
        Ok(settings) => {
            checks
                .push(Check::good("settings", format!("'{}'", settings.name)).with("name", &*settings.name));
            checks.push(identity("identity", &home.identity(), now, JOIN));
            checks.push(data(&settings.data));
            checks.extend([cache(home), policy(home)]);
            checks.extend([free_space(home.root()), sync_latency(home.root())]);
            let running = service(home);
            let is_running = running.is_some();
            checks.push(running.unwrap_or_else(|| {
                Check::note("service", "not running; `exeunt-node start` starts it").with("running", false)
            }));
            checks.push(coordinator(home, settings, is_running).await);
        }
        Err(error @ HomeError::NotJoined { .. }) => {
            checks.push(Check::bad("settings", error.to_string(), JOIN))
        }
        Err(error) => {
            let remedy = "put back the file, or remove it and join again";
            checks.push(Check::bad("settings", error.to_string(), remedy));
        }
    }
    Checkup::new(home.root(), checks)
}

fn data(folder: &Path) -> Check {
    const NAME: &str = "data";
    let shown = folder.display();
    let remedy = "connect the disk, or join again with another --data";
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Check::good(NAME, shown.to_string()),
        Ok(false) => Check::bad(NAME, format!("{shown} is empty"), remedy),
        Err(error) => Check::bad(NAME, format!("{shown}: {error}"), remedy),
    }
}

/// Whether what was fetched still is what its names say.
fn cache(home: &Home) -> Check {
    const NAME: &str = "cache";
    let folder = home.root().join("blobs");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::good(NAME, "empty").with("blobs", 0).with("bytes", 0);
        }
        Err(error) => return Check::bad(NAME, format!("{}: {error}", folder.display()), "make it readable"),
    };
    let (mut blobs, mut bytes, mut damaged) = (0_u64, 0_u64, 0_u64);
    for entry in entries.flatten() {
        let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()) else {
            continue;
        };
        match fs::read(entry.path()) {
            Ok(content) if Digest::of(&content) == digest => {
                blobs += 1;
                bytes += content.len() as u64;
            }
            _ => damaged += 1,
        }
    }
    let found = format!("{blobs} blobs, {:.1} MB", bytes as f64 / 1e6);
    let check = match damaged {
        0 => Check::good(NAME, found),
        // Whoever reads one removes it, and it is fetched again.
        _ => Check::note(NAME, format!("{found}; {damaged} damaged, they are fetched again when needed")),
    };
    check.with("blobs", blobs).with("bytes", bytes).with("damaged", damaged)
}

fn policy(home: &Home) -> Check {
    const NAME: &str = "policy";
    match home.policy() {
        Ok(None) => Check::note(NAME, "none yet: `exeunt policy set` on the coordinator sets one"),
        Ok(Some(policy)) => {
            let missing = policy.blobs().into_iter().filter(|blob| !home.blob_path(*blob).exists()).count();
            let found = format!("version {} of {}", policy.version, policy.run);
            let check = match missing {
                0 => Check::good(NAME, found),
                _ => Check::bad(
                    NAME,
                    format!("{found}: {missing} of its parts are not in the cache"),
                    "start the node: it fetches them again",
                ),
            };
            check.with("version", policy.version)
        }
        Err(error) => Check::bad(NAME, error.to_string(), "remove the file and start the node"),
    }
}

/// The service, where one has the folder.
fn service(home: &Home) -> Option<Check> {
    let held = match home.is_in_use() {
        Ok(held) => held,
        Err(error) => return Some(Check::bad("service", error.to_string(), "make the folder readable")),
    };
    if !held {
        return None;
    }
    let report = home.report().ok().flatten();
    let pid = report.as_ref().and_then(|report| report.pid);
    let connected = report.as_ref().is_some_and(|report| report.connected);
    let process = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    let state = if connected { "connected" } else { "not connected" };
    let check = match report.and_then(|report| report.problem) {
        Some(problem) => {
            Check::note("service", format!("running{process}, {state}; last problem: {problem}"))
        }
        None => Check::good("service", format!("running{process}, {state}")),
    };
    Some(check.with("running", true).with("connected", connected))
}

/// Connects as the node does, and says nothing. A running service is not disturbed: it is the first word on a control
/// stream that takes its place.
async fn coordinator(home: &Home, settings: &NodeSettings, running: bool) -> Check {
    const NAME: &str = "coordinator";
    let addresses: Result<Vec<Address>, _> =
        settings.coordinator.iter().map(|address| address.parse()).collect();
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(error) => return Check::bad(NAME, format!("node.json, coordinator: {error}"), JOIN),
    };
    let Ok(identity) = Identity::load(home.identity()) else {
        return Check::bad(NAME, "not asked: there is no identity to show", JOIN);
    };
    let client = Client::default();
    let asked = tokio::time::timeout(PATIENCE, client.connect(&addresses, &identity)).await;
    let check = match asked {
        Ok(Ok(connection)) => {
            let address = connection.remote();
            connection.close(CloseCode::Finished);
            Check::good(NAME, format!("reached at {address}")).with("reached", true)
        }
        Ok(Err(error)) => {
            let remedy = "is `exeunt serve` running, and does UDP get through to it?";
            Check::bad(NAME, error.to_string(), remedy).with("reached", false)
        }
        Err(_late) => {
            let seconds = PATIENCE.as_secs();
            let remedy = "does UDP get through to it?";
            let shown = settings.coordinator.join(", ");
            Check::bad(NAME, format!("no answer from {shown} in {seconds} s"), remedy).with("reached", false)
        }
    };
    client.close(CloseCode::Finished).await;
    check.with("service_running", running)
}
