//! The simulation: a queue of events on a virtual clock, the coordinator, the nodes, and the network between them.
//!
//! Between two ends, what one control stream carries stays in order and whole for as long as its connection lives, as
//! QUIC promises; nothing else is promised. Streams overtake each other, break before or after they were heard, and
//! arrive twice; connections die and each end learns of it in its own time; what was under way when a connection died
//! may still arrive.

mod coordinator;
mod end;
mod event;
mod nodes;
mod trouble;
mod wires;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::{self, Write as _};
use std::time::Duration;

use exeunt_protocol::{PolicyVersion, RunId};
use exeunt_stats::Digest;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use event::{Connection, Event};

use super::device::Device;
use super::disk::{Disk, End};
use super::oracle::{Oracle, Promise};
use super::samples::Samples;
use super::scenario::{CALM, Fault, Millis, STORM, Scenario, Weather};
use super::site::{Kit, Site, Time, nothing_sealed};
use super::witness::{Mutation, Sealed};

/// A connection over which nothing comes for so long is dead.
const IDLE: Millis = 10_000;
/// How long a failed fetch or delivery rests before the node tries again.
const RETRY: Millis = 1000;
/// How long a node waits for an answer to its first packet.
const CONNECT: Millis = 3000;
/// How often what a partition holds back is tried again.
const HELD: Millis = 300;
/// How long whatever restarts a coordinator that ended waits before it tries again.
const RESTART: Millis = 1500;
/// Most milliseconds that what reaches the coordinator waits, while its disk is well.
const SLOW: Millis = 4;
/// What the wall shows at the beginning.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// More events than any scenario should need.
const MOST_EVENTS: u64 = 400_000;

/// What came of a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<super::Violation>,
    pub(crate) events: u64,
    /// How often each kind of fault happened, as in [`Fault::KINDS`].
    pub(crate) faults: [u64; Fault::KINDS.len()],
    pub(crate) restarts: u64,
    pub(crate) counts: super::oracle::Counts,
    /// Names everything that happened, in order.
    pub(crate) digest: Digest,
    pub(crate) trace: Vec<String>,
    pub(crate) virtual_ms: Millis,
}

/// Everything there is.
pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    kit: &'a Kit,
    mutation: Option<Mutation>,
    now: Millis,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    due: BTreeMap<u64, Event>,
    next: u64,
    chance: ChaCha8Rng,
    luck: ChaCha8Rng,

    disk: Disk,
    sealed: Sealed,
    site: Option<Site>,
    site_life: u64,
    /// How it ends when its fuse is down, and for how long.
    fuse: Option<(End, Millis)>,
    disk_full: u32,
    /// Most milliseconds that what reaches the coordinator waits.
    slow: Millis,
    wall_skew: i64,
    ahead: Millis,

    devices: Vec<Device>,
    connections: BTreeMap<u64, Connection>,
    partitions: Vec<(usize, Option<usize>)>,
    weather: Weather,
    calm: bool,

    samples: Samples,
    oracle: Oracle,
    runs: Vec<RunId>,
    wishes_open: usize,
    /// The policy that was put in force last, as its operator knows.
    in_force: Option<(RunId, PolicyVersion)>,
    /// An operator did not hear what became of a wish.
    in_doubt: bool,

    faults: [u64; Fault::KINDS.len()],
    restarts: u64,
    line: String,
    digest: Digest,
    trace: Option<Vec<String>>,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, kit: &'a Kit, mutation: Option<Mutation>, trace: bool) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(scenario.seed);
        let mut luck = chance.clone();
        chance.set_stream(1);
        luck.set_stream(2);
        let nodes = scenario.nodes.iter().enumerate();
        Self {
            scenario,
            kit,
            mutation,
            now: 0,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            next: 0,
            chance,
            luck,
            disk: Disk::new(mutation == Some(Mutation::NeverSync)),
            sealed: nothing_sealed(),
            site: None,
            site_life: 0,
            fuse: None,
            disk_full: 0,
            slow: SLOW,
            wall_skew: 0,
            ahead: 0,
            devices: nodes.map(|(number, plan)| Device::new(number, *plan)).collect(),
            connections: BTreeMap::new(),
            partitions: Vec::new(),
            weather: scenario.weather,
            calm: false,
            samples: Samples::new(kit.plan.context.clone()),
            oracle: Oracle::default(),
            runs: Vec::new(),
            wishes_open: scenario.wishes.len(),
            in_force: None,
            in_doubt: false,
            faults: [0; Fault::KINDS.len()],
            restarts: 0,
            line: String::new(),
            digest: Digest::of(&[]),
            trace: trace.then(Vec::new),
        }
    }

    /// Lets everything happen, and says what came of it.
    pub(crate) fn run(mut self) -> Outcome {
        self.at(0, Event::CoordinatorStarts);
        for (node, device) in self.scenario.nodes.iter().enumerate() {
            self.at(device.joins, Event::NodeStarts { node });
        }
        for (wish, (at, _)) in self.scenario.wishes.iter().enumerate() {
            self.at(*at, Event::Wish { wish, tries: 0 });
        }
        for (fault, what) in self.scenario.faults.iter().enumerate() {
            self.at(what.at(), Event::Fault(fault));
        }
        let storm = STORM.as_millis() as Millis;
        self.at(storm, Event::Calm);
        let end = storm + CALM.as_millis() as Millis;
        let mut events = 0;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            let Some(event) = self.due.remove(&number) else { continue };
            self.now = at;
            events += 1;
            if matches!(event, Event::Look) && self.has_settled() {
                break;
            }
            if at > end || events > MOST_EVENTS {
                let why = self.unsettled();
                self.blame(Promise::Liveness, why);
                break;
            }
            self.happen(event);
            if !self.oracle.violations().is_empty() {
                break;
            }
        }
        if self.oracle.violations().is_empty() {
            self.final_checks();
        }
        Outcome {
            violations: self.oracle.violations().to_vec(),
            events,
            faults: self.faults,
            restarts: self.restarts,
            counts: self.oracle.counts,
            digest: self.digest,
            trace: self.trace.unwrap_or_default(),
            virtual_ms: self.now,
        }
    }

    fn at(&mut self, at: Millis, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((at, self.next)));
        self.due.insert(self.next, event);
    }

    fn after(&mut self, wait: Millis, event: Event) {
        self.at(self.now + wait, event);
    }

    /// Some milliseconds, at most so many.
    fn some(&mut self, most: Millis) -> Millis {
        if most == 0 { 0 } else { self.chance.random_range(0..=most) }
    }

    fn happens(&mut self, in_a_thousand: u32) -> bool {
        in_a_thousand > 0 && self.chance.random_range(0..1000) < in_a_thousand
    }

    fn time(&self) -> Time {
        Time {
            monotonic: Duration::from_millis(self.now + self.ahead),
            unix_ms: (EPOCH_MS + self.now).saturating_add_signed(self.wall_skew),
        }
    }

    fn note(&mut self, what: fmt::Arguments<'_>) {
        self.line.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.line, "{:>7} ", self.now);
        let _ = self.line.write_fmt(what);
        if let Some(trace) = &mut self.trace {
            trace.push(self.line.clone());
        }
        let mut bytes = *self.digest.as_bytes();
        let line = Digest::of(self.line.as_bytes());
        bytes.iter_mut().zip(line.as_bytes()).for_each(|(byte, line)| *byte ^= line);
        self.digest = Digest::of(&bytes);
    }

    fn blame(&mut self, promise: Promise, what: String) {
        self.note(format_args!("VIOLATION {promise}: {what}"));
        self.oracle.blame(self.now, promise, what);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) => self.strike(fault),
            Event::FaultOver(fault) => self.relent(fault),
            Event::Wish { wish, tries } => self.wish(wish, tries),
            Event::Calm => {
                self.note(format_args!("calm"));
                self.calm = true;
                self.weather = Weather { lost: 0, ..self.scenario.weather };
                self.after(500, Event::Look);
            }
            Event::Look => self.after(500, Event::Look),
            Event::CoordinatorStarts => self.coordinator_starts(),
            Event::Desk { life } if life == self.site_life => self.desk(),
            Event::Wake { life } if life == self.site_life => self.wake(),
            Event::Reaches { life, asked } if life == self.site_life => self.reaches(asked),
            Event::NodeStarts { node } => self.node_starts(node),
            Event::Joins { node, life } if self.lives(node, life) => self.joins(node),
            Event::Connects { node, life } if self.lives(node, life) => self.connects(node),
            Event::GivesUp { node, life, attempt } if self.lives(node, life) => self.gives_up(node, attempt),
            Event::Up { connection } => self.up(connection),
            Event::Down { connection } => self.down(connection),
            Event::Idle { connection } => self.idle(connection),
            Event::NodeLoses { connection } => self.node_loses(connection),
            Event::StreamAnswered { node, connection, stream, reply } => {
                self.stream_answered(node, connection, stream, reply);
            }
            Event::StreamBroken { node, life, stream } if self.lives(node, life) => {
                self.stream_broken(node, stream);
            }
            Event::Computed { node, life } if self.lives(node, life) => self.computed(node),
            // What belongs to an earlier life.
            _ => {}
        }
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        let device = &self.devices[node];
        device.life == life && device.process.is_some()
    }

    fn is_cut_off(&self, node: usize) -> bool {
        self.partitions.iter().any(|(_, of)| of.is_none_or(|of| of == node))
    }
}
