//! One thread that owns the [`Core`]. Everybody else asks it.
//!
//! Questions are closures, taken in the order they come. After everything that was waiting has been taken in, the
//! core works once: so contributions that arrive together are committed together. Answers leave after that: what is
//! answered is on disk. Only what is staged of a table that is on its way need not be: its contribution will see to that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use exeunt_protocol::NodeId;
use exeunt_protocol::coordinator::{Input, Now, Ticket};
use exeunt_protocol::message::{Ack, Contribution, Desired, Hello, Membership};
use exeunt_protocol::moment::unix_ms;
use exeunt_store::StageId;
use tokio::sync::{oneshot, watch};

use crate::core::{Core, CoreError, Effect, Step};
use crate::intake::Delivered;
use crate::peer::StreamError;

/// How often the core works when nothing happens.
const IDLE: Duration = Duration::from_secs(3600);
/// Questions taken in before the core works.
const BATCH: usize = 1024;
/// How often the counts of bytes are written: not with every batch, most of which would change every one of them.
const TRAFFIC: Duration = Duration::from_secs(5);

/// The coordinator has stopped, because its store failed or its process ends.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the coordinator has stopped{}", why.as_ref().map(|w| format!(": {w}")).unwrap_or_default())]
pub struct Stopped {
    /// What happened, if it was not asked to.
    pub why: Option<Arc<str>>,
}

/// What a node is to hear: the latest, whatever was said before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    pub(crate) membership: Membership,
    pub(crate) desired: Desired,
}

/// What is known of a contribution before its bytes come.
#[derive(Debug)]
pub(crate) enum AtOnce {
    /// The answer.
    Answered(Ack),
    /// The bytes are to come, of a table with so many cells.
    Wanted { cells: usize },
}

type Question = Box<dyn FnOnce(&mut Desk) + Send>;
type Answer = Box<dyn FnOnce() + Send>;

/// What the thread owns.
pub(crate) struct Desk {
    pub(crate) core: Core,
    pub(crate) now: Now,
    /// What each connected node is to hear; the number tells connections of one node apart.
    outboxes: BTreeMap<NodeId, (u64, watch::Sender<Outbox>)>,
    tickets: BTreeMap<Ticket, oneshot::Sender<Ack>>,
    /// Answers that wait until the core has worked. Dropped unsent when it fails, which tells whoever waits for them.
    answers: Vec<Answer>,
    next: u64,
    /// When the counts of bytes were written last.
    flushed: Instant,
    /// Whether the thread is to end.
    closing: bool,
}

/// Asks the thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    questions: mpsc::Sender<Question>,
    ended: watch::Receiver<Option<Stopped>>,
    revision: watch::Receiver<u64>,
}

/// The clock that the desk tells the time by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic: self.start.elapsed(), unix_ms: unix_ms(SystemTime::now()) }
    }
}

impl Handle {
    /// Starts the thread.
    pub(crate) fn start(core: Core, clock: Clock) -> std::io::Result<Self> {
        let (questions, asked) = mpsc::channel::<Question>();
        let (end, ended) = watch::channel(None);
        let (changed, revision) = watch::channel(core.revision());
        let mut desk = Desk {
            core,
            now: clock.now(),
            outboxes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            answers: Vec::new(),
            next: 0,
            flushed: Instant::now(),
            closing: false,
        };
        std::thread::Builder::new().name("exeunt-core".to_owned()).spawn(move || {
            let result = desk.serve(&asked, clock, &changed);
            if let Err(error) = &result {
                tracing::error!("{error}");
            }
            let why = result.err().map(|error| Arc::from(error.to_string()));
            // Closes the store, which whoever waits for the end may want to open. Answers that wait go afterwards: whoever
            // waits for them asks why.
            let Desk { core, answers, .. } = desk;
            drop(core);
            // Whoever still asks learns of it by the closed channel.
            let _ = end.send(Some(Stopped { why }));
            drop(answers);
        })?;
        Ok(Self { questions, ended, revision })
    }

    /// Asks, and waits for the answer; it comes when everything that followed from the question is on disk.
    ///
    /// # Errors
    /// [`Stopped`] when the store failed: then nothing that was asked for is to be relied on.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Desk) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.tell(move |desk| {
            let answer = question(desk);
            desk.answers.push(Box::new(move || {
                // The asker may have gone; then nobody wants the answer.
                let _ = reply.send(answer);
            }));
        });
        answer.await.map_err(|_gone| self.reason())
    }

    /// Says something that needs no answer.
    pub(crate) fn tell(&self, question: impl FnOnce(&mut Desk) + Send + 'static) {
        // When the thread is gone, askers find out; tellers need not.
        let _ = self.questions.send(Box::new(question));
    }

    /// Stages the next bytes of a table in the store; hands the buffer back with the number they have there.
    ///
    /// # Errors
    /// [`Stopped`] when the store failed, [`StreamError::Refused`] when what was staged before is gone.
    pub(crate) async fn stage(
        &self,
        under: Option<StageId>,
        bytes: Vec<u8>,
    ) -> Result<(StageId, Vec<u8>), StreamError> {
        let staged = self.ask(move |desk| (desk.core.store_mut().stage(under, &bytes), bytes)).await?;
        let (id, bytes) = staged;
        Ok((id.map_err(|error| StreamError::Refused(error.to_string()))?, bytes))
    }

    /// Hands over a contribution that arrived, and waits until it is stored or refused.
    ///
    /// # Errors
    /// [`Stopped`] when the store failed: then the contribution is to be delivered again.
    pub(crate) async fn delivered(
        &self,
        node: NodeId,
        contribution: Contribution,
        table: Delivered,
    ) -> Result<Ack, Stopped> {
        let (reply, ack) = oneshot::channel();
        self.tell(move |desk| desk.delivered(node, contribution, table, reply));
        ack.await.map_err(|_gone| self.reason())
    }

    /// What can be answered to a contribution before its bytes come: that it is not wanted, or that its table is in the
    /// store, of which the node did not hear. Otherwise the bytes are to come, of a table with so many cells.
    ///
    /// # Errors
    /// As [`Handle::delivered`].
    pub(crate) async fn answered_at_once(
        &self,
        node: NodeId,
        contribution: Contribution,
    ) -> Result<AtOnce, Stopped> {
        let (reply, ack) = oneshot::channel();
        let looked = self.ask(move |desk| {
            let cells = match desk.core.wanted(node, &contribution) {
                Ok(cells) => cells,
                Err(rejection) => return Some(AtOnce::Answered(Ack::Rejected(rejection))),
            };
            let Contribution { run, query, table, .. } = &contribution;
            // A store that fails says so again when the core works.
            if !desk.core.store().has_contribution(run, *query, node, table.digest).unwrap_or(false) {
                return Some(AtOnce::Wanted { cells });
            }
            desk.delivered(node, contribution, Delivered::kept(), reply);
            None
        });
        match looked.await? {
            Some(at_once) => Ok(at_once),
            None => ack.await.map(AtOnce::Answered).map_err(|_gone| self.reason()),
        }
    }

    /// Ends the thread once everything that was said before is done. When this returns, the store is closed.
    pub(crate) async fn close(&self) {
        self.tell(|desk| desk.closing = true);
        self.ended().await;
    }

    /// Waits until the thread has ended.
    pub(crate) async fn ended(&self) -> Stopped {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(stopped) => stopped.clone().unwrap_or(Stopped { why: None }),
            Err(_gone) => Stopped { why: None },
        }
    }

    /// Waits until the core's revision is another than `seen`, and returns it.
    pub(crate) async fn changed(&self, seen: u64) -> Result<u64, Stopped> {
        let mut revision = self.revision.clone();
        let found = revision.wait_for(|now| *now != seen).await.map(|now| *now);
        found.map_err(|_gone| self.reason())
    }

    fn reason(&self) -> Stopped {
        self.ended.borrow().clone().unwrap_or(Stopped { why: None })
    }
}

impl Desk {
    fn serve(
        &mut self,
        asked: &mpsc::Receiver<Question>,
        clock: Clock,
        changed: &watch::Sender<u64>,
    ) -> Result<(), CoreError> {
        loop {
            let wait = self.core.timeout().map_or(IDLE, |at| at.saturating_sub(clock.now().monotonic));
            let wait = if self.core.owes_traffic() { wait.min(TRAFFIC) } else { wait };
            let first = match asked.recv_timeout(wait) {
                Ok(question) => Some(question),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            self.now = clock.now();
            match first {
                Some(first) => {
                    first(self);
                    asked.try_iter().take(BATCH).for_each(|question| question(self));
                }
                None => self.core.handle(self.now, Input::Tick),
            }
            self.work()?;
            let revision = self.core.revision();
            changed.send_if_modified(|known| std::mem::replace(known, revision) != revision);
            if self.closing {
                return Ok(());
            }
        }
    }

    /// Lets the core work until nothing is left to do. Contributions are acknowledged when they are on the disk; every other
    /// answer leaves when all that followed from its question is.
    fn work(&mut self) -> Result<(), CoreError> {
        if self.closing || self.flushed.elapsed() >= TRAFFIC {
            self.core.flush_traffic()?;
            self.flushed = Instant::now();
        }
        let mut step = Step::More;
        while step == Step::More {
            let mut effects = Vec::new();
            step = self.core.step(self.now, &mut effects)?;
            if step == Step::Done {
                self.answers.drain(..).for_each(|answer| answer());
            }
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send { node, desired } => {
                if let Some((_, outbox)) = self.outboxes.get(&node) {
                    let membership = self.core.machine.membership(node).unwrap_or_default();
                    outbox.send_replace(Outbox { membership, desired });
                }
            }
            Effect::Acknowledge { ticket, ack } => {
                if let Some(reply) = self.tickets.remove(&ticket) {
                    // The node may have gone; it will deliver again.
                    let _ = reply.send(ack);
                }
            }
        }
    }

    /// A node's control stream is up. What is wanted of it comes by the receiver; the number names the connection.
    pub(crate) fn connected(
        &mut self,
        node: NodeId,
        hello: Hello,
        certificate_expires: SystemTime,
    ) -> (u64, watch::Receiver<Outbox>) {
        self.next += 1;
        let (outbox, heard) = watch::channel(Outbox::default());
        self.outboxes.insert(node, (self.next, outbox));
        self.core.handle(self.now, Input::Connected { node, hello });
        self.certified(node, certificate_expires);
        (self.next, heard)
    }

    /// A node connected with a certificate, or was given another.
    pub(crate) fn certified(&mut self, node: NodeId, expires: SystemTime) {
        self.core.handle(self.now, Input::Certified { node, expires_ms: unix_ms(expires) });
    }

    /// A control stream is down. A later connection of the same node is not affected.
    pub(crate) fn disconnected(&mut self, node: NodeId, number: u64) {
        if self.outboxes.get(&node).is_some_and(|(current, _)| *current == number) {
            self.outboxes.remove(&node);
            self.core.handle(self.now, Input::Disconnected { node });
        }
    }

    /// A contribution arrived; the acknowledgement goes to `reply`.
    pub(crate) fn delivered(
        &mut self,
        node: NodeId,
        contribution: Contribution,
        table: Delivered,
        reply: oneshot::Sender<Ack>,
    ) {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.tickets.insert(ticket, reply);
        self.core.delivered(self.now, node, contribution, table, ticket);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use exeunt_exits::PolicyRequest;
    use exeunt_protocol::coordinator::Target;
    use exeunt_protocol::message::{Ack, Rejection};

    use super::*;
    use crate::testing::{Fleet, network, run_file};

    #[tokio::test]
    async fn a_policy_is_acknowledged_only_when_it_is_on_disk() {
        let mut fleet = Fleet::new(2);
        fleet.run_until_ready();
        let (core, run, broken) = (fleet.core, fleet.run, fleet.broken);
        let desk = Handle::start(core, Clock::start()).unwrap();
        let set = move |desk: &mut Desk| {
            let wish = PolicyRequest::Fraction(0.5);
            desk.core.set_policy(desk.now, &run, &wish, Target::Fleet).map_err(|error| error.to_string())
        };
        let version = desk.ask(set.clone()).await.unwrap().unwrap();
        assert_eq!(version.0, 1);
        broken.store(true, Ordering::SeqCst);
        let stopped = desk.ask(set).await.unwrap_err();
        assert!(stopped.to_string().starts_with("the coordinator has stopped: the store"), "{stopped}");
    }

    /// Found by the simulated faults (seed 29): who joins while the disk is full is refused. The database takes
    /// nothing more from then on, so a coordinator that went on would refuse everybody, for ever.
    #[test]
    fn a_coordinator_ends_when_its_store_fails_although_nothing_of_its_own_was_lost() {
        let mut fleet = Fleet::new(1);
        fleet.run_until_ready();
        fleet.core.work(fleet.now).unwrap();
        fleet.broken.store(true, Ordering::SeqCst);
        let (secret, node) = (exeunt_stats::Digest::of(b"secret"), NodeId::from_bytes([9; 16]));
        let store = fleet.core.store_mut();
        store.use_token(secret, node, "newcomer", 1).and_then(|_| store.sync()).unwrap_err();
        fleet.broken.store(false, Ordering::SeqCst);
        let error = fleet.core.work(fleet.now).unwrap_err();
        assert!(error.to_string().contains("failed before: start again"), "{error}");
    }

    /// Found by the simulated faults: two policies in one millisecond, or a clock that was set back, and nodes inferred
    /// with the one that was not set last.
    #[test]
    fn the_policy_that_was_set_last_is_in_force_whatever_the_clock_says() {
        let mut fleet = Fleet::new(1);
        fleet.run_until_ready();
        let first = fleet.run.clone();
        fleet.run = fleet.core.start_run(fleet.now, &run_file(), &network()).unwrap();
        fleet.core.work(fleet.now).unwrap();
        fleet.run_until_ready();
        let second = fleet.run.clone();
        for (run, unix_ms) in [(&first, 1000), (&second, 1000), (&first, 1000), (&second, 400)] {
            let now = Now { unix_ms, ..fleet.now };
            fleet.core.set_policy(now, run, &PolicyRequest::Fraction(0.5), Target::Fleet).unwrap();
            fleet.core.work(now).unwrap();
            let desired = fleet.core.machine().desired(fleet.nodes[0]).runs;
            let in_force: Vec<_> =
                desired.into_iter().filter(|run| run.policy.is_some()).map(|run| run.run).collect();
            assert_eq!(in_force, std::slice::from_ref(run), "at {unix_ms} ms");
        }
    }

    #[test]
    fn a_table_that_would_overflow_the_sum_is_refused_and_the_run_goes_on() {
        let mut fleet = Fleet::new(2);
        let (query, ..) = fleet.open().unwrap();
        let table = exeunt_stats::Table::from_cells(vec![200, i64::MAX, 200]);
        let ack = fleet.send(1, query, &table);
        let Ack::Rejected(Rejection::Malformed { what }) = ack else { panic!("{ack:?}") };
        assert!(what.starts_with("cell 1 is 9223372036854775807"), "{what}");
        fleet.run_until_ready();
    }
}
