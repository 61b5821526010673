//! A disk that forgets, tears and fills up.
//!
//! What was written lies in a cache until it is synced. A killed process loses nothing of that, for the cache belongs
//! to the system; a power cut loses any part of it, in any order, down to the half of a sector run. Every operation
//! burns a fuse that a schedule may have lit: when it is down, the process is as good as dead.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use exeunt_store::StorageBackend;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

/// What a disk writes at once.
const SECTOR: usize = 512;

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// In order.
    Stop,
    /// Killed: what it wrote is with the system.
    Kill,
    /// The machine loses power: what was not synced may be gone.
    PowerCut,
}

/// A disk; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// What a reader sees.
    cached: Vec<u8>,
    /// What makes the difference, in order.
    pending: Vec<Change>,
    /// Operations until the process dies.
    fuse: Option<u32>,
    /// The process is dead: nothing that it still does reaches the disk.
    dead: bool,
    full: bool,
    /// It says that it synced, and did not.
    lies: bool,
}

#[derive(Debug)]
enum Change {
    Length(usize),
    Bytes { offset: usize, bytes: Vec<u8> },
}

impl Disk {
    /// An empty disk; one that `lies` acknowledges syncs without doing them.
    pub(crate) fn new(lies: bool) -> Self {
        Self { state: Arc::new(Mutex::new(State { lies, ..State::default() })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the process die after so many more operations.
    pub(crate) fn light_fuse(&self, operations: u32) {
        self.state().fuse = Some(operations);
    }

    /// Whether the process died of its fuse.
    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// From now on there is no room for more, or there is again.
    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Cuts the process off: to be called before it is dropped, unless it ends in order.
    pub(crate) fn cut_off(&self) {
        self.state().dead = true;
    }

    /// The machine after the process has ended: what is left on the disk, for the next one to find.
    pub(crate) fn settle(&self, end: End, rng: &mut ChaCha8Rng) {
        let mut state = self.state();
        (state.dead, state.fuse) = (false, None);
        if end == End::PowerCut {
            let State { durable, cached, pending, .. } = &mut *state;
            for change in std::mem::take(pending) {
                change.survive(durable, rng);
            }
            cached.clone_from(durable);
        }
    }

    /// Another disk with the same contents, to look at without leaving a trace.
    pub(crate) fn copy(&self) -> Self {
        let cached = self.state().cached.clone();
        let state = State { durable: cached.clone(), cached, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Length(length) => to.resize(*length, 0),
            Self::Bytes { offset, bytes } => write_at(to, *offset, bytes),
        }
    }

    /// What a power cut leaves of it: all, nothing, or some of its sectors.
    fn survive(&self, durable: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
        match rng.random_range(0..4) {
            0 => {}
            1 => {
                if let Self::Bytes { offset, bytes } = self {
                    // Sectors end where the disk's do, not where the write does.
                    let mut at = 0;
                    while at < bytes.len() {
                        let end = ((offset + at) / SECTOR + 1) * SECTOR - offset;
                        let end = end.min(bytes.len());
                        if rng.random_bool(0.5) {
                            write_at(durable, offset + at, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
            _ => self.apply(durable),
        }
    }
}

fn write_at(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(bytes);
}

impl State {
    /// Every operation that changes something passes here.
    fn step(&mut self) -> Result<(), io::Error> {
        match &mut self.fuse {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.dead { Err(io::Error::other("the process is dead")) } else { Ok(()) }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.pending.push(change);
    }
}

fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk")
}

fn place(offset: u64) -> Result<usize, io::Error> {
    usize::try_from(offset).map_err(|_error| io::Error::other("beyond every disk"))
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.state().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let (state, offset) = (self.state(), place(offset)?);
        let found = state.cached.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let (mut state, length) = (self.state(), place(len)?);
        state.step()?;
        if state.full && length > state.cached.len() {
            return Err(no_room());
        }
        state.change(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.state();
        state.step()?;
        if !state.lies {
            let State { durable, pending, .. } = &mut *state;
            for change in pending.drain(..) {
                change.apply(durable);
            }
        }
        Ok(())
    }

    /// A full disk takes no write at all: on a file system that never writes in place, each needs new room.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let (mut state, offset) = (self.state(), place(offset)?);
        state.step()?;
        if state.full {
            return Err(no_room());
        }
        state.change(Change::Bytes { offset, bytes: data.to_vec() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn contents(disk: &Disk) -> Vec<u8> {
        disk.state().cached.clone()
    }

    #[test]
    fn what_was_synced_outlives_a_power_cut_and_the_rest_may_be_torn() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let disk = Disk::new(false);
            disk.write(0, &[1; 1024]).unwrap();
            disk.sync_data().unwrap();
            disk.write(0, &[2; 1024]).unwrap();
            disk.cut_off();
            assert!(disk.write(0, &[3; 1024]).is_err());
            disk.settle(End::PowerCut, &mut rng);
            let found = contents(&disk);
            seen.insert((found[0], found[1023]));
            assert!(found[..512].iter().all(|byte| *byte == found[0]), "sectors are whole");
        }
        assert_eq!(seen.len(), 4, "old, new, and torn either way: {seen:?}");
    }

    #[test]
    fn a_killed_process_leaves_what_it_wrote() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let disk = Disk::new(false);
        disk.light_fuse(2);
        disk.write(0, b"ab").unwrap();
        disk.write(2, b"cd").unwrap();
        assert!(disk.sync_data().is_err() && disk.is_dead());
        disk.settle(End::Kill, &mut rng);
        assert_eq!(contents(&disk), b"abcd");
        disk.set_full(true);
        assert_eq!(disk.write(0, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
