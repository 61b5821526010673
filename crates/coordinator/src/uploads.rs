//! How much of contributions may be held in memory at once, over all nodes.
//!
//! A node asks before it sends, and is told to begin when there is a place: so memory grows with the number of nodes
//! that wait and not with what they have to send. Places go in the order they were asked for; long contributions have
//! places of their own, so that nobody waits for one of those.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// Bytes of contributions that are being received or wait for their commit, over all nodes.
const MAX_UPLOADS: u64 = 32 << 20;
/// The same of contributions longer than [`LONG`]. One that is longer still is alone.
const MAX_LONG_UPLOADS: u64 = 64 << 20;
/// From how many bytes on a contribution is long.
const LONG: u64 = 4 << 20;
/// What places are counted in.
const UNIT: u64 = 1 << 10;
/// How long a place may be held while others wait, beside the time that the bytes take at [`SLOWEST`].
const PLACE_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes per second below which a node has to make way for others.
const SLOWEST: u64 = 100_000;
/// How often a place that was held too long is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// All places there are. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    short: Arc<Pool>,
    long: Arc<Pool>,
}

/// Room that contributions share.
#[derive(Debug)]
struct Pool {
    places: Arc<Semaphore>,
    bytes: u64,
    waiting: AtomicUsize,
}

/// Room for one contribution, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _room: Option<OwnedSemaphorePermit>,
    pool: Arc<Pool>,
    patience: Duration,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { short: Pool::of(MAX_UPLOADS), long: Pool::of(MAX_LONG_UPLOADS) }
    }
}

/// Counts whoever waits, also when it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    fn of(bytes: u64) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(units(bytes) as usize));
        Arc::new(Self { places, bytes, waiting: AtomicUsize::new(0) })
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Uploads {
    /// Waits for room for so many bytes.
    pub(crate) async fn place(&self, bytes: u64) -> Place {
        let pool = Arc::clone(if bytes > LONG { &self.long } else { &self.short });
        pool.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Waiting(&pool.waiting);
        let wanted = units(bytes.clamp(1, pool.bytes));
        // Never closed; if it were, nothing would be bounded, and nothing would be refused.
        let room = Arc::clone(&pool.places).acquire_many_owned(wanted).await.ok();
        drop(waits);
        let patience = PLACE_PATIENCE.saturating_add(Duration::from_secs(bytes / SLOWEST));
        Place { _room: room, pool, patience }
    }
}

impl Place {
    /// What `receiving` comes to; none when it takes so long that others, who wait for the room, go first.
    pub(crate) async fn hold<T>(&self, receiving: impl Future<Output = T>) -> Option<T> {
        let overdue = async {
            sleep(self.patience).await;
            while self.pool.waiting.load(Ordering::Relaxed) == 0 {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            received = receiving => Some(received),
            () = overdue => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_node_makes_way_when_another_waits_and_not_before() {
        let uploads = Uploads::default();
        let first = uploads.place(MAX_LONG_UPLOADS + 1).await;
        let long = Duration::from_secs(100_000);
        let alone = tokio::time::timeout(long, first.hold(pending::<()>())).await;
        assert!(alone.is_err(), "nobody else wants the room");
        let other = tokio::spawn({
            let uploads = uploads.clone();
            async move { uploads.place(LONG + 1).await }
        });
        uploads.place(LONG).await;
        assert_eq!(first.hold(pending::<()>()).await, None);
        assert!(!other.is_finished());
        drop(first);
        other.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_at_once_is_bounded() {
        let uploads = Uploads::default();
        let mut held = Vec::new();
        while let Ok(place) = tokio::time::timeout(LOOK, uploads.place(100_000)).await {
            held.push(place);
        }
        assert_eq!(held.len() as u64, MAX_UPLOADS / UNIT / 100_000_u64.div_ceil(UNIT));
        assert_eq!(held[0].hold(async { 5 }).await, Some(5), "who is in time is not disturbed");
        held.pop();
        uploads.place(100_000).await;
        assert_eq!(uploads.short.waiting.load(Ordering::Relaxed), 0);
    }
}
