//! As much of a table as has come.

use exeunt_link::{Blob, BlobError, CHUNK, Transfer};
use exeunt_store::{STAGE, StageId};

use super::kept::Answer;
use crate::desk::Handle;
use crate::intake::{Delivered, Intake};
use crate::peer::StreamError;
use crate::plan::MAX_TABLE;

/// Most bytes of a table in memory. What more of it has come is in the store.
pub(crate) const HELD: u64 = (STAGE + CHUNK) as u64;

/// The first bytes of an answer. Of each [`STAGE`] bytes that have come, nothing stays here: they are staged in the store,
/// where they are forgotten with this.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) answer: Answer,
    transfer: Transfer,
    /// What came last.
    pub(crate) bytes: Vec<u8>,
    /// How many came before, and are staged.
    start: u64,
    staged: Option<Staged>,
    intake: Intake,
}

/// Bytes in the store that wait for the rest of their table, and are forgotten there when this is dropped before.
struct Staged {
    id: StageId,
    complete: bool,
    desk: Handle,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let id = self.id;
        if !self.complete {
            // A store that fails says so again when the core works.
            self.desk.tell(move |desk| _ = desk.core.store_mut().discard(id));
        }
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

impl Part {
    /// Nothing yet, of a table of so many cells.
    ///
    /// # Errors
    /// [`BlobError::TooLong`].
    pub(crate) fn new(answer: Answer, cells: usize) -> Result<Self, BlobError> {
        let blob = Blob { length: answer.table.bytes, digest: answer.table.digest };
        let transfer = Transfer::new(blob, MAX_TABLE)?;
        let intake = Intake::new(cells);
        Ok(Self { answer, transfer, bytes: Vec::new(), start: 0, staged: None, intake })
    }

    /// Bytes that have come.
    pub(crate) fn held(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Makes room for what is to come next. Pages that nothing has come for yet cost no memory.
    pub(crate) fn reserve(&mut self) {
        let most = self.answer.table.bytes.saturating_sub(self.start).min(HELD);
        let most = usize::try_from(most).unwrap_or(0);
        self.bytes.reserve_exact(most.saturating_sub(self.bytes.len()));
    }

    /// What [`exeunt_link::Receiver::recv_more`] needs.
    pub(crate) fn receiving(&mut self) -> (&mut Transfer, u64, &mut Vec<u8>) {
        (&mut self.transfer, self.start, &mut self.bytes)
    }

    /// Stages what has come, when that is enough; whether it was.
    ///
    /// # Errors
    /// As [`Handle::stage`].
    pub(crate) async fn make_room(&mut self, desk: &Handle) -> Result<bool, StreamError> {
        if self.bytes.len() < STAGE {
            return Ok(false);
        }
        self.stage(desk, STAGE).await?;
        Ok(true)
    }

    /// Hashes everything, and leaves nothing of a long table in memory.
    ///
    /// # Errors
    /// [`StreamError`] when it is of no use any more.
    pub(crate) async fn put_away(&mut self, desk: &Handle) -> Result<(), StreamError> {
        self.hash()?;
        if self.answer.table.bytes > STAGE as u64 && !self.bytes.is_empty() {
            self.stage(desk, self.bytes.len()).await?;
        }
        Ok(())
    }

    /// The table, all of which has come.
    ///
    /// # Errors
    /// As [`Handle::stage`].
    pub(crate) async fn finish(mut self, desk: &Handle) -> Result<Delivered, StreamError> {
        if self.staged.is_some() && !self.bytes.is_empty() {
            self.stage(desk, self.bytes.len()).await?;
        }
        let Self { mut intake, bytes, staged, .. } = self;
        Ok(match staged {
            Some(mut staged) => {
                staged.complete = true;
                intake.staged(staged.id)
            }
            None => {
                intake.push(&bytes);
                intake.whole(bytes)
            }
        })
    }

    /// Hashes what is in memory: receiving lags behind with that.
    fn hash(&mut self) -> Result<(), StreamError> {
        let hashed = self.transfer.catch_up(self.start, &self.bytes);
        hashed.map_err(|error| StreamError::Receive(error.into()))
    }

    /// Moves the first `count` bytes of those in memory into the store. When that fails, they are lost, and the part is of
    /// no use.
    async fn stage(&mut self, desk: &Handle, count: usize) -> Result<(), StreamError> {
        self.hash()?;
        let rest = self.bytes.split_off(count);
        let bytes = std::mem::take(&mut self.bytes);
        self.intake.push(&bytes);
        self.start += count as u64;
        let under = self.staged.as_ref().map(|staged| staged.id);
        let (id, mut bytes) = desk.stage(under, bytes).await?;
        self.staged.get_or_insert_with(|| Staged { id, complete: false, desk: desk.clone() });
        bytes.clear();
        bytes.extend_from_slice(&rest);
        self.bytes = bytes;
        Ok(())
    }
}
