//! The node's machine under a shell that keeps its contract, with everything outside going wrong in any order.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Arbitrary, Unstructured};
use exeunt_protocol::message::{
    Ack, BlobRef, Contribution, Desired, DesiredPolicy, DesiredQuery, DesiredRun, FromNode, Refusal,
    Rejection,
};
use exeunt_protocol::node::{Input, Node, Output};
use exeunt_protocol::{DatasetVersion, PolicyVersion, QueryId, RunId};
use exeunt_stats::Digest;

type Key = (RunId, QueryId);

/// Most steps of a sequence.
const STEPS: usize = 300;
/// Steps in which a node that nothing disturbs any more does everything that is wanted.
const PATIENCE: usize = 200;

#[derive(Debug, Arbitrary)]
enum Step {
    Connected,
    Disconnected,
    Wanted([Option<Wish>; 2]),
    Fetched(u8),
    NotFetched(u8),
    CacheCleaned,
    Answered { refuse: Option<u8> },
    Progress { done: u8 },
    Acknowledged { which: u8, how: Verdict },
    NotDelivered(u8),
}

#[derive(Debug, Arbitrary)]
struct Wish {
    query: Option<(u8, bool)>,
    policy: Option<u8>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Verdict {
    Stored,
    Conflict,
    NotTakingPart,
    UnknownQuery,
}

/// Steps, as [`arbitrary`] makes them from bytes.
///
/// # Panics
/// When the node does something twice, too early, or without being connected; or when, once nothing goes wrong any more,
/// something that is wanted is left undone.
pub fn node(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let mut shell = Shell::default();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut bytes) else { break };
        shell.step(step);
    }
    shell.settles();
}

/// What a node's shell keeps, and what it has been told to do.
#[derive(Default)]
struct Shell {
    node: Node,
    connected: bool,
    wanted: Vec<DesiredRun>,
    cache: BTreeSet<Digest>,
    fetching: BTreeSet<Digest>,
    working: Option<Key>,
    delivering: BTreeMap<Key, Contribution>,
    /// Answers that the worker made and nobody has acknowledged.
    answers: BTreeMap<Key, Contribution>,
    /// Queries that need no answer over this connection.
    done: BTreeSet<Key>,
    using: BTreeMap<RunId, DesiredPolicy>,
}

impl Shell {
    fn step(&mut self, step: Step) {
        match step {
            Step::Connected if !self.connected => self.connected(),
            Step::Disconnected if self.connected => self.disconnected(),
            Step::Wanted(wishes) if self.connected => self.want(&wishes),
            Step::Fetched(which) => {
                if let Some(blob) = take(&mut self.fetching, which) {
                    self.cache.insert(blob);
                    self.tell(Input::Fetched(blob));
                }
            }
            Step::NotFetched(which) => {
                if let Some(blob) = take(&mut self.fetching, which) {
                    self.tell(Input::NotFetched(blob));
                }
            }
            Step::CacheCleaned => self.clean(),
            Step::Answered { refuse } => self.answer(refuse),
            Step::Progress { done } => {
                if let Some((run, query)) = self.working.clone() {
                    self.tell(Input::Progress { run, query, done: u64::from(done), of: 255 });
                }
            }
            Step::Acknowledged { which, how } => {
                if let Some(key) = self.delivery(which) {
                    self.acknowledge(key, how);
                }
            }
            Step::NotDelivered(which) => {
                if let Some((run, query)) = self.delivery(which) {
                    self.tell(Input::NotDelivered { run, query });
                }
            }
            Step::Connected | Step::Disconnected | Step::Wanted(_) => {}
        }
    }

    fn connected(&mut self) {
        self.connected = true;
        self.done.clear();
        self.tell(Input::Connected);
    }

    fn disconnected(&mut self) {
        // Transfers end with the connection, and nothing comes of them.
        self.connected = false;
        self.fetching.clear();
        self.delivering.clear();
        self.tell(Input::Disconnected);
    }

    fn want(&mut self, wishes: &[Option<Wish>; 2]) {
        let named = wishes.iter().zip(["r-1", "r-2"]);
        self.wanted = named.filter_map(|(wish, run)| wish.as_ref().map(|wish| desired(run, wish))).collect();
        // What belongs to a run is forgotten with it.
        let runs: BTreeSet<&RunId> = self.wanted.iter().map(|run| &run.run).collect();
        self.using.retain(|run, _| runs.contains(run));
        self.answers.retain(|(run, _), _| runs.contains(run));
        // Should it be wanted again, it is answered again: the store takes equal answers for one.
        self.delivering.retain(|(run, _), _| runs.contains(run));
        self.tell(Input::Desired(Desired { runs: self.wanted.clone() }));
    }

    fn clean(&mut self) {
        let stale = self.node.stale_blobs();
        let needed: BTreeSet<Digest> = self.wanted.iter().flat_map(blobs).collect();
        assert!(stale.is_disjoint(&needed), "a blob that is wanted is called stale");
        assert!(stale.is_subset(&self.cache), "a blob that is not there is called stale");
        self.cache.retain(|blob| !stale.contains(blob));
        self.tell(Input::Dropped(stale));
    }

    fn answer(&mut self, refuse: Option<u8>) {
        let Some((run, query)) = self.working.take() else { return };
        let table = BlobRef::of(format!("{run} {query}").as_bytes());
        let contribution = Contribution { run: run.clone(), query, dataset: DatasetVersion(1), table };
        let answer = match refuse {
            None => {
                self.answers.insert((run.clone(), query), contribution.clone());
                Ok(contribution)
            }
            Some(found) => Err(Refusal::BelowMinCount { found: u64::from(found), needed: 256 }),
        };
        self.tell(Input::Answered { run, query, answer });
    }

    fn delivery(&mut self, which: u8) -> Option<Key> {
        let key = self.delivering.keys().nth(usize::from(which) % self.delivering.len().max(1))?.clone();
        self.delivering.remove(&key);
        Some(key)
    }

    fn acknowledge(&mut self, key: Key, how: Verdict) {
        let digest = Digest::of(b"another");
        let ack = match how {
            Verdict::Stored => Ack::Stored,
            Verdict::Conflict => {
                Ack::Rejected(Rejection::ContributionConflict { found: digest, expected: digest })
            }
            Verdict::NotTakingPart => Ack::Rejected(Rejection::NotTakingPart { why: "pending".to_owned() }),
            Verdict::UnknownQuery => Ack::Rejected(Rejection::UnknownQuery { query: key.1 }),
        };
        self.answers.remove(&key);
        let wanted = self.wanted.iter().any(|run| is_asked(run, &key));
        if wanted && !matches!(how, Verdict::NotTakingPart) {
            self.done.insert(key.clone());
        }
        self.tell(Input::Acknowledged { run: key.0, query: key.1, ack });
    }

    fn tell(&mut self, input: Input) {
        if let Input::Desired(_) = input {
            // What is asked no more and was answered may be asked again.
            let wanted = &self.wanted;
            self.done.retain(|key| wanted.iter().any(|run| is_asked(run, key)));
        }
        self.node.handle(input);
        assert_eq!(self.node.is_connected(), self.connected);
        while let Some(output) = self.node.poll_output() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Fetch { blob, purpose } => {
                assert!(self.connected && !self.cache.contains(&blob.digest), "fetched for nothing");
                assert!(self.fetching.insert(blob.digest), "fetched twice at once");
                let asked = |key: &Key| self.wanted.iter().any(|run| is_asked(run, key));
                assert!(purpose.as_ref().is_none_or(asked), "charged to what nobody asks");
            }
            Output::Compute { run, query } => {
                let key = (run.run.clone(), query.id);
                assert!(self.connected && self.working.is_none(), "computes while it computes");
                assert!(self.wanted.contains(&run) && run.query.as_ref() == Some(&query), "nobody asks");
                assert!(
                    needed(&run).all(|blob| self.cache.contains(&blob)),
                    "computes without what it needs"
                );
                assert!(!self.answers.contains_key(&key), "an answer that was not acknowledged is lost");
                assert!(!self.done.contains(&key), "answers what was acknowledged");
                self.working = Some(key);
            }
            Output::Abandon { run, query } => {
                assert_eq!(self.working.take(), Some((run, query)), "abandons what nobody does");
            }
            Output::Deliver(contribution) => {
                let key = (contribution.run.clone(), contribution.query);
                assert!(self.connected && !self.done.contains(&key), "delivers what was acknowledged");
                assert_eq!(self.answers.get(&key), Some(&contribution), "delivers what nobody answered");
                assert_eq!(self.delivering.insert(key, contribution), None, "delivers twice at once");
            }
            Output::Say(word) => {
                assert!(self.connected, "speaks to nobody");
                if let FromNode::Decline { run, query, .. } = word {
                    self.done.insert((run, query));
                }
            }
            Output::UsePolicy { run, policy } => {
                assert!(self.wanted.contains(&run) && run.policy.as_ref() == Some(&policy));
                assert!(policy_blobs(&run).iter().all(|blob| self.cache.contains(blob)));
                assert_ne!(self.using.insert(run.run, policy.clone()), Some(policy), "takes a policy twice");
            }
            Output::Rejected { run, query, reason } => {
                assert!(!reason.is_empty() && !self.answers.contains_key(&(run, query)));
            }
        }
    }

    /// Nothing goes wrong any more: everything wanted gets done.
    fn settles(&mut self) {
        if self.connected {
            self.disconnected();
        }
        self.connected();
        let wish = || Some(Wish { query: Some((2, true)), policy: Some(1) });
        self.want(&[wish(), wish()]);
        for _ in 0..PATIENCE {
            if let Some(blob) = take(&mut self.fetching, 0) {
                self.cache.insert(blob);
                self.tell(Input::Fetched(blob));
            } else if self.working.is_some() {
                self.answer(None);
            } else if let Some(key) = self.delivery(0) {
                self.acknowledge(key, Verdict::Stored);
            }
        }
        for run in self.wanted.clone() {
            let asked = run.query.as_ref().map(|query| (run.run.clone(), query.id));
            assert!(asked.is_none_or(|key| self.done.contains(&key)), "{} is not answered", run.run);
            assert_eq!(self.using.get(&run.run), run.policy.as_ref(), "{} has another policy", run.run);
        }
    }
}

fn take(blobs: &mut BTreeSet<Digest>, which: u8) -> Option<Digest> {
    let blob = *blobs.iter().nth(usize::from(which) % blobs.len().max(1))?;
    blobs.remove(&blob);
    Some(blob)
}

fn desired(run: &str, wish: &Wish) -> DesiredRun {
    let blob = |what: &str| BlobRef::of(format!("{run} {what}").as_bytes());
    DesiredRun {
        run: run.parse().expect("a run's id"),
        spec: blob("spec"),
        network: BlobRef::of(b"network"),
        query: wish.query.map(|(id, heads)| DesiredQuery {
            id: QueryId(u32::from(id % 3)),
            body: blob(&format!("query {}", id % 3)),
            heads: heads.then(|| blob("heads")),
        }),
        policy: wish.policy.map(|version| DesiredPolicy {
            version: PolicyVersion(u32::from(version % 3)),
            body: blob(&format!("policy {}", version % 3)),
            heads: blob("heads"),
        }),
    }
}

fn is_asked(run: &DesiredRun, key: &Key) -> bool {
    run.run == key.0 && run.query.as_ref().is_some_and(|query| query.id == key.1)
}

fn policy_blobs(run: &DesiredRun) -> BTreeSet<Digest> {
    run.policy.iter().flat_map(|policy| [policy.body.digest, policy.heads.digest]).collect()
}

/// What the run's query needs.
fn needed(run: &DesiredRun) -> impl Iterator<Item = Digest> + '_ {
    let query = run.query.iter().flat_map(|query| [Some(query.body), query.heads]).flatten();
    [run.spec, run.network].into_iter().chain(query).map(|blob| blob.digest)
}

fn blobs(run: &DesiredRun) -> impl Iterator<Item = Digest> + '_ {
    needed(run).chain(policy_blobs(run))
}
