//! The coordinator of the simulation: the real core and store, as its shell drives them.
//!
//! Like the shell's desk it takes in everything that waits, works once, and lets answers leave after that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exeunt_coordinator::{Core, CoreError, Delivered, Effect, Intake, MemberError, RunPlan};
use exeunt_exits::PolicyRequest;
use exeunt_protocol::coordinator::{Input, Now, RunError, Target, Ticket};
use exeunt_protocol::message::{Ack, BlobRef, Contribution, FromNode, Hello, OLDEST_VERSION, VERSION};
use exeunt_protocol::spec::RunFile;
use exeunt_protocol::{NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::Digest;
use exeunt_store::{RedbStore, TokenOutcome};

use super::disk::Disk;
use super::witness::{Mutation, Sealed, Witness};

/// Something that reaches the coordinator.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// A node shows its token.
    Join {
        node: NodeId,
        secret: Digest,
    },
    /// A control stream begins.
    Hello {
        connection: u64,
        node: NodeId,
    },
    Word {
        node: NodeId,
        word: FromNode,
    },
    /// A connection is noticed to be gone.
    Lost {
        connection: u64,
        node: NodeId,
    },
    Fetch {
        connection: u64,
        node: NodeId,
        stream: u64,
        blob: BlobRef,
        purpose: Option<(RunId, QueryId)>,
    },
    Deliver {
        connection: u64,
        node: NodeId,
        stream: u64,
        contribution: Contribution,
        bytes: Arc<[u8]>,
    },
    Token {
        secret: Digest,
    },
    /// A wish of the operator's, by its number in the scenario.
    StartRun {
        wish: usize,
    },
    SetPolicy {
        wish: usize,
        run: RunId,
        request: PolicyRequest,
        target: Target,
    },
    Stop {
        wish: usize,
        run: RunId,
    },
    Revoke {
        wish: usize,
        node: NodeId,
    },
    Quarantine {
        wish: usize,
        node: NodeId,
    },
    Release {
        wish: usize,
        node: NodeId,
    },
    Remove {
        wish: usize,
        run: RunId,
        node: NodeId,
    },
    Tick,
}

impl Asked {
    /// The wish that it is, if it is one.
    pub(crate) fn wish(&self) -> Option<usize> {
        match self {
            Self::StartRun { wish }
            | Self::SetPolicy { wish, .. }
            | Self::Stop { wish, .. }
            | Self::Revoke { wish, .. }
            | Self::Quarantine { wish, .. }
            | Self::Release { wish, .. }
            | Self::Remove { wish, .. } => Some(*wish),
            _ => None,
        }
    }
}

/// Something that leaves the coordinator.
#[derive(Debug)]
pub(crate) enum Answer {
    Joined {
        node: NodeId,
    },
    /// A connection is closed, because its node has a later one.
    Superseded {
        connection: u64,
    },
    Desired {
        connection: u64,
        desired: exeunt_protocol::message::Desired,
    },
    Blob {
        connection: u64,
        stream: u64,
        digest: Digest,
        bytes: Option<Arc<[u8]>>,
    },
    Ack {
        connection: u64,
        node: NodeId,
        stream: u64,
        contribution: Contribution,
        ack: Ack,
    },
    Started {
        wish: usize,
        run: RunId,
    },
    PolicySet {
        wish: usize,
        run: RunId,
        version: PolicyVersion,
        target: Target,
    },
    Stopped {
        wish: usize,
        run: RunId,
    },
    Revoked {
        wish: usize,
        node: NodeId,
    },
    /// Something else was done that was wished for.
    Granted {
        wish: usize,
    },
    /// Not now.
    Later {
        wish: usize,
    },
    /// Never.
    Refused {
        wish: usize,
    },
}

/// A coordinator's process.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) core: Core,
    /// What the wall and the other clock showed when it started.
    started: Duration,
    /// The connection of each node.
    outboxes: BTreeMap<NodeId, u64>,
    tickets: BTreeMap<Ticket, (u64, NodeId, u64, Contribution)>,
    pub(crate) inbox: Vec<Asked>,
    barred: BTreeSet<NodeId>,
    next: u64,
    mutation: Option<Mutation>,
    fresh: BTreeSet<NodeId>,
}

/// The run that everybody takes part in.
#[derive(Debug, Clone)]
pub(crate) struct Kit {
    pub(crate) file: RunFile,
    pub(crate) plan: RunPlan,
    pub(crate) network: Vec<u8>,
}

/// A clock of the simulation: virtual time since the beginning, and what the wall shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    pub(crate) monotonic: Duration,
    pub(crate) unix_ms: u64,
}

impl Site {
    pub(crate) fn open(
        disk: Disk,
        time: Time,
        sealed: &Sealed,
        mutation: Option<Mutation>,
    ) -> Result<Self, CoreError> {
        let store = RedbStore::on(disk, "(simulated)")?;
        let store = Witness::new(store, Arc::clone(sealed), mutation);
        let now = Now { monotonic: Duration::ZERO, unix_ms: time.unix_ms };
        let core = Core::open(Box::new(store), now)?;
        let nodes = core.store().nodes()?.into_iter();
        let barred = nodes.filter(|(_, record)| record.revoked).map(|(node, _)| node).collect();
        Ok(Self {
            core,
            started: time.monotonic,
            outboxes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            inbox: Vec::new(),
            barred,
            next: 0,
            mutation,
            fresh: BTreeSet::new(),
        })
    }

    /// Another coordinator over the same store, of which nobody notices anything.
    pub(crate) fn look(disk: Disk, time: Time) -> Result<Core, CoreError> {
        let store = RedbStore::on(disk, "(simulated)")?;
        Core::open(Box::new(store), Now { monotonic: Duration::ZERO, unix_ms: time.unix_ms })
    }

    pub(crate) fn now(&self, time: Time) -> Now {
        Now { monotonic: time.monotonic.saturating_sub(self.started), unix_ms: time.unix_ms }
    }

    /// When it wants to be woken, on the simulation's clock.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        Some(self.started.saturating_add(self.core.timeout()?))
    }

    /// Whether a node's connections are refused.
    pub(crate) fn bars(&self, node: NodeId) -> bool {
        self.barred.contains(&node)
    }

    /// Takes in what waits, and works once.
    ///
    /// # Errors
    /// The store failed: the process ends, and no answer leaves.
    pub(crate) fn work(&mut self, time: Time, kit: &Kit) -> Result<Vec<Answer>, CoreError> {
        let now = self.now(time);
        let mut answers = Vec::new();
        for asked in std::mem::take(&mut self.inbox) {
            let wish = asked.wish();
            // As in the shell, whoever asked hears that it failed, and the desk goes on.
            if self.take_in(now, asked, kit, &mut answers).is_err() {
                answers.extend(wish.map(|wish| Answer::Later { wish }));
            }
        }
        // What arrived before a node was shut out is acknowledged before somebody hears that it was.
        let mut others = std::mem::take(&mut answers);
        for effect in self.core.work(now)? {
            match effect {
                Effect::Send { node, desired } => {
                    let fresh = self.fresh.remove(&node);
                    if let Some(connection) = self.outboxes.get(&node)
                        && (fresh || self.mutation != Some(Mutation::PublishOnce))
                    {
                        answers.push(Answer::Desired { connection: *connection, desired });
                    }
                }
                Effect::Acknowledge { ticket, ack } => {
                    if let Some((connection, node, stream, contribution)) = self.tickets.remove(&ticket) {
                        answers.push(Answer::Ack { connection, node, stream, contribution, ack });
                    }
                }
            }
        }
        answers.append(&mut others);
        Ok(answers)
    }

    fn take_in(
        &mut self,
        now: Now,
        asked: Asked,
        kit: &Kit,
        answers: &mut Vec<Answer>,
    ) -> Result<(), CoreError> {
        match asked {
            Asked::Tick => self.core.handle(now, Input::Tick),
            Asked::Token { secret } => {
                let token = exeunt_store::TokenRecord {
                    label: String::new(),
                    expires_ms: u64::MAX,
                    used_by: None,
                    approve: false,
                };
                self.core.store_mut().add_token(secret, &token, now.unix_ms)?;
            }
            Asked::Join { node, secret } => answers.extend(self.join(now, node, secret)),
            Asked::Hello { connection, node } => {
                if let Some(connection) = self.outboxes.insert(node, connection) {
                    answers.push(Answer::Superseded { connection });
                }
                self.fresh.insert(node);
                let hello = Hello {
                    oldest: OLDEST_VERSION,
                    newest: VERSION,
                    name: name(node),
                    software: "simulated".to_owned(),
                    engine: "none".to_owned(),
                };
                self.core.handle(now, Input::Connected { node, hello });
            }
            Asked::Lost { connection, node } => {
                if self.outboxes.get(&node) == Some(&connection) {
                    self.outboxes.remove(&node);
                    self.core.handle(now, Input::Disconnected { node });
                }
            }
            Asked::Word { node, word } => self.core.handle(now, Input::Said { node, word }),
            Asked::Fetch { connection, node, stream, blob, purpose } => {
                let bytes = self.core.store().read_blob(blob.digest, 0, usize::MAX)?;
                if let (Some((run, query)), Some(bytes)) = (purpose, &bytes) {
                    self.core.charge(run, query, node, 0, bytes.len() as u64);
                }
                let bytes = bytes.map(Arc::from);
                answers.push(Answer::Blob { connection, stream, digest: blob.digest, bytes });
            }
            Asked::Deliver { connection, node, stream, contribution, bytes } => {
                let cells = match self.core.wanted(node, &contribution) {
                    Ok(cells) => cells,
                    Err(rejection) => {
                        let ack = Ack::Rejected(rejection);
                        answers.push(Answer::Ack { connection, node, stream, contribution, ack });
                        return Ok(());
                    }
                };
                self.next += 1;
                let ticket = Ticket(self.next);
                self.tickets.insert(ticket, (connection, node, stream, contribution.clone()));
                let (run, query) = (contribution.run.clone(), contribution.query);
                self.core.charge(run, query, node, bytes.len() as u64, 0);
                let table = self.receive(node, &contribution, cells, &bytes)?;
                self.core.delivered(now, node, contribution, table, ticket);
            }
            Asked::StartRun { wish } => {
                let run = self.core.start_planned(now, &kit.file, kit.plan.clone(), &kit.network)?;
                answers.push(Answer::Started { wish, run });
            }
            Asked::SetPolicy { wish, run, request, target } => {
                answers.push(match self.core.set_policy(now, &run, &request, target) {
                    Ok(version) => Answer::PolicySet { wish, run, version, target },
                    Err(CoreError::Run(RunError::Choose(_))) => Answer::Later { wish },
                    Err(CoreError::Run(_)) => Answer::Refused { wish },
                    Err(error) => return Err(error),
                });
            }
            Asked::Quarantine { wish, node } => {
                let done = self.core.quarantine(now, node);
                answers.push(decided(wish, done)?);
            }
            Asked::Release { wish, node } => {
                let done = self.core.release(now, node);
                answers.push(decided(wish, done)?);
            }
            Asked::Remove { wish, run, node } => {
                answers.push(match self.core.remove_contribution(now, &run, node) {
                    Ok(()) => Answer::Granted { wish },
                    Err(CoreError::Run(_)) => Answer::Refused { wish },
                    Err(error) => return Err(error),
                });
            }
            Asked::Stop { wish, run } => match self.core.stop_run(now, &run) {
                Ok(()) => answers.push(Answer::Stopped { wish, run }),
                Err(CoreError::Run(_)) => answers.push(Answer::Refused { wish }),
                Err(error) => return Err(error),
            },
            Asked::Revoke { wish, node } => {
                match self.core.revoke(now, node) {
                    Ok(()) => {}
                    Err(MemberError::Unknown { .. }) => {
                        answers.push(Answer::Later { wish });
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
                self.barred.insert(node);
                self.outboxes.remove(&node);
                answers.push(Answer::Revoked { wish, node });
            }
        }
        Ok(())
    }

    /// As the shell's uploads do: what the store has is not asked for again, a long table is staged while it comes, and
    /// some come in part only. What is long here is every other one.
    fn receive(
        &mut self,
        node: NodeId,
        contribution: &Contribution,
        cells: usize,
        bytes: &[u8],
    ) -> Result<Delivered, CoreError> {
        let Contribution { run, query, table, .. } = contribution;
        if self.core.store().has_contribution(run, *query, node, table.digest)? {
            return Ok(Delivered::kept());
        }
        let mut intake = Intake::new(cells);
        let (first, rest) = bytes.split_at(bytes.len() / 3);
        if self.next % 4 == 1 {
            let cut = self.core.store_mut().stage(None, first)?;
            // Others are given up only when the coordinator ends.
            if self.next % 8 == 1 {
                self.core.store_mut().discard(cut)?;
            }
        }
        if self.next.is_multiple_of(2) {
            intake.push(bytes);
            return Ok(intake.whole(bytes.to_vec()));
        }
        let staged = self.core.store_mut().stage(None, first)?;
        intake.push(first);
        let staged = self.core.store_mut().stage(Some(staged), rest)?;
        intake.push(rest);
        Ok(intake.staged(staged))
    }

    /// As the shell lets a newcomer in: the token is spent first, and answered for afterwards.
    fn join(&mut self, now: Now, node: NodeId, secret: Digest) -> Option<Answer> {
        let outcome = self.core.enrol(now, secret, node, &name(node));
        match outcome {
            Ok(TokenOutcome::Enrolled | TokenOutcome::EnrolledBefore) => Some(Answer::Joined { node }),
            _ => None,
        }
    }
}

/// A decision about a node: taken, not to be taken now because the node is not there yet, or not to be taken.
fn decided(wish: usize, done: Result<(), MemberError>) -> Result<Answer, CoreError> {
    match done {
        Ok(()) => Ok(Answer::Granted { wish }),
        Err(MemberError::Unknown { .. }) => Ok(Answer::Later { wish }),
        Err(MemberError::Store(error)) => Err(error.into()),
        Err(_) => Ok(Answer::Refused { wish }),
    }
}

fn name(node: NodeId) -> String {
    format!("node-{}", super::device::Device::place(node))
}

/// No seals yet.
pub(crate) fn nothing_sealed() -> Sealed {
    Arc::new(Mutex::new(Vec::new()))
}
