//! `exeunt doctor`: whether everything works where the coordinator lives.

use std::time::{Duration, SystemTime};

use exeunt_coordinator::{Home, OperatorClient};
use exeunt_link::Authority;
use exeunt_node::EngineOptions;
use exeunt_node::doctor::{Check, Checkup, clock, engine, free_space, identity, processor, sync_latency};
use exeunt_protocol::moment::unix_ms;
use exeunt_store::StoreError;

use crate::failure::NotWell;
use crate::show::size;

/// How long a running coordinator is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Problems of the store that are shown.
const SHOWN: usize = 5;
const RENEWED: &str = "start `exeunt serve`: it makes a new one";

pub(crate) fn doctor(home: &Home, options: &EngineOptions, json: bool) -> anyhow::Result<()> {
    let checkup = Checkup::new(home.root(), checks(home, options)?);
    if json {
        crate::out!("{}", serde_json::to_string_pretty(&checkup)?);
    } else {
        crate::out!("{}", checkup.text().trim_end());
    }
    if checkup.healthy { Ok(()) } else { Err(NotWell.into()) }
}

fn checks(home: &Home, options: &EngineOptions) -> anyhow::Result<Vec<Check>> {
    let now = SystemTime::now();
    let mut checks = vec![engine(options), processor(None), clock(now)];
    let folder = home.root();
    if !folder.join("authority").exists() && !home.store().exists() {
        let found =
            "no coordinator was ever started here; `exeunt serve` makes one, --home names another folder";
        checks.push(Check::note("authority", found));
        return Ok(checks);
    }
    checks.push(match Authority::open(folder.join("authority")) {
        Ok(authority) => Check::good("authority", format!("short id {}", authority.id().short())),
        Err(error) => {
            let remedy = "put the folder back from a copy: every node trusts this authority and no other";
            Check::bad("authority", error.to_string(), remedy)
        }
    });
    checks.push(identity("identity", &folder.join("identity"), now, RENEWED));
    checks.push(identity("operator", &folder.join("operator"), now, RENEWED));
    checks.push(match home.operator() {
        Ok((_, whereabouts)) => {
            let list = |addresses: &[exeunt_link::Address]| {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            let advertised = list(&whereabouts.advertised);
            Check::good("address", format!("{} (in join tokens)", advertised.join(", ")))
                .with("local", list(&whereabouts.local))
                .with("advertised", advertised)
        }
        Err(error) => Check::note("address", error.to_string()),
    });
    checks.extend([free_space(folder), sync_latency(folder)]);
    let (store, in_use) = store(home, now);
    checks.push(store);
    checks.push(if in_use {
        service(home)?
    } else {
        Check::note("service", "not running; `exeunt serve` starts it").with("running", false)
    });
    Ok(checks)
}

/// The store, and whether somebody has it.
fn store(home: &Home, now: SystemTime) -> (Check, bool) {
    const NAME: &str = "store";
    let path = home.store();
    if !path.exists() {
        return (Check::note(NAME, "none yet"), false);
    }
    let examined = match exeunt_coordinator::examine(home) {
        Ok(examined) => examined,
        Err(StoreError::InUse { .. }) => {
            let found = "not looked at: the running coordinator holds it; stop it to have it looked at";
            return (Check::note(NAME, found), true);
        }
        // Starting the coordinator brings either in order.
        Err(error @ (StoreError::NotClosed { .. } | StoreError::Older { .. })) => {
            return (Check::note(NAME, error.to_string()), false);
        }
        Err(error @ StoreError::Newer { .. }) => {
            return (Check::bad(NAME, error.to_string(), "use the version that wrote it"), false);
        }
        Err(error) => {
            let text = crate::failure::describe(&anyhow::Error::from(error));
            return (Check::bad(NAME, text, "put the file back from a copy"), false);
        }
    };
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    let entries =
        |name: &str| examined.tables.iter().find(|(table, _)| *table == name).map_or(0, |(_, n)| *n);
    let ahead = examined.last_audit_ms.is_some_and(|last| last > unix_ms(now));
    let problems = examined.problems.len() as u64 + examined.more_problems;
    let found = format!(
        "format {}, {}: {} nodes, {} runs, {} tables, {} sums, {} lines of audit",
        examined.format,
        size(bytes),
        entries("nodes"),
        entries("runs"),
        entries("tables"),
        entries("seals"),
        examined.audit_lines
    );
    let check = if problems > 0 {
        let mut shown: Vec<&str> = examined.problems.iter().map(String::as_str).take(SHOWN).collect();
        let more = problems - shown.len() as u64;
        let rest = format!("and {more} more");
        if more > 0 {
            shown.push(&rest);
        }
        let remedy = "the disk or somebody changed it: put the file back from a copy";
        Check::bad(NAME, format!("{found}; {}", shown.join("; ")), remedy)
    } else if ahead {
        Check::note(NAME, format!("{found}; its last line is from the future: the clock was set back"))
    } else {
        Check::good(NAME, found)
    };
    let tables: serde_json::Map<String, serde_json::Value> =
        examined.tables.iter().map(|(table, entries)| ((*table).to_owned(), (*entries).into())).collect();
    let check = check.with("format", examined.format).with("bytes", bytes).with("tables", tables);
    (check.with("problems", examined.problems).with("problem_count", problems), false)
}

/// Whether the coordinator that holds the store answers.
fn service(home: &Home) -> anyhow::Result<Check> {
    let asked = crate::runtime()?.block_on(async {
        let client = tokio::time::timeout(PATIENCE, OperatorClient::connect(home)).await;
        match client {
            Ok(Ok(client)) => {
                client.close().await;
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_late) => Err(format!("no answer in {} s", PATIENCE.as_secs())),
        }
    });
    Ok(match asked {
        Ok(()) => Check::good("service", "running, and answers").with("running", true),
        Err(why) => {
            let remedy = "end the process that holds the store, and start `exeunt serve`";
            Check::bad("service", format!("something holds the store and does not answer: {why}"), remedy)
                .with("running", false)
        }
    })
}
