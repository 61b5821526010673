//! The coordinator's machine over a store that keeps its contract, with nodes and operators that do anything in any
//! order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use exeunt_exits::{Heads, Policy, PolicyRequest, Query, Rule};
use exeunt_protocol::coordinator::{Coordinator, Input, Now, RunOptions, Standing, Target, Ticket};
use exeunt_protocol::live::LiveCounts;
use exeunt_protocol::message::{
    Activity, BlobRef, Contribution, FromNode, Hello, Membership, Refusal, VERSION,
};
use exeunt_protocol::{DatasetVersion, NodeId, PolicyVersion, RunId};
use exeunt_stats::{Table, packed};

use crate::honest;
use shop::Shop;

mod shop;

/// Most steps of a sequence.
const STEPS: usize = 400;
const NODES: u8 = 4;
const RUNS: [&str; 2] = ["r-1", "r-2"];

#[derive(Debug, Arbitrary)]
enum Step {
    /// What waits is done. Until then it only waits.
    Work,
    Time {
        seconds: u8,
    },
    Timeout,
    Enrolled(u8),
    Revoked(u8),
    Member(u8, Standing3),
    Connected {
        node: u8,
        old: bool,
    },
    Disconnected(u8),
    Said(u8, Word),
    Started {
        run: u8,
        quorum: u8,
        min_nodes: u8,
    },
    Stopped(u8),
    Policy {
        run: u8,
        wish: Wish,
        target: Option<u8>,
        nobody: bool,
    },
    Cleared {
        run: u8,
        node: u8,
    },
    Removed {
        run: u8,
        node: u8,
    },
    Answer {
        node: u8,
        run: u8,
        edition: u8,
        spoilt: Option<(u8, u8)>,
    },
    /// Every node that is asked answers.
    AllAnswer {
        run: u8,
    },
    Restart,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Standing3 {
    Active,
    Pending,
    Quarantined,
}

#[derive(Debug, Arbitrary)]
enum Word {
    Hello { old: bool },
    Idle { run: u8 },
    Declined { run: u8, out_of_range: bool },
    Using { run: u8, policy: u8 },
    Live { run: u8, left: [u8; 3], sampled: u8 },
}

#[derive(Debug, Arbitrary)]
enum Wish {
    Fraction(u8),
    MaxDrop(u8),
    Cut(u8),
}

/// Steps, as [`arbitrary`] makes them from bytes.
///
/// # Panics
/// When a contribution is acknowledged twice, before it is kept, or never; when what was kept in time is not counted, or is
/// counted twice; when something that is sealed changes; when a run that ended goes on; when a coordinator that is
/// rebuilt from the store stands elsewhere.
pub fn coordinator(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let mut world = World::default();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut bytes) else { break };
        world.step(step);
        world.shop.check(&world.machine);
    }
    world.work();
    assert!(world.shop.waiting.is_empty(), "contributions are never answered");
    world.restart();
}

#[derive(Default)]
struct World {
    machine: Coordinator,
    shop: Shop,
    now: Now,
    tickets: u64,
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number % NODES + 1; 16])
}

fn run(number: u8) -> RunId {
    RUNS[usize::from(number) % RUNS.len()].parse().expect("a run's id")
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Work => self.work(),
            Step::Time { seconds } => self.pass(Duration::from_secs(u64::from(seconds))),
            Step::Timeout => {
                if let Some(at) = self.machine.poll_timeout() {
                    self.pass(at.saturating_sub(self.now.monotonic));
                    let next = self.machine.poll_timeout();
                    assert!(
                        next.is_none_or(|next| next > self.now.monotonic),
                        "asks to be called all the time"
                    );
                }
            }
            Step::Enrolled(number) => {
                let node = node(number);
                if !self.shop.revoked.contains(&node) {
                    self.shop.enrolled.entry(node).or_default();
                    self.tell(Input::Enrolled { node, name: node.to_string() });
                }
            }
            Step::Revoked(number) => {
                let node = node(number);
                self.shop.enrolled.remove(&node);
                self.shop.revoked.insert(node);
                self.tell(Input::Revoked { node });
            }
            Step::Member(number, standing) => self.member(node(number), standing),
            Step::Connected { node: number, old } => {
                let node = node(number);
                self.tell(Input::Connected { node, hello: hello(node, old) });
                self.tell(Input::Certified { node, expires_ms: self.now.unix_ms });
            }
            Step::Disconnected(number) => self.tell(Input::Disconnected { node: node(number) }),
            Step::Said(number, word) => self.said(node(number), word),
            Step::Started { run: number, quorum, min_nodes } => self.start(run(number), quorum, min_nodes),
            Step::Stopped(number) => {
                let run = run(number);
                if self.machine.stop_run(&run).is_ok() {
                    self.shop.stopped.insert(run);
                }
            }
            Step::Policy { run: number, wish, target, nobody } => {
                let target = match target {
                    _ if nobody => Target::Nobody,
                    Some(number) => Target::Node(node(number)),
                    None => Target::Fleet,
                };
                let wish = match wish {
                    Wish::Fraction(share) => PolicyRequest::Fraction(f64::from(share) / 128.0),
                    Wish::MaxDrop(points) => PolicyRequest::MaxDrop(f64::from(points)),
                    Wish::Cut(exit) => {
                        let exit = usize::from(exit % 4);
                        PolicyRequest::Thresholds(Policy::static_cut(2, exit, Rule::ClassMeans))
                    }
                };
                let _ = self.machine.set_policy(self.now, &run(number), &wish, target);
            }
            Step::Cleared { run: number, node: of } => {
                let _ = self.machine.clear_policy(&run(number), node(of));
            }
            Step::Removed { run: number, node: of } => {
                let _ = self.machine.remove_contribution(self.now, &run(number), node(of));
            }
            Step::Answer { node: number, run: of, edition, spoilt } => {
                self.answer(node(number), number % NODES, &run(of), u64::from(edition % 4), spoilt);
            }
            Step::AllAnswer { run: of } => {
                for number in 0..NODES {
                    if self.is_asked(node(number), &run(of)) {
                        self.answer(node(number), number, &run(of), 1, None);
                    }
                }
                self.work();
            }
            Step::Restart => self.restart(),
        }
    }

    fn tell(&mut self, input: Input) {
        self.machine.handle(self.now, input);
    }

    fn work(&mut self) {
        self.shop.work(&mut self.machine, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.unix_ms =
            self.now.unix_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.tell(Input::Tick);
    }

    fn member(&mut self, node: NodeId, standing: Standing3) {
        let membership = match standing {
            Standing3::Active => Membership::Active,
            Standing3::Pending => Membership::Pending,
            Standing3::Quarantined => Membership::Quarantined,
        };
        if let Some(known) = self.shop.enrolled.get_mut(&node) {
            *known = membership;
            if membership != Membership::Active {
                self.shop.troubled.insert(node);
            }
            self.tell(Input::Member { node, membership });
        }
    }

    fn said(&mut self, node: NodeId, word: Word) {
        let word = match word {
            Word::Hello { old } => FromNode::Hello(hello(node, old)),
            Word::Idle { run: of } => FromNode::Report { run: run(of), activity: Activity::Idle },
            Word::Declined { run: of, out_of_range } => {
                let run = run(of);
                let Some(query) = self.machine.open_query(&run) else { return };
                let refusal = if out_of_range {
                    Refusal::OutOfRange { left_out: 1, samples: 2 }
                } else {
                    Refusal::Failed { what: "x".repeat(600) }
                };
                FromNode::Decline { run, query, refusal }
            }
            Word::Using { run: of, policy } => {
                FromNode::Using { run: run(of), policy: PolicyVersion(u32::from(policy)) }
            }
            Word::Live { run: of, left, sampled } => {
                let mut counts = LiveCounts::new(run(of), PolicyVersion(1), 2, 0);
                counts.left = left.map(u64::from).to_vec();
                counts.sampled = u64::from(sampled);
                FromNode::Live(Box::new(counts))
            }
        };
        self.tell(Input::Said { node, word });
    }

    fn start(&mut self, run: RunId, quorum: u8, min_nodes: u8) {
        if self.shop.runs.contains_key(&run) {
            return;
        }
        let options = RunOptions {
            spec: BlobRef::of(b"spec"),
            network: BlobRef::of(b"network"),
            quorum: u32::from(quorum % 4) + 1,
            deadline: Duration::from_secs(600),
            min_nodes: u32::from(min_nodes % 3) + 1,
        };
        self.shop.runs.insert(run.clone(), options.clone());
        self.machine.start_run(self.now, run, honest::context(), options);
    }

    fn is_asked(&self, node: NodeId, run: &RunId) -> bool {
        let desired = self.machine.desired(node);
        desired.runs.iter().any(|of| of.run == *run && of.query.is_some())
    }

    /// A node answers the open query; where `spoilt` says so, with a sum that is off in one cell.
    fn answer(&mut self, node: NodeId, number: u8, run: &RunId, edition: u64, spoilt: Option<(u8, u8)>) {
        let Some(query) = self.machine.open_query(run) else { return };
        let Ok(cells) = self.machine.expected_cells(node, run, query) else { return };
        let Some((asked, heads)) = self.asked(run) else { return };
        let table = honest::answer(&honest::context(), &asked, heads.as_ref(), number + 2 * edition as u8);
        let mut table = table.unwrap_or_else(|| Table::zeros(cells)).into_cells();
        if let Some((at, how)) = spoilt {
            let at = usize::from(at) * 5 % table.len().max(1);
            table[at] = if how < 240 { i64::from(how) - 100 } else { i64::MAX };
        }
        let bytes = packed::encode(&table);
        let (table, dataset) = (BlobRef::of(&bytes), DatasetVersion(edition));
        let contribution = Contribution { run: run.clone(), query, dataset, table };
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.shop.tables.insert(table.digest, bytes);
        self.shop.waiting.insert(ticket, (node, contribution.clone()));
        self.tell(Input::Arrived { node, contribution, ticket });
    }

    /// What is asked in a run, and the snapshot it refers to, as far as somebody is asked and blobs are put.
    fn asked(&self, run: &RunId) -> Option<(Query, Option<Heads>)> {
        let wanted = (0..NODES).flat_map(|number| self.machine.desired(node(number)).runs);
        let query = wanted.filter(|of| of.run == *run).find_map(|of| of.query)?;
        let asked = Query::decode(self.shop.blobs.get(&query.body.digest)?).expect("what was encoded");
        let heads = query.heads.and_then(|heads| self.shop.blobs.get(&heads.digest));
        Some((asked, heads.map(|bytes| Heads::decode(bytes).expect("what was encoded"))))
    }

    /// The machine is gone, and another is built from the store.
    fn restart(&mut self) {
        self.work();
        // A query whose answers have no sum was never sealed: it waits for its deadline anew, in which somebody may give
        // another answer.
        let lasts = |run: &&RunId| !Shop::has_no_sum(&self.machine, self.now, run);
        let runs: Vec<RunId> = self.shop.runs.keys().filter(lasts).cloned().collect();
        let before: Vec<_> = runs.iter().map(|run| self.stands(run)).collect();
        self.machine = self.shop.rebuilt(self.now);
        // Whoever is connected says so again; whoever waited for an answer sends its contribution again.
        self.shop.waiting.clear();
        self.work();
        let after: Vec<_> = runs.iter().map(|run| self.stands(run)).collect();
        assert_eq!(before, after, "another coordinator over the same store stands elsewhere");
    }

    fn stands(&self, run: &RunId) -> impl PartialEq + std::fmt::Debug + use<> {
        let status = self.machine.run_status(self.now, run).expect("it was started");
        let policies: BTreeSet<_> = (0..NODES)
            .filter_map(|number| {
                let runs = self.machine.desired(node(number)).runs;
                Some((number, runs.into_iter().find(|of| of.run == *run)?.policy))
            })
            .map(|(number, policy)| (number, policy.map(|policy| (policy.version, policy.body.digest))))
            .collect();
        // A query whose answers have no sum is shown for as long as the machine is there.
        let sealed: BTreeMap<_, _> = status
            .queries
            .iter()
            .filter(|query| query.closed_ms.is_none() && self.shop.is_sealed(run, query.query))
            .map(|q| (q.query, q.superseded))
            .collect();
        (
            status.standing,
            status.snapshot,
            sealed,
            status.result.is_some(),
            policies,
            self.machine.first_query(run),
        )
    }
}

fn hello(node: NodeId, old: bool) -> Hello {
    Hello {
        oldest: 1,
        newest: if old { 1 } else { VERSION },
        name: node.to_string(),
        software: "fuzzed".to_owned(),
        engine: "none".to_owned(),
    }
}

/// Whether a run can go on.
fn is_over(standing: &Standing) -> bool {
    matches!(standing, Standing::Stopped)
}
