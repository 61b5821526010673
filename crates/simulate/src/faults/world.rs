//! The simulation: a queue of events on a virtual clock, the coordinator, the nodes, and the network between them.
//!
//! Between two ends, what one control stream carries stays in order and whole for as long as its connection lives, as
//! QUIC promises; nothing else is promised. Streams overtake each other, break before or after they were heard, and
//! arrive twice; connections die and each end learns of it in its own time; what was under way when a connection died
//! may still arrive.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use exeunt_exits::PolicyRequest;
use exeunt_protocol::coordinator::{Standing, Target};
use exeunt_protocol::message::{Ack, BlobRef, Contribution, Desired, FromNode};
use exeunt_protocol::node::{Input, Output};
use exeunt_protocol::{PolicyVersion, QueryId, RunId};
use exeunt_stats::{Digest, packed};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::device::{Device, Job, Stream};
use super::disk::{Disk, End};
use super::oracle::{Oracle, Promise};
use super::samples::Samples;
use super::scenario::{CALM, Fault, Millis, STORM, Scenario, Weather, Wish};
use super::site::{Answer, Asked, Kit, Site, Time, nothing_sealed};
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

/// Something that happens at a certain time.
#[derive(Debug, Clone)]
enum Event {
    Fault(usize),
    FaultOver(usize),
    Wish {
        wish: usize,
        tries: u32,
    },
    Calm,
    Look,
    CoordinatorStarts,
    Desk {
        life: u64,
    },
    Wake {
        life: u64,
    },
    Reaches {
        life: u64,
        asked: Box<Asked>,
    },
    NodeStarts {
        node: usize,
    },
    Joins {
        node: usize,
        life: u64,
    },
    Connects {
        node: usize,
        life: u64,
    },
    GivesUp {
        node: usize,
        life: u64,
        attempt: u64,
    },
    /// The next word of a control stream is due.
    Up {
        connection: u64,
    },
    Down {
        connection: u64,
    },
    Idle {
        connection: u64,
    },
    NodeLoses {
        connection: u64,
    },
    StreamAnswered {
        node: usize,
        connection: u64,
        stream: u64,
        reply: Reply,
    },
    StreamBroken {
        node: usize,
        life: u64,
        stream: u64,
    },
    Computed {
        node: usize,
        life: u64,
    },
}

#[derive(Debug, Clone)]
enum Reply {
    Blob { digest: Digest, bytes: Option<Arc<[u8]>> },
    Ack { contribution: Contribution, ack: Ack },
}

/// A control stream, and the connection under it.
#[derive(Debug)]
struct Connection {
    node: usize,
    up: VecDeque<Word>,
    down: VecDeque<Reaction>,
    /// The node's end lives.
    alive: bool,
    /// The coordinator, by its life, that has heard the hello and not yet noticed the end.
    greeted: Option<u64>,
}

#[derive(Debug)]
enum Word {
    Hello,
    Said(FromNode),
}

#[derive(Debug)]
enum Reaction {
    Welcome,
    Desired(Desired),
    /// Closed, because the node was shut out.
    Barred,
}

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

    // Faults.

    fn strike(&mut self, fault: usize) {
        let what = self.scenario.faults[fault];
        self.note(format_args!("fault {what:?}"));
        self.faults[what.kind()] += 1;
        match what {
            Fault::Partition { lasts, node, .. } => {
                self.partitions.push((fault, node));
                self.after(lasts, Event::FaultOver(fault));
                let cut: Vec<u64> = self.connections.keys().copied().collect();
                for connection in cut {
                    self.after(IDLE, Event::Idle { connection });
                }
            }
            Fault::Break { node, .. } => self.break_connection(node),
            Fault::Storm { lasts, weather, .. } => {
                self.weather = weather;
                self.after(lasts, Event::FaultOver(fault));
            }
            Fault::NodeDies { node, down, keeps_cache, .. } => self.node_dies(node, down, keeps_cache),
            Fault::CoordinatorEnds { end, down, .. } => self.coordinator_ends(end, down),
            Fault::Fuse { operations, end, down, .. } => {
                self.fuse = Some((end, down));
                self.disk.light_fuse(operations);
            }
            Fault::DiskFull { lasts, .. } => {
                self.disk_full += 1;
                self.disk.set_full(true);
                self.after(lasts, Event::FaultOver(fault));
            }
            Fault::Clock { wall_ms, ahead, .. } => {
                self.wall_skew += wall_ms;
                self.ahead += ahead;
                self.after(0, Event::Wake { life: self.site_life });
            }
            Fault::SlowDisk { lasts, slow, .. } => {
                self.slow = slow;
                self.after(lasts, Event::FaultOver(fault));
            }
            Fault::Data { node, change, .. } => self.devices[node].change(change),
            Fault::Relapse { node, change, .. } => self.devices[node].relapse = Some(change),
        }
    }

    fn relent(&mut self, fault: usize) {
        self.note(format_args!("over {:?}", self.scenario.faults[fault]));
        match self.scenario.faults[fault] {
            Fault::Partition { .. } => self.partitions.retain(|(of, _)| *of != fault),
            Fault::Storm { .. } => {
                self.weather = self.scenario.weather;
                if self.calm {
                    self.weather.lost = 0;
                }
            }
            Fault::SlowDisk { .. } => self.slow = SLOW,
            Fault::DiskFull { .. } => {
                self.disk_full -= 1;
                self.disk.set_full(self.disk_full > 0);
            }
            _ => {}
        }
    }

    /// A connection breaks; each end learns of it when it does.
    fn break_connection(&mut self, node: usize) {
        let current = self.devices[node].process.as_ref().and_then(|process| process.connection);
        if let Some(connection) = current {
            let (near, far) = (self.some(2000), self.some(IDLE));
            self.after(near, Event::NodeLoses { connection });
            self.coordinator_loses(far, connection, node);
        }
    }

    fn coordinator_loses(&mut self, wait: Millis, connection: u64, node: usize) {
        let asked = Box::new(Asked::Lost { connection, node: self.devices[node].id });
        self.after(wait, Event::Reaches { life: self.site_life, asked });
    }

    // The coordinator.

    fn coordinator_starts(&mut self) {
        if self.site.is_some() {
            return;
        }
        let opened = Site::open(self.disk.clone(), self.time(), &self.sealed, self.mutation);
        self.notice_seals();
        match opened {
            Ok(site) => {
                self.note(format_args!("coordinator up"));
                self.site_life += 1;
                self.site = Some(site);
                self.check_store();
                let life = self.site_life;
                self.after(0, Event::Wake { life });
            }
            Err(error) => self.coordinator_failed(&error.to_string()),
        }
    }

    /// The coordinator has ended by itself.
    fn coordinator_failed(&mut self, error: &str) {
        self.note(format_args!("coordinator failed: {error}"));
        if self.disk.is_dead() {
            let (end, down) = self.fuse.take().unwrap_or((End::Kill, RESTART));
            self.coordinator_ends(end, down);
        } else if self.disk_full > 0 {
            self.coordinator_ends(End::Kill, RESTART);
        } else {
            self.blame(Promise::Running, error.to_owned());
        }
    }

    fn coordinator_ends(&mut self, end: End, down: Millis) {
        self.note(format_args!("coordinator down: {end:?}"));
        if end != End::Stop {
            self.disk.cut_off();
        }
        self.restarts += 1;
        self.site_life += 1;
        if let Some(site) = self.site.take() {
            for asked in &site.inbox {
                if let Some(wish) = asked.wish() {
                    self.in_doubt(wish);
                }
            }
        }
        self.disk.settle(end, &mut self.luck);
        self.disk.set_full(self.disk_full > 0);
        let lost: Vec<u64> =
            self.connections.iter().filter(|(_, of)| of.alive).map(|(number, _)| *number).collect();
        for connection in lost {
            let wait = self.some(5000);
            self.after(wait, Event::NodeLoses { connection });
        }
        self.after(down, Event::CoordinatorStarts);
    }

    /// An operator did not hear what became of a wish, and asks again.
    fn in_doubt(&mut self, wish: usize) {
        self.in_doubt = true;
        self.after(RETRY, Event::Wish { wish, tries: 1 });
    }

    fn ask(&mut self, asked: Asked) {
        let life = self.site_life;
        let wait = self.some(self.slow);
        let Some(site) = &mut self.site else { return };
        if site.inbox.is_empty() {
            self.after(wait, Event::Desk { life });
        }
        if let Some(site) = &mut self.site {
            site.inbox.push(asked);
        }
    }

    fn wake(&mut self) {
        let time = self.time();
        if let Some(at) = self.site.as_ref().and_then(Site::timeout) {
            if at <= time.monotonic {
                self.ask(Asked::Tick);
            } else {
                let wait = (at - time.monotonic).as_millis() as Millis + 1;
                self.after(wait, Event::Wake { life: self.site_life });
            }
        }
    }

    fn desk(&mut self) {
        let time = self.time();
        let Some(site) = &mut self.site else { return };
        let wishes: Vec<usize> = site.inbox.iter().filter_map(Asked::wish).collect();
        let woken = site.inbox.iter().any(|asked| matches!(asked, Asked::Tick));
        let before = site.timeout();
        let worked = site.work(time, self.kit);
        let timeout = site.timeout();
        self.notice_seals();
        match worked {
            Ok(answers) => {
                for answer in answers {
                    self.leaves(answer);
                }
                if woken && timeout.is_some_and(|at| at <= time.monotonic) {
                    self.blame(Promise::Running, "it wants to be woken at once, for ever".to_owned());
                } else if timeout.is_some_and(|at| at <= time.monotonic || timeout != before) {
                    self.wake();
                }
            }
            Err(error) => {
                for wish in wishes {
                    self.in_doubt(wish);
                }
                self.coordinator_failed(&error.to_string());
            }
        }
    }

    /// Tells the oracle of what was sealed; before it hears of what was acknowledged in the same breath.
    fn notice_seals(&mut self) {
        let sealed =
            std::mem::take(&mut *self.sealed.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (run, id, seal) in sealed {
            self.note(format_args!("{id} of {run} sealed: {:?}, {:?}", seal.cohort, seal.digest));
            self.tell_of_seal(run, id, seal);
        }
    }

    fn tell_of_seal(&mut self, run: RunId, id: QueryId, seal: exeunt_store::Seal) {
        let asked = self.site.as_ref().map(|site| site.core.machine().queries(&run)).unwrap_or_default();
        let query = asked.get(id.0 as usize);
        self.oracle.sealed(self.now, Device::place, &self.samples, query, (run, id, seal));
    }

    fn check_store(&mut self) {
        let Some(site) = &self.site else { return };
        let mut found = Vec::new();
        for run in site.core.machine().runs() {
            let seals = site.core.store().seals(run).unwrap_or_default();
            found.extend(seals.into_iter().map(|(query, seal)| (run.clone(), query, seal)));
        }
        // One may have become durable in the moment of a crash.
        for (run, id, seal) in found {
            self.tell_of_seal(run, id, seal);
        }
        if let Some(site) = &self.site {
            self.oracle.check_store(self.now, site.core.store());
        }
    }

    fn leaves(&mut self, answer: Answer) {
        match answer {
            Answer::Joined { node } => {
                self.oracle.enrolled(node);
                let place = Device::place(node);
                if !self.weather_loses() && !self.devices[place].joined {
                    self.note(format_args!("node {place} joined"));
                    self.devices[place].joined = true;
                    let life = self.devices[place].life;
                    self.after(1, Event::Connects { node: place, life });
                }
            }
            Answer::Superseded { connection } => {
                let wait = self.delay();
                self.after(wait, Event::NodeLoses { connection });
            }
            Answer::Desired { connection, desired } => self.say(connection, Reaction::Desired(desired)),
            Answer::Blob { connection, stream, digest, bytes } => {
                self.reply(connection, stream, Reply::Blob { digest, bytes });
            }
            Answer::Ack { connection, node, stream, contribution, ack } => {
                let query = contribution.query;
                self.note(format_args!("{query} of {}: {node} gets {ack:?}", contribution.run));
                match &ack {
                    Ack::Stored => self.oracle.acknowledged(self.now, node, &contribution),
                    _ => self.oracle.counts.rejected += 1,
                }
                self.reply(connection, stream, Reply::Ack { contribution, ack });
            }
            Answer::Started { wish, run } => {
                self.note(format_args!("wish {wish}: {run} started"));
                self.runs.push(run);
                self.wishes_open -= 1;
            }
            Answer::PolicySet { wish, run, version, target } => {
                self.note(format_args!("wish {wish}: policy {} of {run}", version.0));
                self.oracle.policy_set(run.clone(), version);
                if target == Target::Fleet {
                    self.in_force = Some((run, version));
                }
                self.wishes_open -= 1;
            }
            Answer::Granted { wish } => {
                self.note(format_args!("wish {wish}: granted"));
                // A policy is chosen again when a contribution was taken out.
                self.in_doubt |= matches!(self.scenario.wishes[wish].1, Wish::Remove { .. });
                self.wishes_open -= 1;
            }
            Answer::Stopped { wish, run } => {
                self.note(format_args!("wish {wish}: {run} stopped"));
                self.oracle.stopped(run);
                self.wishes_open -= 1;
            }
            Answer::Revoked { wish, node } => {
                self.note(format_args!("wish {wish}: {node} shut out"));
                self.oracle.revoked(node);
                self.wishes_open -= 1;
                let place = Device::place(node);
                if let Some(connection) = self.devices[place].process.as_ref().and_then(|p| p.connection) {
                    self.say(connection, Reaction::Barred);
                }
            }
            Answer::Later { wish } => self.after(2 * RETRY, Event::Wish { wish, tries: 1 }),
            Answer::Refused { wish } => {
                self.note(format_args!("wish {wish}: refused"));
                self.wishes_open -= 1;
            }
        }
    }

    fn wish(&mut self, number: usize, tries: u32) {
        let wish = self.scenario.wishes[number].1;
        let run = |run: usize| self.runs.get(run).cloned();
        let device = |node: usize| self.devices.get(node);
        // The operator's answer to a start may have been lost; one that is still wanted is asked for again.
        let asked =
            match wish {
                Wish::StartRun => Some(Asked::StartRun { wish: number }),
                Wish::SetPolicy { run: of, percent } => run(of).map(|run| Asked::SetPolicy {
                    wish: number,
                    run,
                    request: PolicyRequest::Fraction(f64::from(percent) / 100.0),
                    target: Target::Fleet,
                }),
                Wish::TryPolicy { run: of, percent } => run(of).map(|run| Asked::SetPolicy {
                    wish: number,
                    run,
                    request: PolicyRequest::Fraction(f64::from(percent) / 100.0),
                    target: Target::Nobody,
                }),
                Wish::StopRun { run: of } => run(of).map(|run| Asked::Stop { wish: number, run }),
                Wish::Revoke { node } => {
                    device(node).map(|device| Asked::Revoke { wish: number, node: device.id })
                }
                Wish::Quarantine { node } => {
                    device(node).map(|device| Asked::Quarantine { wish: number, node: device.id })
                }
                Wish::Release { node } => {
                    device(node).map(|device| Asked::Release { wish: number, node: device.id })
                }
                Wish::Remove { run: of, node } => run(of)
                    .zip(device(node))
                    .map(|(run, device)| Asked::Remove { wish: number, run, node: device.id }),
            };
        if let Some(device) = wish.node().and_then(device) {
            self.oracle.leaves_out(device.id);
        }
        let starts = self.scenario.wishes.iter().filter(|(_, wish)| *wish == Wish::StartRun).count();
        match asked {
            Some(asked) if self.site.is_some() => self.ask(asked),
            // A shortened scenario may lack the run that it was about.
            None if wish.run().is_some_and(|run| run >= starts) => self.wishes_open -= 1,
            _ => self.after(RETRY, Event::Wish { wish: number, tries: tries + 1 }),
        }
    }

    // Nodes.

    fn node_starts(&mut self, node: usize) {
        let device = &mut self.devices[node];
        if device.shut_out || device.process.is_some() {
            return;
        }
        device.start();
        let (joined, life) = (device.joined, device.life);
        self.note(format_args!("node {node} up"));
        let next = if joined { Event::Connects { node, life } } else { Event::Joins { node, life } };
        self.after(1, next);
    }

    fn node_dies(&mut self, node: usize, down: Millis, keeps_cache: bool) {
        let device = &mut self.devices[node];
        let Some(process) = device.process.take() else { return };
        if !keeps_cache {
            device.cache.clear();
        }
        if let Some(connection) = process.connection {
            if let Some(connection) = self.connections.get_mut(&connection) {
                connection.alive = false;
            }
            let wait = self.some(IDLE);
            self.coordinator_loses(wait, connection, node);
        }
        self.after(down, Event::NodeStarts { node });
    }

    /// A token is made by the operator and carried to the node by hand; it makes both happen until they have.
    fn joins(&mut self, node: usize) {
        if self.devices[node].joined {
            return;
        }
        let (id, life) = (self.devices[node].id, self.devices[node].life);
        let secret = Digest::of(id.as_bytes());
        if !self.is_cut_off(node) && !self.weather_loses() {
            if !self.oracle.is_enrolled(id) {
                self.ask(Asked::Token { secret });
            }
            self.ask(Asked::Join { node: id, secret });
        }
        let wait = RETRY + self.some(1000);
        self.after(wait, Event::Joins { node, life });
    }

    fn connects(&mut self, node: usize) {
        self.next += 1;
        let connection = self.next;
        let device = &mut self.devices[node];
        let life = device.life;
        let Some(process) = &mut device.process else { return };
        if process.connection.is_some() {
            return;
        }
        process.attempt += 1;
        process.connection = Some(connection);
        let attempt = process.attempt;
        let (up, down) = (VecDeque::from([Word::Hello]), VecDeque::new());
        self.connections.insert(connection, Connection { node, up, down, alive: true, greeted: None });
        let wait = self.delay();
        self.after(wait, Event::Up { connection });
        self.after(CONNECT, Event::GivesUp { node, life, attempt });
    }

    /// Nobody answered.
    fn gives_up(&mut self, node: usize, attempt: u64) {
        let Some(process) = &self.devices[node].process else { return };
        if process.attempt == attempt
            && !process.machine.is_connected()
            && let Some(connection) = process.connection
        {
            self.node_loses(connection);
        }
    }

    fn node_loses(&mut self, connection: u64) {
        let Some(lost) = self.connections.get_mut(&connection) else { return };
        lost.alive = false;
        let node = lost.node;
        let device = &mut self.devices[node];
        let life = device.life;
        let Some(process) = &mut device.process else { return };
        if process.connection != Some(connection) {
            return;
        }
        process.connection = None;
        process.streams.clear();
        process.machine.handle(Input::Disconnected);
        let wait = process.back_off();
        self.note(format_args!("node {node} lost its connection"));
        let wait = wait + self.some(wait / 4);
        self.after(wait, Event::Connects { node, life });
    }

    fn idle(&mut self, connection: u64) {
        let Some(node) = self.connections.get(&connection).filter(|c| c.alive).map(|c| c.node) else {
            return;
        };
        if self.is_cut_off(node) {
            self.node_loses(connection);
            let wait = self.some(2000);
            self.coordinator_loses(wait, connection, node);
        }
    }

    fn delay(&mut self) -> Millis {
        1 + self.some(self.weather.delay)
    }

    fn weather_loses(&mut self) -> bool {
        let lost = self.weather.lost;
        self.happens(lost)
    }

    /// A packet of a control stream that is lost is sent again.
    fn control_delay(&mut self) -> Millis {
        let again = if self.weather_loses() { 300 } else { 0 };
        self.delay() + again
    }

    fn say(&mut self, connection: u64, reaction: Reaction) {
        let Some(to) = self.connections.get_mut(&connection) else { return };
        // A slow reader finds the newest state, not every one there was.
        if matches!(reaction, Reaction::Desired(_)) {
            to.down.retain(|known| !matches!(known, Reaction::Desired(_)));
        }
        to.down.push_back(reaction);
        let wait = self.control_delay();
        self.after(wait, Event::Down { connection });
    }

    /// The next word that a node said reaches the coordinator.
    fn up(&mut self, connection: u64) {
        let Some(node) = self.connections.get(&connection).map(|connection| connection.node) else { return };
        if self.is_cut_off(node) {
            self.after(HELD, Event::Up { connection });
            return;
        }
        let (id, life) = (self.devices[node].id, self.site_life);
        let Some(from) = self.connections.get_mut(&connection) else { return };
        match from.up.pop_front() {
            Some(Word::Hello) => {
                let Some(site) = &self.site else { return };
                if site.bars(id) {
                    self.say(connection, Reaction::Barred);
                    return;
                }
                from.greeted = Some(life);
                if !from.alive {
                    let wait = self.some(IDLE);
                    self.coordinator_loses(wait, connection, node);
                }
                self.say(connection, Reaction::Welcome);
                self.ask(Asked::Hello { connection, node: id });
            }
            Some(Word::Said(word)) if from.greeted == Some(life) => self.ask(Asked::Word { node: id, word }),
            _ => {}
        }
    }

    /// A request reaches the coordinator.
    fn reaches(&mut self, asked: Box<Asked>) {
        match *asked {
            Asked::Lost { connection, .. } => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.greeted = None;
                }
            }
            Asked::Fetch { node, .. } | Asked::Deliver { node, .. }
                if self.is_cut_off(Device::place(node)) =>
            {
                self.after(HELD, Event::Reaches { life: self.site_life, asked });
                return;
            }
            _ => {}
        }
        self.ask(*asked);
    }

    /// The next word of the coordinator reaches a node.
    fn down(&mut self, connection: u64) {
        let Some(from) = self.connections.get_mut(&connection) else { return };
        let node = from.node;
        if !from.alive {
            return;
        }
        if self.is_cut_off(node) {
            self.after(HELD, Event::Down { connection });
            return;
        }
        let Some(from) = self.connections.get_mut(&connection) else { return };
        let Some(word) = from.down.pop_front() else { return };
        let device = &mut self.devices[node];
        let Some(process) = &mut device.process else { return };
        if process.connection != Some(connection) {
            return;
        }
        match word {
            Reaction::Welcome => {
                process.welcomed();
                process.machine.handle(Input::Connected);
                self.note(format_args!("node {node} connected"));
            }
            Reaction::Desired(desired) => {
                process.machine.handle(Input::Desired(desired));
                self.note(format_args!("node {node} hears what is wanted"));
            }
            Reaction::Barred => {
                device.shut_out = true;
                device.process = None;
                self.note(format_args!("node {node} is shut out"));
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.alive = false;
                }
                return;
            }
        }
        self.perform(node);
    }

    /// Does what a node's machine wants.
    fn perform(&mut self, node: usize) {
        loop {
            let Some(process) = &mut self.devices[node].process else { return };
            let Some(connection) = process.connection else { return };
            let Some(output) = process.machine.poll_output() else { return };
            match output {
                Output::Say(word) => {
                    if let Some(connection) = self.connections.get_mut(&connection) {
                        connection.up.push_back(Word::Said(word));
                    }
                    let wait = self.control_delay();
                    self.after(wait, Event::Up { connection });
                }
                Output::Fetch { blob, purpose } => self.fetch(node, connection, blob, purpose),
                Output::Deliver(contribution) => self.deliver(node, connection, contribution),
                Output::Compute { run, query } => {
                    process.jobs.push_back(Job { run, query, cancelled: false });
                    self.work(node);
                }
                Output::Abandon { run, query } => {
                    let of = |job: &&mut Job| job.run.run == run && job.query.id == query;
                    process.jobs.iter_mut().filter(of).for_each(|job| job.cancelled = true);
                }
                Output::UsePolicy { run, policy } => {
                    self.note(format_args!(
                        "node {node} infers with policy {} of {}",
                        policy.version.0, run.run
                    ));
                    self.devices[node].policy = Some((run.run, policy));
                }
                Output::Rejected { run, query, reason } => {
                    self.note(format_args!("node {node}: {query} of {run} refused: {reason}"));
                }
            }
        }
    }

    fn open_stream(&mut self, node: usize, stream: Stream) -> u64 {
        self.next += 1;
        let number = self.next;
        if let Some(process) = &mut self.devices[node].process {
            process.streams.insert(number, stream);
        }
        number
    }

    fn fetch(&mut self, node: usize, connection: u64, blob: BlobRef, purpose: Option<(RunId, QueryId)>) {
        let stream = self.open_stream(node, Stream::Fetch(blob));
        let id = self.devices[node].id;
        self.send(node, connection, stream, Asked::Fetch { connection, node: id, stream, blob, purpose });
    }

    fn deliver(&mut self, node: usize, connection: u64, contribution: Contribution) {
        let key = (contribution.run.clone(), contribution.query);
        let device = &self.devices[node];
        let (id, bytes) = (device.id, device.process.as_ref().and_then(|p| p.answers.get(&key).cloned()));
        let Some(bytes) = bytes else { return };
        let stream = self.open_stream(node, Stream::Deliver(contribution.clone()));
        let asked = Asked::Deliver { connection, node: id, stream, contribution, bytes };
        if let Some(change) = self.devices[node].relapse.take() {
            let life = self.connections.get(&connection).and_then(|connection| connection.greeted);
            let (late, down) = (self.some(6000), 1 + self.some(1000));
            if let Some(life) = life {
                self.after(late, Event::Reaches { life, asked: Box::new(asked) });
            }
            self.devices[node].change(change);
            self.node_dies(node, down, true);
            return;
        }
        let doubled = self.weather.doubled;
        if self.happens(doubled) {
            self.send(node, connection, stream, asked.clone());
        }
        self.send(node, connection, stream, asked);
    }

    /// A request on a stream of its own: it reaches the coordinator, or breaks.
    fn send(&mut self, node: usize, connection: u64, stream: u64, asked: Asked) {
        let life = self.devices[node].life;
        if self.weather_loses() {
            let wait = RETRY + self.some(2000);
            self.after(wait, Event::StreamBroken { node, life, stream });
            // It may break on the way back as well.
            if self.happens(500) {
                return;
            }
        }
        let wait = self.delay();
        if let Some(life) = self.connections.get(&connection).and_then(|connection| connection.greeted) {
            self.after(wait, Event::Reaches { life, asked: Box::new(asked) });
        }
    }

    fn reply(&mut self, connection: u64, stream: u64, reply: Reply) {
        let Some(node) = self.connections.get(&connection).map(|connection| connection.node) else { return };
        let wait = self.delay();
        self.after(wait, Event::StreamAnswered { node, connection, stream, reply });
    }

    fn stream_answered(&mut self, node: usize, connection: u64, stream: u64, reply: Reply) {
        let cut_off = self.is_cut_off(node);
        let life = self.devices[node].life;
        let Some(process) = &mut self.devices[node].process else { return };
        if process.connection != Some(connection) || !process.streams.contains_key(&stream) {
            return;
        }
        if cut_off {
            self.after(HELD, Event::StreamAnswered { node, connection, stream, reply });
            return;
        }
        match reply {
            Reply::Blob { digest, bytes: Some(bytes) } => {
                process.streams.remove(&stream);
                process.machine.handle(Input::Fetched(digest));
                self.devices[node].cache.insert(digest, bytes);
            }
            Reply::Blob { bytes: None, .. } => self.after(RETRY, Event::StreamBroken { node, life, stream }),
            Reply::Ack { contribution, ack } => {
                process.streams.remove(&stream);
                let (run, query) = (contribution.run, contribution.query);
                process.answers.remove(&(run.clone(), query));
                process.machine.handle(Input::Acknowledged { run, query, ack });
            }
        }
        self.perform(node);
    }

    fn stream_broken(&mut self, node: usize, stream: u64) {
        let Some(process) = &mut self.devices[node].process else { return };
        match process.streams.remove(&stream) {
            Some(Stream::Fetch(blob)) => process.machine.handle(Input::NotFetched(blob.digest)),
            Some(Stream::Deliver(Contribution { run, query, .. })) => {
                process.machine.handle(Input::NotDelivered { run, query });
            }
            None => return,
        }
        self.perform(node);
    }

    /// Lets a node's worker take up the next query.
    fn work(&mut self, node: usize) {
        let slow = self.devices[node].plan.slow;
        let wait = 1 + self.some(slow);
        let device = &mut self.devices[node];
        let life = device.life;
        let Some(process) = &mut device.process else { return };
        if !process.computing && !process.jobs.is_empty() {
            process.computing = true;
            self.after(wait, Event::Computed { node, life });
        }
    }

    fn computed(&mut self, node: usize) {
        let Some(process) = &mut self.devices[node].process else { return };
        process.computing = false;
        let Some(job) = process.jobs.pop_front() else { return };
        let key = (job.run.run.clone(), job.query.id);
        let answer = self.answer(node, &job);
        let Some(process) = &mut self.devices[node].process else { return };
        let answer = match answer {
            Ok((contribution, bytes)) => {
                process.answers.insert(key.clone(), bytes);
                Ok(contribution)
            }
            Err(refusal) => Err(refusal),
        };
        process.machine.handle(Input::Answered { run: key.0.clone(), query: key.1, answer });
        self.note(format_args!("node {node} has its answer to {} of {}", key.1, key.0));
        self.work(node);
        self.perform(node);
    }

    fn answer(
        &mut self,
        node: usize,
        job: &Job,
    ) -> Result<(Contribution, Arc<[u8]>), exeunt_protocol::message::Refusal> {
        use exeunt_protocol::message::Refusal;
        if job.cancelled {
            return Err(Refusal::Failed { what: "not wanted any more".to_owned() });
        }
        let device = &self.devices[node];
        let missing = || Refusal::Failed { what: "not in the cache".to_owned() };
        let body = device.cache.get(&job.query.body.digest).ok_or_else(missing)?;
        let query = self.samples.query(job.query.body.digest, body)?;
        let heads = match job.query.heads {
            Some(heads) => Some((heads.digest, &**device.cache.get(&heads.digest).ok_or_else(missing)?)),
            None => None,
        };
        let table = self.samples.answer(device.holding(), (job.query.body.digest, &query), heads)?;
        let bytes: Arc<[u8]> = packed::encode(table.cells()).into();
        let contribution = Contribution {
            run: job.run.run.clone(),
            query: job.query.id,
            dataset: device.dataset(),
            table: BlobRef::of(&bytes),
        };
        self.oracle.computed(device.id, &contribution, table, device.edition.samples);
        Ok((contribution, bytes))
    }

    // The end.

    fn has_settled(&self) -> bool {
        self.why_unsettled().is_none()
    }

    fn unsettled(&self) -> String {
        self.why_unsettled().unwrap_or_else(|| "there is no end of events".to_owned())
    }

    /// What has not come to rest.
    fn why_unsettled(&self) -> Option<String> {
        let Some(site) = &self.site else { return Some("the coordinator is down".to_owned()) };
        if self.wishes_open > 0 {
            return Some(format!("{} wishes are not granted", self.wishes_open));
        }
        if !site.inbox.is_empty() {
            return Some("the coordinator is at work".to_owned());
        }
        let machine = site.core.machine();
        for run in machine.runs() {
            let status = match machine.run_status(site.now(self.time()), run) {
                Ok(status) => status,
                Err(error) => return Some(error.to_string()),
            };
            match status.standing {
                Standing::Ready | Standing::Stopped => {}
                Standing::Failed { why } => return Some(format!("{run} failed: {why}")),
                standing => {
                    let waiting: Vec<String> =
                        status.waiting_for.iter().map(|w| format!("{}: {}", w.name, w.reason)).collect();
                    return Some(format!(
                        "{run} is {standing:?} with {} of {} answers, waiting for {waiting:?}",
                        status.answers, status.quorum
                    ));
                }
            }
        }
        for (node, device) in self.devices.iter().enumerate() {
            if device.shut_out || self.oracle.is_revoked(device.id) {
                continue;
            }
            if !device.process.as_ref().is_some_and(|process| process.machine.is_connected()) {
                return Some(format!("node {node} is not connected"));
            }
            let wanted =
                machine.desired(device.id).runs.into_iter().find_map(|run| Some((run.run, run.policy?)));
            if wanted.is_some() && wanted != device.policy {
                return Some(format!("node {node} infers with {:?}, wanted {wanted:?}", device.policy));
            }
        }
        None
    }

    fn final_checks(&mut self) {
        self.check_store();
        let Some(site) = &self.site else { return };
        let mut wrong = Vec::new();
        let machine = site.core.machine();
        // A node infers with the policy that was set last; what an operator did not hear of may have come after.
        if let (Some((run, version)), false) = (&self.in_force, self.in_doubt)
            && !self.oracle.is_stopped(run)
        {
            for device in self.devices.iter().filter(|device| !self.oracle.is_revoked(device.id)) {
                let of = device.policy.as_ref().map(|(run, policy)| (run.clone(), policy.version));
                if of != Some((run.clone(), *version)) {
                    let what = format!("{of:?} at {}, expected {} of {run}", device.id, version.0);
                    wrong.push((Promise::Policy, what));
                }
            }
        }
        match Site::look(self.disk.copy(), self.time()) {
            Ok(again) => {
                for run in machine.runs() {
                    let now = site.now(self.time());
                    let pair = (machine.run_status(now, run), again.machine().run_status(now, run));
                    let (Ok(found), Ok(expected)) = (pair.1, pair.0) else {
                        wrong.push((Promise::Restart, format!("{run} is gone")));
                        continue;
                    };
                    let known = expected.queries.iter().zip(&found.queries);
                    let other =
                        known.filter(|(expected, found)| expected != found).map(|pair| format!("{pair:?}"));
                    let differs = [
                        (found.standing != expected.standing, "its standing".to_owned()),
                        (
                            found.queries.len() != expected.queries.len(),
                            "the number of its queries".to_owned(),
                        ),
                        (found.queries != expected.queries, other.collect::<Vec<_>>().join(", ")),
                        (found.snapshot != expected.snapshot, "its snapshot".to_owned()),
                        (found.result != expected.result, "its result".to_owned()),
                        (found.policies != expected.policies, "its policies".to_owned()),
                    ];
                    let differs = differs.into_iter().filter_map(|(differs, what)| differs.then_some(what));
                    wrong
                        .extend(differs.map(|what| (Promise::Restart, format!("{run} has changed: {what}"))));
                }
            }
            Err(error) => wrong.push((Promise::Restart, error.to_string())),
        }
        for (promise, what) in wrong {
            self.blame(promise, what);
        }
    }
}
