//! How a node decides: it compares what is wanted with what it has, and acts.
//!
//! Same contract as [`crate::coordinator`]: [`Node::handle`] takes inputs, [`Node::poll_output`] says what to do. The
//! machine keeps no bytes; the shell has a cache of blobs, a worker that answers queries one at a time, and a
//! connection that comes and goes. Reconnecting (with back-off) is the shell's; whatever was in flight is simply
//! wanted again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use exeunt_stats::Digest;

use crate::ids::{QueryId, RunId};
use crate::message::{
    Ack, Activity, BlobRef, Contribution, Desired, DesiredPolicy, DesiredQuery, DesiredRun, FromNode,
    Refusal, Rejection,
};

/// Something that happened at the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The control stream is up.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// What the coordinator wants now.
    Desired(Desired),
    /// A blob is in the cache, verified.
    Fetched(Digest),
    /// A blob could not be had. It is asked for again at once: the shell waits a moment before it says so.
    NotFetched(Digest),
    /// A contribution was not acknowledged. It is delivered again at once: the shell waits a moment here too.
    NotDelivered {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
    },
    /// Blobs are in the cache no more.
    Dropped(BTreeSet<Digest>),
    /// The worker has an answer.
    Answered {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// The contribution's header (its bytes are with the shell), or why there is none.
        answer: Result<Contribution, Refusal>,
    },
    /// The worker got on.
    Progress {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// Samples done.
        done: u64,
        /// Samples to do.
        of: u64,
    },
    /// The coordinator acknowledged a contribution.
    Acknowledged {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// What it said.
        ack: Ack,
    },
}

/// Something for the node's shell to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Get a blob.
    Fetch {
        /// Which.
        blob: BlobRef,
        /// For which query.
        purpose: Option<(RunId, QueryId)>,
    },
    /// Answer a query. Everything it needs is in the cache.
    Compute {
        /// What is wanted for the run.
        run: DesiredRun,
        /// The query.
        query: DesiredQuery,
    },
    /// Stop answering a query: it is not wanted any more.
    Abandon {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
    },
    /// Deliver a contribution.
    Deliver(Contribution),
    /// Say something on the control stream.
    Say(FromNode),
    /// Infer with this policy from now on; everything it needs is in the cache.
    UsePolicy {
        /// The run it belongs to.
        run: DesiredRun,
        /// The policy.
        policy: DesiredPolicy,
    },
    /// A contribution was refused; its bytes may go.
    Rejected {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// Why, in words.
        reason: String,
    },
}

type Key = (RunId, QueryId);

/// How far the answer to one query is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Computing,
    Ready { contribution: Contribution, in_flight: bool },
    Declined { refusal: Refusal, said: bool },
    Acknowledged,
}

/// The node's state. See the [module](self) for the contract.
#[derive(Debug, Default)]
pub struct Node {
    connected: bool,
    desired: Desired,
    have: BTreeSet<Digest>,
    /// What was of no use when that was last asked.
    useless: BTreeSet<Digest>,
    fetching: BTreeSet<Digest>,
    answers: BTreeMap<Key, Answer>,
    policies: BTreeMap<RunId, DesiredPolicy>,
    said: BTreeMap<RunId, Activity>,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that has the given blobs in its cache.
    pub fn new(have: impl IntoIterator<Item = Digest>) -> Self {
        Self { have: have.into_iter().collect(), ..Self::default() }
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Connected => {
                self.connected = true;
                self.said.clear();
                // A coordinator that still wants what it acknowledged to an earlier connection has lost it.
                self.answers.retain(|_, answer| *answer != Answer::Acknowledged);
            }
            Input::Disconnected => self.disconnected(),
            Input::Desired(desired) => {
                self.desired = desired;
                self.forget_what_is_not_wanted();
            }
            Input::Fetched(blob) => {
                self.fetching.remove(&blob);
                self.have.insert(blob);
            }
            Input::NotFetched(blob) => {
                self.fetching.remove(&blob);
            }
            Input::Dropped(blobs) => self.have.retain(|blob| !blobs.contains(blob)),
            Input::NotDelivered { run, query } => {
                if let Some(Answer::Ready { in_flight, .. }) = self.answers.get_mut(&(run, query)) {
                    *in_flight = false;
                }
            }
            Input::Answered { run, query, answer } => self.answered((run, query), answer),
            Input::Progress { run, query, done, of } => {
                self.say(run, Activity::Computing { query, done, of })
            }
            Input::Acknowledged { run, query, ack } => self.acknowledged((run, query), ack),
        }
        self.reconcile();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the control stream is up.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// The blobs in the cache that may be dropped: of no use now, nor when this was last asked. Between two queries a
    /// snapshot is of no use for a moment, and is not to be fetched again for that. Nothing is dropped while there is
    /// no word of what is wanted.
    pub fn stale_blobs(&mut self) -> BTreeSet<Digest> {
        if !self.connected || self.desired.runs.is_empty() {
            return BTreeSet::new();
        }
        let wanted = self.wanted_blobs();
        let useless = self.have.difference(&wanted).copied().collect();
        let before = std::mem::replace(&mut self.useless, useless);
        self.useless.intersection(&before).copied().collect()
    }

    /// The blobs that are still of use.
    fn wanted_blobs(&self) -> BTreeSet<Digest> {
        let of_run = |run: &DesiredRun| {
            let query = run.query.iter().flat_map(|q| [Some(q.body), q.heads]).flatten();
            let policy = run.policy.iter().flat_map(|p| [p.body, p.heads]);
            [run.spec, run.network]
                .into_iter()
                .chain(query)
                .chain(policy)
                .map(|b| b.digest)
                .collect::<Vec<_>>()
        };
        self.desired.runs.iter().flat_map(of_run).collect()
    }

    fn disconnected(&mut self) {
        self.connected = false;
        self.fetching.clear();
        // What was to go over the lost connection is wanted again once there is another; to begin it twice would let
        // two transfers write the same file.
        self.outputs
            .retain(|output| !matches!(output, Output::Say(_) | Output::Fetch { .. } | Output::Deliver(_)));
        for answer in self.answers.values_mut() {
            match answer {
                Answer::Ready { in_flight, .. } => *in_flight = false,
                Answer::Declined { said, .. } => *said = false,
                Answer::Computing | Answer::Acknowledged => {}
            }
        }
    }

    fn forget_what_is_not_wanted(&mut self) {
        let wanted: BTreeSet<Key> = self
            .desired
            .runs
            .iter()
            .filter_map(|run| Some((run.run.clone(), run.query.as_ref()?.id)))
            .collect();
        let gone: Vec<Key> = self.answers.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        for key in gone {
            match self.answers.remove(&key) {
                Some(Answer::Computing) => {
                    self.outputs.push_back(Output::Abandon { run: key.0, query: key.1 })
                }
                // In flight or not sent yet: late answers count in the next snapshot, so let it be delivered.
                Some(answer @ Answer::Ready { .. })
                    if self.desired.runs.iter().any(|run| run.run == key.0) =>
                {
                    self.answers.insert(key, answer);
                }
                _ => {}
            }
        }
        let runs: BTreeSet<RunId> = self.desired.runs.iter().map(|run| run.run.clone()).collect();
        self.policies.retain(|run, _| runs.contains(run));
        self.said.retain(|run, _| runs.contains(run));
    }

    fn answered(&mut self, key: Key, answer: Result<Contribution, Refusal>) {
        if self.answers.get(&key) != Some(&Answer::Computing) {
            return;
        }
        let answer = match answer {
            Ok(contribution) => Answer::Ready { contribution, in_flight: false },
            Err(refusal) => Answer::Declined { refusal, said: false },
        };
        self.answers.insert(key, answer);
    }

    fn acknowledged(&mut self, key: Key, ack: Ack) {
        if let Ack::Rejected(rejection) = &ack {
            let reason = rejection.to_string();
            self.outputs.push_back(Output::Rejected { run: key.0.clone(), query: key.1, reason });
        }
        match ack {
            // The coordinator may let the node in again and want the same answer before the node has heard that it was
            // left out: nothing may be remembered that would keep it from answering then.
            Ack::Rejected(Rejection::NotTakingPart { .. }) => {
                self.answers.remove(&key);
            }
            _ if self.answers.contains_key(&key) => {
                self.answers.insert(key, Answer::Acknowledged);
            }
            _ => {}
        }
    }

    fn reconcile(&mut self) {
        if !self.connected {
            return;
        }
        self.deliver();
        let runs = std::mem::take(&mut self.desired.runs);
        let mut computing = self.answers.values().any(|answer| *answer == Answer::Computing);
        for run in &runs {
            self.reconcile_run(run, &mut computing);
        }
        self.desired.runs = runs;
    }

    fn deliver(&mut self) {
        let mut words = Vec::new();
        for ((run, query), answer) in &mut self.answers {
            match answer {
                Answer::Ready { contribution, in_flight } if !*in_flight => {
                    *in_flight = true;
                    self.outputs.push_back(Output::Deliver(contribution.clone()));
                    words.push((run.clone(), Activity::Sending { query: *query }));
                }
                Answer::Declined { refusal, said } if !*said => {
                    *said = true;
                    let word =
                        FromNode::Decline { run: run.clone(), query: *query, refusal: refusal.clone() };
                    self.outputs.push_back(Output::Say(word));
                }
                _ => {}
            }
        }
        for (run, activity) in words {
            self.say(run, activity);
        }
    }

    fn reconcile_run(&mut self, run: &DesiredRun, computing: &mut bool) {
        let purpose = run.query.as_ref().map(|query| (run.run.clone(), query.id));
        let mut complete = self.fetch(run.spec, purpose.as_ref()) & self.fetch(run.network, None);
        if let Some(policy) = &run.policy {
            let there = self.fetch(policy.body, None) & self.fetch(policy.heads, None);
            if complete && there && self.policies.get(&run.run) != Some(policy) {
                self.policies.insert(run.run.clone(), policy.clone());
                self.outputs.push_back(Output::UsePolicy { run: run.clone(), policy: policy.clone() });
            }
        }
        let Some(query) = &run.query else {
            self.say(run.run.clone(), if complete { Activity::Idle } else { Activity::Fetching });
            return;
        };
        let key = (run.run.clone(), query.id);
        if self.answers.contains_key(&key) {
            return;
        }
        complete &= self.fetch(query.body, purpose.as_ref());
        if let Some(heads) = query.heads {
            complete &= self.fetch(heads, purpose.as_ref());
        }
        if !complete {
            self.say(run.run.clone(), Activity::Fetching);
        } else if !*computing {
            *computing = true;
            self.answers.insert(key, Answer::Computing);
            self.say(run.run.clone(), Activity::Computing { query: query.id, done: 0, of: 0 });
            self.outputs.push_back(Output::Compute { run: run.clone(), query: query.clone() });
        }
    }

    /// Whether the blob is there; asks for it when it is not.
    fn fetch(&mut self, blob: BlobRef, purpose: Option<&Key>) -> bool {
        if self.have.contains(&blob.digest) {
            return true;
        }
        if self.fetching.insert(blob.digest) {
            self.outputs.push_back(Output::Fetch { blob, purpose: purpose.cloned() });
        }
        false
    }

    fn say(&mut self, run: RunId, activity: Activity) {
        if self.connected && self.said.get(&run) != Some(&activity) {
            self.said.insert(run.clone(), activity.clone());
            self.outputs.push_back(Output::Say(FromNode::Report { run, activity }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_stale_when_they_were_of_no_use_twice() {
        let blob = BlobRef::of;
        let run = |query: Option<&[u8]>| DesiredRun {
            run: "r-1".parse().unwrap(),
            spec: blob(b"spec"),
            network: blob(b"network"),
            query: query.map(|body| DesiredQuery {
                id: QueryId(0),
                body: blob(body),
                heads: Some(blob(b"heads")),
            }),
            policy: None,
        };
        let mut node =
            Node::new([b"spec".as_slice(), b"network", b"heads", b"old"].map(|bytes| blob(bytes).digest));
        assert!(node.stale_blobs().is_empty());
        node.handle(Input::Connected);
        node.handle(Input::Desired(Desired { runs: vec![run(None)] }));
        assert!(node.stale_blobs().is_empty());
        // The next query decides with the same snapshot.
        node.handle(Input::Desired(Desired { runs: vec![run(Some(b"query"))] }));
        let stale = node.stale_blobs();
        assert_eq!(stale, [blob(b"old").digest].into());
        node.handle(Input::Dropped(stale));
        assert!(node.stale_blobs().is_empty());
        // Where nothing is wanted, nobody has said that nothing will be.
        node.handle(Input::Desired(Desired::default()));
        assert!(node.stale_blobs().is_empty() && node.stale_blobs().is_empty());
    }

    #[test]
    fn who_was_left_out_answers_when_it_is_let_in_again() {
        let blob = BlobRef::of;
        let query = DesiredQuery { id: QueryId(0), body: blob(b"query"), heads: None };
        let run = |query: Option<DesiredQuery>| DesiredRun {
            run: "r-1".parse().unwrap(),
            spec: blob(b"spec"),
            network: blob(b"network"),
            query,
            policy: None,
        };
        let (asked, left_out) = ([run(Some(query.clone()))], [run(None)]);
        let turned_away = Input::Acknowledged {
            run: "r-1".parse().unwrap(),
            query: query.id,
            ack: Ack::Rejected(Rejection::NotTakingPart { why: "quarantined".to_owned() }),
        };
        let word = |runs: &[DesiredRun; 1]| Input::Desired(Desired { runs: runs.to_vec() });
        // What is wanted and what became of a delivery travel apart, and only the newest wish is sure to arrive.
        let heard = [
            vec![word(&left_out), turned_away.clone(), word(&asked)],
            vec![turned_away.clone(), word(&left_out), word(&asked)],
            vec![turned_away.clone(), word(&asked)],
            vec![word(&asked), turned_away],
        ];
        for inputs in heard {
            let mut node =
                Node::new([b"spec".as_slice(), b"network", b"query"].map(|bytes| blob(bytes).digest));
            let told = format!("{inputs:?}");
            let contribution = Contribution {
                run: "r-1".parse().unwrap(),
                query: query.id,
                dataset: crate::ids::DatasetVersion(1),
                table: blob(b"table"),
            };
            let answer = Ok(contribution.clone());
            let answered = Input::Answered { run: contribution.run.clone(), query: query.id, answer };
            [Input::Connected, word(&asked), answered].into_iter().for_each(|input| node.handle(input));
            while node.poll_output().is_some() {}
            inputs.into_iter().for_each(|input| node.handle(input));
            let outputs = std::iter::from_fn(|| node.poll_output());
            let work =
                outputs.filter(|output| matches!(output, Output::Compute { .. } | Output::Abandon { .. }));
            assert!(matches!(work.last(), Some(Output::Compute { .. })), "{told}");
        }
    }

    #[test]
    fn what_a_lost_connection_left_undone_is_begun_once() {
        let run = DesiredRun {
            run: "r-1".parse().unwrap(),
            spec: BlobRef::of(b"spec"),
            network: BlobRef::of(b"network"),
            query: None,
            policy: None,
        };
        let mut node = Node::new([]);
        node.handle(Input::Connected);
        node.handle(Input::Desired(Desired { runs: vec![run] }));
        // Nothing of it is performed before the connection is gone.
        node.handle(Input::Disconnected);
        assert_eq!(node.poll_output(), None);
        node.handle(Input::Connected);
        let mut fetched = Vec::new();
        while let Some(output) = node.poll_output() {
            if let Output::Fetch { blob, .. } = output {
                fetched.push(blob);
            }
        }
        assert_eq!(fetched, [BlobRef::of(b"spec"), BlobRef::of(b"network")]);
    }
}
