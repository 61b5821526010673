//! What happens in a simulation, decided before it begins: the fleet, the operator's wishes, and every fault.
//!
//! All of it follows from a seed. It is a list rather than a source of chance so that it can be shortened: a scenario
//! that breaks something is cut down until nothing in it can be left out.

use std::fmt;
use std::time::Duration;

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::disk::End;
use super::samples::{FEWEST, ROOM};

/// Virtual time within which faults happen.
pub(crate) const STORM: Duration = Duration::from_secs(40);
/// Virtual time after the last fault within which everything must have come to rest.
pub(crate) const CALM: Duration = Duration::from_secs(240);
/// A query's deadline that nobody can wait for: nodes have to answer.
const FAR: Duration = Duration::from_secs(100_000);

/// Milliseconds of virtual time since the simulation began.
pub(crate) type Millis = u64;

/// What happens in a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// Seeds what is left to chance: delays, and what a power cut leaves.
    pub(crate) seed: u64,
    pub(crate) nodes: Vec<NodePlan>,
    /// A query closes at its deadline with so many tables.
    pub(crate) quorum: u32,
    pub(crate) deadline: Duration,
    pub(crate) wishes: Vec<(Millis, Wish)>,
    pub(crate) faults: Vec<Fault>,
    /// The network between faults.
    pub(crate) weather: Weather,
}

/// A node of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodePlan {
    /// When it joins.
    pub(crate) joins: Millis,
    /// Samples it holds at first.
    pub(crate) samples: usize,
    /// How often a scale must be widened for it.
    pub(crate) needs_wider: u8,
    /// It has too few samples for its floors, and declines.
    pub(crate) shy: bool,
    /// Virtual milliseconds that an answer takes it at most.
    pub(crate) slow: Millis,
}

/// What the network does to messages, in parts of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Weather {
    /// Streams that break before their answer has come.
    pub(crate) lost: u32,
    /// Deliveries that arrive a second time.
    pub(crate) doubled: u32,
    /// Most milliseconds that a message takes.
    pub(crate) delay: Millis,
}

/// What an operator does. One who gets no answer asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    StartRun,
    /// Puts a policy in force in the run of this number.
    SetPolicy {
        run: usize,
        percent: u32,
    },
    TryPolicy {
        run: usize,
        percent: u32,
    },
    StopRun {
        run: usize,
    },
    Revoke {
        node: usize,
    },
    /// A node is asked nothing for a while.
    Quarantine {
        node: usize,
    },
    Release {
        node: usize,
    },
    /// Everything that a node gave is taken out of a run.
    Remove {
        run: usize,
        node: usize,
    },
}

impl Wish {
    /// The number of the run that it is about.
    pub(crate) const fn run(&self) -> Option<usize> {
        match self {
            Self::SetPolicy { run, .. }
            | Self::TryPolicy { run, .. }
            | Self::StopRun { run }
            | Self::Remove { run, .. } => Some(*run),
            _ => None,
        }
    }

    /// The node that it is about.
    pub(crate) const fn node(&self) -> Option<usize> {
        match self {
            Self::Revoke { node }
            | Self::Quarantine { node }
            | Self::Release { node }
            | Self::Remove { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A node and the coordinator do not hear of each other; without a node, nobody hears the coordinator.
    Partition {
        at: Millis,
        lasts: Millis,
        node: Option<usize>,
    },
    /// A connection breaks.
    Break {
        at: Millis,
        node: usize,
    },
    /// Worse weather.
    Storm {
        at: Millis,
        lasts: Millis,
        weather: Weather,
    },
    NodeDies {
        at: Millis,
        node: usize,
        down: Millis,
        keeps_cache: bool,
    },
    CoordinatorEnds {
        at: Millis,
        end: End,
        down: Millis,
    },
    /// From then on the coordinator dies after so many operations on its disk.
    Fuse {
        at: Millis,
        operations: u32,
        end: End,
        down: Millis,
    },
    DiskFull {
        at: Millis,
        lasts: Millis,
    },
    /// The wall clock jumps; `ahead` also passes on the other one, as after a sleep.
    Clock {
        at: Millis,
        wall_ms: i64,
        ahead: Millis,
    },
    /// Everything at the coordinator takes so long at most: what comes meanwhile waits, and is taken in together.
    SlowDisk {
        at: Millis,
        lasts: Millis,
        slow: Millis,
    },
    /// A node's data change.
    Data {
        at: Millis,
        node: usize,
        change: Change,
    },
    /// A node dies while it delivers, comes back with other data and answers again; its first delivery arrives late.
    Relapse {
        at: Millis,
        node: usize,
        change: Change,
    },
}

/// What becomes of a node's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// There are more.
    Grow,
    /// There are more, and the node forgets to say so: it answers differently from the same edition.
    GrowSilently,
    /// The node's folder is replaced by an old copy: data and edition are those of the beginning.
    RollBack,
}

impl Fault {
    /// The names by which faults are counted, in order.
    pub(crate) const KINDS: [&'static str; 11] = [
        "partition",
        "broken connection",
        "storm",
        "node crash",
        "coordinator crash",
        "crash in the store",
        "full disk",
        "clock jump",
        "slow disk",
        "change of data",
        "change of data while delivering",
    ];

    /// Its place among [`Fault::KINDS`].
    pub(crate) const fn kind(&self) -> usize {
        match self {
            Self::Partition { .. } => 0,
            Self::Break { .. } => 1,
            Self::Storm { .. } => 2,
            Self::NodeDies { .. } => 3,
            Self::CoordinatorEnds { .. } => 4,
            Self::Fuse { .. } => 5,
            Self::DiskFull { .. } => 6,
            Self::Clock { .. } => 7,
            Self::SlowDisk { .. } => 8,
            Self::Data { .. } => 9,
            Self::Relapse { .. } => 10,
        }
    }

    pub(crate) const fn at(&self) -> Millis {
        match self {
            Self::Partition { at, .. }
            | Self::Break { at, .. }
            | Self::Storm { at, .. }
            | Self::NodeDies { at, .. }
            | Self::CoordinatorEnds { at, .. }
            | Self::Fuse { at, .. }
            | Self::DiskFull { at, .. }
            | Self::Clock { at, .. }
            | Self::SlowDisk { at, .. }
            | Self::Data { at, .. }
            | Self::Relapse { at, .. } => *at,
        }
    }
}

impl Scenario {
    /// Everything that happens under this seed.
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let storm = STORM.as_millis() as Millis;
        let count = rng.random_range(1..=5);
        let mut nodes: Vec<NodePlan> = (0..count)
            .map(|_| NodePlan {
                joins: if rng.random_bool(0.8) { 0 } else { rng.random_range(0..storm / 2) },
                samples: rng.random_range(FEWEST..ROOM),
                needs_wider: if rng.random_bool(0.15) { rng.random_range(1..=3) } else { 0 },
                shy: rng.random_bool(0.08),
                slow: *[20, 300, 3000].choose(&mut rng).unwrap_or(&20),
            })
            .collect();
        // The first is one on whom everybody can rely.
        (nodes[0].shy, nodes[0].needs_wider) = (false, 0);
        // A node on whom nobody may rely, because it is shut out, or left out, at some time.
        let outcast = (count > 1 && rng.random_bool(0.3)).then(|| rng.random_range(1..count));
        let reliable = (0..count).filter(|node| !nodes[*node].shy && outcast != Some(*node)).count();
        let quorum = rng.random_range(1..=reliable as u32);
        let deadline =
            if rng.random_bool(0.5) { FAR } else { Duration::from_millis(rng.random_range(500..8000)) };
        let (wishes, runs) = wishes(&mut rng, storm, outcast);
        let weather = Weather {
            lost: *[0, 20, 100].choose(&mut rng).unwrap_or(&0),
            doubled: *[0, 50, 200].choose(&mut rng).unwrap_or(&0),
            delay: *[3, 40, 400].choose(&mut rng).unwrap_or(&3),
        };
        let many = *[0, 3, 8, 16].choose(&mut rng).unwrap_or(&3) / runs;
        let faults = (0..many).map(|_| fault(&mut rng, storm, count)).collect();
        Self { seed, nodes, quorum, deadline, wishes, faults, weather }
    }

    /// The same without its last node.
    pub(crate) fn without_last_node(&self) -> Option<Self> {
        let mut fewer = self.clone();
        fewer.nodes.pop();
        let node = fewer.nodes.len();
        let reliable = fewer.nodes.iter().filter(|node| !node.shy).count() as u32;
        fewer.quorum = fewer.quorum.min(reliable.saturating_sub(1)).max(1);
        fewer.wishes.retain(|(_, wish)| wish.node() != Some(node));
        fewer.faults.retain(|fault| fault.node() != Some(node));
        (node > 0).then_some(fewer)
    }
}

impl Fault {
    fn node(&self) -> Option<usize> {
        match self {
            Self::Partition { node, .. } => *node,
            Self::Break { node, .. }
            | Self::NodeDies { node, .. }
            | Self::Data { node, .. }
            | Self::Relapse { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// One run or, now and then, two; and what is wanted of them.
fn wishes(rng: &mut ChaCha8Rng, storm: Millis, outcast: Option<usize>) -> (Vec<(Millis, Wish)>, usize) {
    let runs = if rng.random_bool(0.2) { 2 } else { 1 };
    let mut wishes = vec![(0, Wish::StartRun)];
    if runs == 2 {
        wishes.push((rng.random_range(0..storm), Wish::StartRun));
    }
    for _ in 0..rng.random_range(0..3) {
        let (at, run) = (rng.random_range(1000..storm), rng.random_range(0..runs));
        let percent = rng.random_range(1..=100);
        let wish = if rng.random_bool(0.7) {
            Wish::SetPolicy { run, percent }
        } else {
            Wish::TryPolicy { run, percent }
        };
        wishes.push((at, wish));
    }
    if rng.random_bool(0.08) {
        wishes.push((rng.random_range(0..storm), Wish::StopRun { run: runs - 1 }));
    }
    if let Some(node) = outcast {
        let at = rng.random_range(0..storm);
        match rng.random_range(0..3) {
            0 => wishes.push((at, Wish::Revoke { node })),
            1 => wishes.push((at, Wish::Remove { run: rng.random_range(0..runs), node })),
            _ => {
                wishes.push((at, Wish::Quarantine { node }));
                if rng.random_bool(0.7) {
                    wishes.push((at + rng.random_range(100..10_000), Wish::Release { node }));
                }
            }
        }
    }
    (wishes, runs)
}

fn fault(rng: &mut ChaCha8Rng, storm: Millis, nodes: usize) -> Fault {
    let at = rng.random_range(0..storm);
    let node = rng.random_range(0..nodes);
    let lasts =
        if rng.random_bool(0.5) { rng.random_range(10..2000) } else { rng.random_range(2000..30_000) };
    let lasts = lasts.min(storm - at);
    let down = rng.random_range(1..4000);
    match rng.random_range(0..24) {
        0 | 1 => Fault::Partition { at, lasts, node: rng.random_bool(0.7).then_some(node) },
        2 | 3 => Fault::Break { at, node },
        4 => Fault::Storm {
            at,
            lasts,
            weather: Weather {
                lost: rng.random_range(0..600),
                doubled: rng.random_range(0..600),
                delay: 3000,
            },
        },
        5..=7 => Fault::NodeDies { at, node, down, keeps_cache: rng.random_bool(0.8) },
        8..=10 => Fault::CoordinatorEnds { at, end: end(rng), down },
        11..=14 => {
            let end = if rng.random_bool(0.7) { End::PowerCut } else { End::Kill };
            Fault::Fuse { at, operations: rng.random_range(0..60), end, down }
        }
        15 => Fault::DiskFull { at, lasts },
        16 => Fault::Clock {
            at,
            wall_ms: rng.random_range(-100_000_000..100_000_000),
            ahead: if rng.random_bool(0.3) { rng.random_range(0..20_000) } else { 0 },
        },
        17 => Fault::SlowDisk { at, lasts, slow: rng.random_range(10..3000) },
        18 | 19 => Fault::Data { at, node, change: change(rng) },
        _ => Fault::Relapse { at, node, change: change(rng) },
    }
}

fn change(rng: &mut ChaCha8Rng) -> Change {
    *[Change::Grow, Change::Grow, Change::GrowSilently, Change::RollBack].choose(rng).unwrap_or(&Change::Grow)
}

fn end(rng: &mut ChaCha8Rng) -> End {
    *[End::Stop, End::Kill, End::PowerCut].choose(rng).unwrap_or(&End::Kill)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, quorum {}, deadline {} ms, {:?}",
            self.seed,
            self.quorum,
            self.deadline.as_millis(),
            self.weather
        )?;
        for (number, node) in self.nodes.iter().enumerate() {
            writeln!(f, "  node {number}: {node:?}")?;
        }
        for (at, wish) in &self.wishes {
            writeln!(f, "  at {at} ms, wish {wish:?}")?;
        }
        for fault in &self.faults {
            writeln!(f, "  fault {fault:?}")?;
        }
        Ok(())
    }
}
