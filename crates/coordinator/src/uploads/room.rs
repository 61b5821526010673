//! How much memory all uploads together have.
//!
//! Room is handed out in the order it was asked for. Long tables have room of their own, so that nobody waits for one of
//! those.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Bytes of tables up to [`LONG`] that are being received or wait for their commit, over all nodes.
const ROOM: u64 = 32 << 20;
/// The same of longer ones, of which only what is not in the store yet is in memory.
const ROOM_LONG: u64 = 64 << 20;
/// From how many bytes on a table has its room among the long ones.
const LONG: u64 = 4 << 20;
/// What room is counted in.
const UNIT: u64 = 1 << 10;

/// All the room there is.
#[derive(Debug)]
pub(crate) struct Room {
    short: Pool,
    long: Pool,
}

/// Room that tables share.
#[derive(Debug)]
pub(crate) struct Pool {
    units: Arc<Semaphore>,
    bytes: u64,
    waiting: AtomicUsize,
}

impl Default for Room {
    fn default() -> Self {
        Self { short: Pool::of(ROOM), long: Pool::of(ROOM_LONG) }
    }
}

impl Room {
    /// Where a table of so many bytes finds room.
    pub(crate) fn pool(&self, bytes: u64) -> &Pool {
        if bytes > LONG { &self.long } else { &self.short }
    }
}

/// Counts one that waits, also when it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Pool {
    fn of(bytes: u64) -> Self {
        Self { units: Arc::new(Semaphore::new(units(bytes) as usize)), bytes, waiting: AtomicUsize::new(0) }
    }

    /// Waits for room for so many bytes, until it is dropped.
    ///
    /// # Errors
    /// Never: nobody closes the semaphore.
    pub(crate) async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _counted = Waiting(&self.waiting);
        Arc::clone(&self.units).acquire_many_owned(units(bytes.clamp(1, self.bytes))).await
    }

    /// Whether somebody waits for room here.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_is_held_at_once_is_bounded_and_nobody_waits_for_a_long_one() {
        let room = Room::default();
        let soon = Duration::ZERO;
        let alone = room.pool(ROOM_LONG + 1).take(ROOM_LONG + 1).await.unwrap();
        let mut held = Vec::new();
        while let Ok(place) = timeout(soon, room.pool(100_000).take(100_000)).await {
            held.push(place.unwrap());
        }
        assert_eq!(held.len() as u64, ROOM / UNIT / 100_000_u64.div_ceil(UNIT));
        assert!(timeout(soon, room.pool(LONG + 1).take(LONG + 1)).await.is_err());
        assert!(!room.pool(LONG + 1).is_crowded(), "who gave up waits no more");
        drop(alone);
        drop(timeout(soon, room.pool(LONG + 1).take(LONG + 1)).await.unwrap().unwrap());
        held.pop();
        drop(timeout(soon, room.pool(LONG).take(100_000)).await.unwrap().unwrap());
    }
}
