//! Bulk bytes: announced by length and BLAKE3, taken in chunks, vouched for at the end.

use std::io;

use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many bytes a sender hands over at a time, and a good size for a receiver's buffer.
pub const CHUNK: usize = 64 << 10;

/// What a sender announces before bulk bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blob {
    /// Length of the whole in bytes.
    pub length: u64,
    /// BLAKE3 of the whole.
    pub digest: Digest,
}

impl Blob {
    /// The announcement of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { length: bytes.len() as u64, digest: Digest::of(bytes) }
    }
}

/// Why bytes received are not what was announced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlobError {
    /// More was announced than the receiver takes.
    #[error("a transfer of {found} bytes is over the limit of {limit}")]
    TooLong {
        /// Announced length.
        found: u64,
        /// What the receiver takes.
        limit: u64,
    },
    /// More bytes than announced, or held already.
    #[error("a transfer of {expected} bytes got {found}")]
    Overlong {
        /// Bytes at hand.
        found: u64,
        /// Announced length.
        expected: u64,
    },
    /// Fewer bytes than announced.
    #[error("a transfer of {expected} bytes ended after {found}")]
    Incomplete {
        /// Bytes at hand.
        found: u64,
        /// Announced length.
        expected: u64,
    },
    /// All bytes are there and they are not the ones announced. What was kept of an earlier
    /// attempt may be to blame: begin again from nothing.
    #[error("the bytes received have the digest {found}, expected {expected}", found = .found.short(), expected = .expected.short())]
    Corrupt {
        /// Digest of what arrived.
        found: Digest,
        /// Digest announced.
        expected: Digest,
    },
}

/// A transfer under way: hashes what arrives and compares at the end. Bytes handed on before the
/// end are not vouched for yet.
#[derive(Debug, Clone)]
pub struct Transfer {
    blob: Blob,
    received: u64,
    hasher: blake3::Hasher,
}

impl Transfer {
    /// Begins from nothing.
    ///
    /// # Errors
    /// [`BlobError::TooLong`] when more is announced than `limit`.
    pub fn new(blob: Blob, limit: u64) -> Result<Self, BlobError> {
        if blob.length > limit {
            return Err(BlobError::TooLong { found: blob.length, limit });
        }
        Ok(Self { blob, received: 0, hasher: blake3::Hasher::new() })
    }

    /// Hashes what lies in `bytes`, the transfer from `start` on, beyond the [`offset`](Self::offset).
    ///
    /// # Errors
    /// As [`absorb`](Self::absorb).
    pub fn catch_up(&mut self, start: u64, bytes: &[u8]) -> Result<(), BlobError> {
        let from = usize::try_from(self.received.saturating_sub(start)).unwrap_or(usize::MAX);
        self.absorb(bytes.get(from..).unwrap_or_default())
    }

    /// Takes up what an earlier attempt left, by hashing it again. Afterwards
    /// [`offset`](Self::offset) is where the sender should go on.
    ///
    /// # Errors
    /// When reading fails ([`io::ErrorKind::InvalidData`] when `held` has more bytes than were
    /// announced).
    pub fn take_up(&mut self, held: &mut dyn io::Read) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match held.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self
                    .absorb(&buffer[..read])
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What was announced.
    pub fn blob(&self) -> Blob {
        self.blob
    }

    /// Bytes at hand: where a sender should go on.
    pub fn offset(&self) -> u64 {
        self.received
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.blob.length - self.received
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`BlobError::Overlong`] when they are more than remain; then none were taken.
    pub fn absorb(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let found = self.received.saturating_add(bytes.len() as u64);
        if found > self.blob.length {
            return Err(BlobError::Overlong { found, expected: self.blob.length });
        }
        self.hasher.update(bytes);
        self.received = found;
        Ok(())
    }

    /// Whether all is there and is what was announced.
    ///
    /// # Errors
    /// [`BlobError::Incomplete`] or [`BlobError::Corrupt`].
    pub fn verify(&self) -> Result<(), BlobError> {
        if self.received < self.blob.length {
            return Err(BlobError::Incomplete { found: self.received, expected: self.blob.length });
        }
        let found = Digest::from_bytes(*self.hasher.finalize().as_bytes());
        if found != self.blob.digest {
            return Err(BlobError::Corrupt { found, expected: self.blob.digest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_come_first() {
        let blob = Blob { length: u64::MAX, digest: Digest::of(b"") };
        assert_eq!(Transfer::new(blob, 10).err(), Some(BlobError::TooLong { found: u64::MAX, limit: 10 }));
        let mut endless = Transfer::new(blob, u64::MAX).expect("allowed");
        endless.absorb(b"abc").expect("room");
        assert_eq!(endless.remaining(), u64::MAX - 3);
    }

    #[test]
    fn held_bytes_beyond_the_end_are_refused() {
        let mut transfer = Transfer::new(Blob::of(b"abc"), 10).expect("short");
        let error = transfer.take_up(&mut &b"abcd"[..]).expect_err("too many");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(transfer.offset(), 0);
    }

    proptest! {
        #[test]
        fn any_cut_and_any_flip(bytes: Vec<u8>, cut: prop::sample::Index, flip: u8) {
            let blob = Blob::of(&bytes);
            let cut = cut.index(bytes.len() + 1);
            let mut transfer = Transfer::new(blob, u64::MAX).expect("allowed");
            transfer.take_up(&mut &bytes[..cut]).expect("readable");
            prop_assert_eq!(transfer.offset(), cut as u64);
            let mut wrong = transfer.clone();
            if cut < bytes.len() {
                let incomplete = matches!(transfer.verify(), Err(BlobError::Incomplete { .. }));
                prop_assert!(incomplete);
                let mut rest = bytes[cut..].to_vec();
                transfer.absorb(&rest).expect("fits");
                rest[0] ^= flip;
                wrong.absorb(&rest).expect("fits");
                let corrupt = matches!(wrong.verify(), Err(BlobError::Corrupt { .. }));
                prop_assert_eq!(corrupt, flip != 0);
            }
            prop_assert_eq!(transfer.verify(), Ok(()));
            let overlong = matches!(transfer.absorb(b"x"), Err(BlobError::Overlong { .. }));
            prop_assert!(overlong);
        }
    }
}
