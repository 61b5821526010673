//! Uploads over a bad link: a coordinator in one process, a node that is no more than its uploads in another. The
//! driver of `scripts/netem.sh`; both work in one folder, which `serve` fills.
//!
//! ```text
//! uploads serve FOLDER NODES LISTEN [WEATHER]    WEATHER: LOSS DELAY_MS HASTY BYTES_PER_S, shares from 0 to 1
//! uploads send FOLDER NODE ADDRESS [NAME=VALUE ...]
//! ```
//! With a weather, everything passes a wire that makes it, for kernels without netem; without, the link is as it is.
//!
//! Names of `send`: `uploads`, `bytes`, `congestion` (cubic, new-reno or bbr), `reordering`,
//! `overdue` and `window` (of [`Limits`]), `cuts` (per upload, at random places), `cut`
//! and `mend` (commands for the shell), `pause` (seconds between them), `abandon` (yes: the node takes a new socket after
//! a cut, as after a kill; no: it waits until the connection works again or has died), `connections` (fail when an
//! upload took more).
//!
//! Fails when an upload does not complete, or when more arrives at the coordinator than the table, a twentieth for
//! headers, for each connection a window (what lay behind a gap when it was cut), and two handshakes for each attempt.

#![expect(clippy::unwrap_used, reason = "a panic is how it says what went wrong")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::wire::{Weather, Wire};
use common::{OPEN, connect_with, contribution, deliver, prepare, serve, table};
use exeunt_link::{Client, Congestion, Connection, Identity, Limits, Traffic};
use exeunt_protocol::message::Ack;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// Two handshakes: certificates both ways, and what is sent again of them.
const GREETINGS: u64 = 16 << 10;

/// What `serve` leaves for `send` to know.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    run: String,
    cells: usize,
}

/// What the wire has counted from nodes to the coordinator.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Counted {
    sent: u64,
    lost: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.as_slice() {
        ["serve", folder, nodes, listen, weather @ ..] => {
            let weather = match weather {
                [] => None,
                [loss, delay, hasty, rate] => Some(Weather {
                    loss: loss.parse().unwrap(),
                    delay: Duration::from_millis(delay.parse().unwrap()),
                    hasty: hasty.parse().unwrap(),
                    rate: Some(rate.parse().unwrap()),
                }),
                other => panic!("found {other:?}, expected LOSS DELAY_MS HASTY BYTES_PER_S"),
            };
            runtime.block_on(serving(
                Path::new(folder),
                nodes.parse().unwrap(),
                listen.parse().unwrap(),
                weather,
            ));
        }
        ["send", folder, node, address, options @ ..] => {
            let options = options.iter().map(|option| option.split_once('=').expect("NAME=VALUE")).collect();
            let sending =
                Sending::new(Path::new(folder), node.parse().unwrap(), address.parse().unwrap(), &options);
            runtime.block_on(sending.all());
        }
        other => panic!("found {other:?}, expected serve or send"),
    }
}

async fn serving(folder: &Path, nodes: usize, listen: SocketAddr, weather: Option<Weather>) {
    let prepared = prepare(folder, nodes);
    let facts = Facts { run: prepared.run.to_string(), cells: prepared.cells };
    let inside = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = serve(&prepared.home, if weather.is_some() { inside } else { listen }).await;
    let wire = match weather {
        Some(weather) => Some(Wire::lay(listen, server, weather, 1).await),
        None => None,
    };
    write(&folder.join("facts.json"), &facts);
    loop {
        if let Some(wire) = &wire {
            write(&folder.join("wire.json"), &Counted { sent: wire.up.sent(), lost: wire.up.lost() });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// In one piece, for a reader in another process.
fn write<T: Serialize>(path: &Path, value: &T) {
    let whole = path.with_extension("new");
    fs::write(&whole, serde_json::to_vec(value).unwrap()).unwrap();
    fs::rename(whole, path).unwrap();
}

struct Sending {
    folder: PathBuf,
    identity: Identity,
    address: SocketAddr,
    facts: Facts,
    limits: Limits,
    uploads: u64,
    bytes: usize,
    cuts: usize,
    cut: String,
    mend: String,
    pause: Duration,
    abandon: bool,
    connections: u64,
}

/// One upload, and what it took.
#[derive(Debug, Default)]
struct Upload {
    sent: u64,
    lost: u64,
    /// Handshakes begun; on a bad link some come to nothing.
    attempts: u64,
    connections: u64,
    offsets: Vec<usize>,
}

impl Sending {
    fn new(folder: &Path, node: usize, address: SocketAddr, options: &BTreeMap<&str, &str>) -> Self {
        let option = |name: &str, default: &'static str| (*options.get(name).unwrap_or(&default)).to_owned();
        let mut limits = Limits::default();
        limits.congestion = match option("congestion", "").as_str() {
            "" => limits.congestion,
            "cubic" => Congestion::Cubic,
            "new-reno" => Congestion::NewReno,
            "bbr" => Congestion::Bbr,
            other => panic!("found {other:?}, expected cubic, new-reno or bbr"),
        };
        if let Some(reordering) = options.get("reordering") {
            limits.reordering = reordering.parse().unwrap();
        }
        if let Some(overdue) = options.get("overdue") {
            limits.overdue_percent = overdue.parse().unwrap();
        }
        if let Some(window) = options.get("window") {
            limits.send_window = window.parse().unwrap();
        }
        Self {
            folder: folder.to_owned(),
            identity: Identity::load(folder.join(format!("node-{node}"))).unwrap(),
            address,
            facts: serde_json::from_slice(&fs::read(folder.join("facts.json")).unwrap()).unwrap(),
            limits,
            uploads: option("uploads", "1").parse().unwrap(),
            bytes: option("bytes", "5000000").parse().unwrap(),
            cuts: option("cuts", "0").parse().unwrap(),
            cut: option("cut", "true"),
            mend: option("mend", "true"),
            pause: Duration::from_secs_f64(option("pause", "0.5").parse().unwrap()),
            abandon: option("abandon", "yes") == "yes",
            connections: option("connections", "1000000").parse().unwrap(),
        }
    }

    async fn all(&self) {
        println!("upload seconds payload arrived sent lost attempts connections offsets");
        let mut failed = false;
        let (mut seconds, mut arrived_all, mut most_all) = (0.0, 0, 0);
        // Editions of the node's data: numbers that no upload before has used.
        let first = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        for number in 0..self.uploads {
            let bytes = table(self.facts.cells, self.bytes, first + number);
            let before = self.counted();
            let start = Instant::now();
            let upload = self.upload(first + number, &bytes).await;
            let took = start.elapsed().as_secs_f64();
            // What the wire counts is written down twenty times a second.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let after = self.counted();
            let arrived = match (before, after) {
                (Some(before), Some(after)) => Some((after.sent - after.lost) - (before.sent - before.lost)),
                _ => None,
            };
            let shown = arrived.map_or_else(|| "-".to_owned(), |arrived| arrived.to_string());
            let Upload { sent, lost, attempts, connections, offsets } = upload;
            println!(
                "{number} {took:.1} {} {shown} {sent} {lost} {attempts} {connections} {offsets:?}",
                bytes.len()
            );
            let most =
                bytes.len() as u64 * 21 / 20 + connections * self.limits.send_window + attempts * GREETINGS;
            // What of a window was on its way twice is chance: all uploads together must keep the bound.
            if arrived.is_some_and(|arrived| arrived > most) {
                println!(
                    "# {shown} bytes arrived, {most} would be payload, headers and a window per connection"
                );
            }
            most_all += most;
            if connections > self.connections {
                println!("upload {number}: {connections} connections, expected at most {}", self.connections);
                failed = true;
            }
            seconds += took;
            arrived_all += arrived.unwrap_or(0);
        }
        let payload = self.uploads * self.bytes as u64;
        let rate = payload as f64 / seconds / 1000.0;
        println!(
            "{} of {} uploads, {payload} bytes, {arrived_all} arrived, {rate:.0} kB/s",
            self.uploads, self.uploads
        );
        if arrived_all > most_all {
            println!("{arrived_all} bytes arrived, expected at most {most_all}");
            failed = true;
        }
        assert!(!failed, "see above");
    }

    async fn upload(&self, edition: u64, bytes: &[u8]) -> Upload {
        let contribution = contribution(&self.facts.run.parse().unwrap(), OPEN, edition, bytes);
        let mut chance = StdRng::seed_from_u64(edition);
        let mut cuts: Vec<u64> =
            (0..self.cuts).map(|_| (bytes.len() as f64 * chance.random_range(0.05..0.9)) as u64).collect();
        cuts.sort_unstable_by(|a, b| b.cmp(a));
        let mut upload = Upload::default();
        loop {
            upload.attempts += 1;
            let Ok((client, connection)) =
                connect_with(&self.identity, self.address, self.limits.clone()).await
            else {
                continue;
            };
            upload.connections += 1;
            let mut offset = None;
            let done = {
                let delivering = deliver(&connection, &contribution, bytes, &mut offset);
                tokio::pin!(delivering);
                loop {
                    tokio::select! {
                        done = &mut delivering => break Some(done),
                        () = sent(&connection, &upload, cuts.last().copied()) => {
                            cuts.pop();
                            shell(&self.cut);
                            if self.abandon {
                                break None;
                            }
                            tokio::time::sleep(self.pause).await;
                            shell(&self.mend);
                        }
                    }
                }
            };
            upload.note(connection.traffic(), offset);
            match done {
                Some(Ok(ack)) => {
                    assert_eq!(ack, Ack::Stored, "what became of edition {edition}");
                    client.close(exeunt_link::CloseCode::Finished).await;
                    return upload;
                }
                Some(Err(why)) => {
                    println!("# {why:?}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                None => {
                    // The socket goes without a word, since nothing gets through.
                    drop::<(Client, Connection)>((client, connection));
                    tokio::time::sleep(self.pause).await;
                    shell(&self.mend);
                }
            }
        }
    }

    fn counted(&self) -> Option<Counted> {
        serde_json::from_slice(&fs::read(self.folder.join("wire.json")).ok()?).ok()
    }
}

impl Upload {
    fn note(&mut self, traffic: Traffic, offset: Option<usize>) {
        self.sent += traffic.sent;
        self.lost += traffic.lost;
        self.offsets.extend(offset);
    }
}

/// Waits until so many bytes were sent over all connections; for ever, if none.
async fn sent(connection: &Connection, upload: &Upload, bytes: Option<u64>) {
    let Some(bytes) = bytes else { return std::future::pending().await };
    while upload.sent + connection.traffic().sent < bytes {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn shell(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "'{command}' failed");
}
