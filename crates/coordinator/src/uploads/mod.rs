//! Taking in tables: where an upload goes on, who goes first, and how much memory all of them have.
//!
//! An upload is what one node answers to one query. It waits for its turn before it is told to begin, so that what is
//! not there yet lies with the node and not here. A long table goes into the store while it comes ([`part`]). When its stream ends early, what came is kept ([`kept`]), and the
//! next stream begins at that offset. A stream takes over from an older one of the same upload, whose connection may
//! be dead without anybody having noticed: the older one hands in what it has and writes nothing more.

mod kept;
mod pace;
mod part;
mod room;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use exeunt_link::{Connection, Receiver, RecvError, Sender};
use exeunt_protocol::NodeId;
use exeunt_protocol::message::{Ack, ContributeReply, Contribution, Rejection};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use self::kept::{Answer, Kept, Key};
use self::pace::{Meter, PATIENCE, Pace, SLOW};
use self::part::{HELD, Part};
use self::room::Room;
use crate::desk::{AtOnce, Clock, Handle, Stopped};
use crate::peer::StreamError;

/// Most uploads of one node at once.
const MAX_UPLOADS_NODE: usize = 4;
/// How often an upload's pace is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often what is kept is gone through for what nobody wants any more.
const SWEEP: Duration = Duration::from_secs(10);

/// Why an upload ended early. What came of it is kept, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("another stream took the upload over")]
    TakenOver,
    #[error("the node has {found} uploads under way, expected at most {expected}")]
    TooMany { found: usize, expected: usize },
    #[error("nothing came for {} s", PATIENCE.as_secs())]
    Silent,
    #[error("less than {SLOW} bytes came in {} s, and others wait", PATIENCE.as_secs())]
    Slow,
    /// Nothing is kept: the next stream begins from the first byte.
    #[error("the bytes from an earlier stream and those from {offset} on do not fit together: {source}")]
    Mixed { offset: u64, source: exeunt_link::BlobError },
}

/// All uploads.
#[derive(Debug)]
pub(crate) struct Uploads {
    room: Room,
    state: Mutex<State>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    going: BTreeMap<Key, Going>,
    next: u64,
}

/// The newest stream of an upload.
#[derive(Debug)]
struct Going {
    number: u64,
    /// Held by the stream that writes.
    floor: Arc<tokio::sync::Mutex<()>>,
    /// Dropped when a newer stream comes, which tells this one.
    _newest: oneshot::Sender<Infallible>,
}

/// A stream's place among those of its upload.
struct Turn<'a> {
    uploads: &'a Uploads,
    key: Key,
    number: u64,
    floor: Arc<tokio::sync::Mutex<()>>,
    taken_over: oneshot::Receiver<Infallible>,
    /// Whether an older stream of the upload was there.
    took_over: bool,
}

/// A stream that may write, and the memory it has for that.
struct Floor {
    _alone: OwnedMutexGuard<()>,
    _memory: OwnedSemaphorePermit,
}

impl Uploads {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { room: Room::default(), state: Mutex::default(), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a stream, and tells the one before it to leave.
    fn enter(&self, key: &Key) -> Result<Turn<'_>, UploadError> {
        let state = &mut *self.state();
        let of_node = state.going.keys().filter(|other| other.node == key.node && *other != key).count();
        if of_node >= MAX_UPLOADS_NODE {
            return Err(UploadError::TooMany { found: of_node, expected: MAX_UPLOADS_NODE });
        }
        state.next += 1;
        let number = state.next;
        let (newest, taken_over) = oneshot::channel();
        let older = state.going.get(key).map(|older| Arc::clone(&older.floor));
        let took_over = older.is_some();
        let floor = older.unwrap_or_default();
        state.going.insert(key.clone(), Going { number, floor: Arc::clone(&floor), _newest: newest });
        Ok(Turn { uploads: self, key: key.clone(), number, floor, taken_over, took_over })
    }

    fn take(&self, key: &Key, answer: Answer) -> Option<Part> {
        let now = self.clock.now().monotonic;
        self.state().kept.take(now, key, answer)
    }

    fn keep(&self, key: &Key, part: Part) {
        let now = self.clock.now().monotonic;
        self.state().kept.put(now, key.clone(), part);
    }

    /// Drops what is kept too long or for nobody, for as long as it runs.
    pub(crate) async fn tend(&self, desk: &Handle) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.sweep(desk).await.is_err() {
                return;
            }
        }
    }

    async fn sweep(&self, desk: &Handle) -> Result<(), Stopped> {
        let keys: Vec<Key> = self.state().kept.keys().cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let unwanted = desk.ask(move |desk| {
            let unwanted = |key: &Key| desk.core.expects(key.node, &key.run, key.query).is_err();
            keys.into_iter().filter(unwanted).collect::<Vec<Key>>()
        });
        let unwanted = unwanted.await?;
        let mut state = self.state();
        state.kept.expire(self.clock.now().monotonic);
        state.kept.retain(|key| !unwanted.contains(key));
        Ok(())
    }
}

impl Turn<'_> {
    /// Waits until no older stream of the upload writes any more, and for memory. Nothing is read meanwhile.
    async fn floor(&mut self, bytes: u64) -> Result<Floor, UploadError> {
        let (pool, floor) = (self.uploads.room.pool(bytes), Arc::clone(&self.floor));
        let both = async {
            let alone = floor.lock_owned().await;
            let memory = pool.take(bytes.min(HELD)).await.map_err(|_closed| UploadError::TakenOver)?;
            Ok(Floor { _alone: alone, _memory: memory })
        };
        tokio::select! {
            both = both => both,
            _ = &mut self.taken_over => Err(UploadError::TakenOver),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let going = &mut self.uploads.state().going;
        if going.get(&self.key).is_some_and(|newest| newest.number == self.number) {
            going.remove(&self.key);
        }
    }
}

/// Takes in a contribution: header read, table to come.
///
/// # Errors
/// [`StreamError`] when the stream ended early. The node tries again, and goes on where this one ended.
pub(crate) async fn contribute(
    uploads: &Uploads,
    desk: &Handle,
    connection: &Connection,
    contribution: Contribution,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), StreamError> {
    let node = NodeId::from_bytes(*connection.peer().id.as_bytes());
    let cells = match desk.answered_at_once(node, contribution.clone()).await? {
        AtOnce::Wanted { cells } => cells,
        AtOnce::Answered(ack) => {
            sender.send(&ContributeReply::Done(ack)).await?;
            return Ok(sender.finish().await?);
        }
    };
    let (run, query) = (contribution.run.clone(), contribution.query);
    let result = async {
        let wanted = (contribution, cells);
        let ack = take_in(uploads, desk, connection, node, wanted, &mut sender, &mut receiver).await?;
        sender.send(&ContributeReply::Done(ack)).await?;
        Ok(sender.finish().await?)
    }
    .await;
    // Whatever became of it: it was sent.
    let (up, down) = (receiver.bytes(), sender.bytes());
    desk.tell(move |desk| desk.core.charge(run, query, node, up, down));
    result
}

async fn take_in(
    uploads: &Uploads,
    desk: &Handle,
    connection: &Connection,
    node: NodeId,
    (contribution, cells): (Contribution, usize),
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<Ack, StreamError> {
    let key = Key { node, run: contribution.run.clone(), query: contribution.query };
    let answer = Answer { dataset: contribution.dataset, table: contribution.table };
    let mut turn = uploads.enter(&key)?;
    let _floor = tokio::select! {
        floor = turn.floor(answer.table.bytes) => floor?,
        closed = connection.closed() => return Err(RecvError::Closed(closed).into()),
    };
    // The stream that had the floor before may have delivered it all in the meantime.
    if turn.took_over
        && let AtOnce::Answered(ack) = desk.answered_at_once(node, contribution.clone()).await?
    {
        return Ok(ack);
    }
    let mut part = match uploads.take(&key, answer) {
        Some(part) => part,
        None => match Part::new(answer, cells) {
            Ok(part) => part,
            Err(error) => return Ok(malformed(&error)),
        },
    };
    let offset = part.held();
    part.reserve();
    let received = async {
        sender.send(&ContributeReply::Begin { offset }).await?;
        receive(uploads, desk, &mut turn, &mut part, receiver).await
    };
    match received.await {
        Ok(()) => {
            let table = part.finish(desk).await?;
            Ok(desk.delivered(node, contribution, table).await?)
        }
        Err(StreamError::Receive(RecvError::Blob(error))) if offset == 0 => Ok(malformed(&error)),
        Err(StreamError::Receive(RecvError::Blob(source))) => {
            Err(UploadError::Mixed { offset, source }.into())
        }
        // What was to be staged is lost.
        Err(error @ (StreamError::Refused(_) | StreamError::Stopped(_))) => Err(error),
        Err(error) => {
            if part.put_away(desk).await.is_ok() {
                uploads.keep(&key, part);
            }
            Err(error)
        }
    }
}

/// Receives until the table is there, another stream takes over, or it moves on too slowly.
async fn receive(
    uploads: &Uploads,
    desk: &Handle,
    turn: &mut Turn<'_>,
    part: &mut Part,
    receiver: &mut Receiver,
) -> Result<(), StreamError> {
    let now = || uploads.clock.now().monotonic;
    let pool = uploads.room.pool(part.answer.table.bytes);
    let mut meter = Meter::new(now(), part.held());
    let mut looks = interval(LOOK);
    loop {
        if part.make_room(desk).await? {
            // While the store was busy, nothing could be taken in.
            meter = Meter::new(now(), part.held());
        }
        let (transfer, start, bytes) = part.receiving();
        let held = start + bytes.len() as u64;
        tokio::select! {
            biased;
            _ = &mut turn.taken_over => return Err(UploadError::TakenOver.into()),
            _ = looks.tick() => {
                match meter.look(now(), held, pool.is_crowded()) {
                    Pace::Fine => {}
                    Pace::Silent => return Err(UploadError::Silent.into()),
                    Pace::Slow => return Err(UploadError::Slow.into()),
                }
            }
            read = receiver.recv_more(transfer, start, bytes) => if read? == 0 {
                return Ok(());
            },
        }
    }
}

fn malformed(error: &exeunt_link::BlobError) -> Ack {
    Ack::Rejected(Rejection::Malformed { what: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MAX_TABLE;
    use crate::testing::Fleet;

    fn half(key: &Key) -> Part {
        let bytes = key.node.as_bytes().to_vec();
        let table = exeunt_protocol::message::BlobRef::of(&[&bytes[..], &bytes].concat());
        let answer = Answer { dataset: exeunt_protocol::DatasetVersion(1), table };
        let mut part = Part::new(answer, 0).unwrap();
        part.bytes = bytes;
        part
    }

    #[tokio::test]
    async fn what_is_kept_goes_with_its_node_and_with_its_run() {
        let mut fleet = Fleet::new(2);
        let (query, ..) = fleet.open().unwrap();
        fleet.core.work(fleet.now).unwrap();
        let keys: Vec<Key> =
            fleet.nodes.iter().map(|node| Key { node: *node, run: fleet.run.clone(), query }).collect();
        let (node, run) = (fleet.nodes[0], fleet.run.clone());
        let desk = Handle::start(fleet.core, Clock::start()).unwrap();
        let uploads = Uploads::new(Clock::start());
        keys.iter().for_each(|key| uploads.keep(key, half(key)));
        let left = || uploads.state().kept.keys().cloned().collect::<Vec<Key>>();
        uploads.sweep(&desk).await.unwrap();
        assert_eq!(left(), keys);
        desk.ask(move |desk| desk.core.revoke(desk.now, node).map_err(|error| error.to_string()))
            .await
            .unwrap()
            .unwrap();
        uploads.sweep(&desk).await.unwrap();
        assert_eq!(left(), keys[1..]);
        desk.ask(move |desk| desk.core.stop_run(desk.now, &run).map_err(|error| error.to_string()))
            .await
            .unwrap()
            .unwrap();
        uploads.sweep(&desk).await.unwrap();
        assert_eq!(left(), []);
    }

    #[tokio::test]
    async fn a_newer_stream_takes_the_floor_from_an_older_one() {
        let uploads = Uploads::new(Clock::start());
        let fleet = Fleet::new(1);
        let key = Key { node: fleet.nodes[0], run: fleet.run.clone(), query: fleet.open().unwrap().0 };
        let mut first = uploads.enter(&key).unwrap();
        let floor = first.floor(MAX_TABLE).await.unwrap();
        let mut second = uploads.enter(&key).unwrap();
        assert!((&mut first.taken_over).await.is_err(), "it is told to leave");
        let mut third = uploads.enter(&key).unwrap();
        assert!(matches!(second.floor(1).await, Err(UploadError::TakenOver)));
        drop((floor, first));
        third.floor(MAX_TABLE).await.unwrap();
        drop((second, third));
        assert!(uploads.state().going.is_empty());
        let queries = (0..5).map(|query| Key { query: exeunt_protocol::QueryId(query), ..key.clone() });
        let entered: Vec<_> = queries.map(|key| uploads.enter(&key)).collect();
        assert!(entered[..4].iter().all(Result::is_ok), "as many as a node may have at once");
        assert!(matches!(entered[4], Err(UploadError::TooMany { found: 4, expected: 4 })));
    }
}
