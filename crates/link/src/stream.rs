//! The two halves of a stream.

use std::fmt;
use std::sync::Arc;

use quinn::{ReadError, StoppedError, VarInt, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::blob::{Blob, BlobError, CHUNK, Transfer};
use crate::close::{Closed, StreamCode};
use crate::connection::Core;
use crate::frame::{self, Decoder, FrameError};

/// Most bytes that are allocated for a transfer before they are there.
const AHEAD: usize = 256 << 10;

/// Why something could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message is too long or has no form on the wire.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other end does not want more on this stream.
    #[error("the other end stopped listening: {0}")]
    Stopped(StreamCode),
    /// The stream was finished before.
    #[error("the stream was finished before")]
    Finished,
    /// The connection is gone.
    #[error(transparent)]
    Closed(Closed),
}

/// Why something could not be received.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The message is too long or not the one expected.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The bytes of a transfer are not what was announced.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Truncated,
    /// The other end gave the stream up.
    #[error("the other end gave up the stream: {0}")]
    Reset(StreamCode),
    /// The stream was read to its end before.
    #[error("the stream was read to its end before")]
    Finished,
    /// The connection is gone.
    #[error(transparent)]
    Closed(Closed),
}

/// The sending half of a stream.
///
/// Dropping it without [`finish`](Self::finish) resets the stream: what the other end has not
/// received by then is lost, and it learns that the stream was abandoned. So a task that fails or
/// is cancelled half-way never looks like one that said everything.
pub struct Sender {
    stream: quinn::SendStream,
    core: Arc<Core>,
    pending: Vec<u8>,
    written: usize,
    bytes: u64,
    finished: bool,
}

impl Sender {
    /// `first` goes out before anything else.
    pub(crate) fn new(stream: quinn::SendStream, core: Arc<Core>, first: &[u8]) -> Self {
        Self { stream, core, pending: first.to_vec(), written: 0, bytes: 0, finished: false }
    }

    /// Sends one message. The limit is [`Limits::max_frame`](crate::Limits::max_frame).
    ///
    /// When the future is dropped after its first poll, the message still goes out, before the
    /// next one or with [`finish`](Self::finish): a message is never cut and never sent twice.
    ///
    /// # Errors
    /// When the message is too long, the other end stopped listening, or the connection is gone.
    pub async fn send<T: Serialize + ?Sized>(&mut self, message: &T) -> Result<(), SendError> {
        let frame = frame::encode(message, self.core.max_frame())?;
        self.pending.extend_from_slice(&frame);
        self.flush().await
    }

    /// Sends bulk bytes as they are; the other end knows their number. To resume a transfer, pass
    /// what follows the offset.
    ///
    /// When the future is dropped, some of the bytes may have been sent ([`bytes`](Self::bytes)
    /// tells): the stream is of no further use.
    ///
    /// # Errors
    /// When the other end stopped listening or the connection is gone.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.flush().await?;
        for chunk in bytes.chunks(CHUNK) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let written = self.write(Source::Slice(rest)).await?;
                rest = &rest[written..];
            }
        }
        Ok(())
    }

    /// Says that nothing more will come. What was sent is delivered in the background, as long as
    /// the connection lives.
    ///
    /// # Errors
    /// When the other end stopped listening or the connection is gone.
    pub async fn finish(&mut self) -> Result<(), SendError> {
        if self.finished {
            return Ok(());
        }
        self.flush().await?;
        self.stream.finish().map_err(|_closed| SendError::Finished)?;
        self.finished = true;
        Ok(())
    }

    /// Finishes and waits until the other end's machine has everything (not: until its program
    /// has read it).
    ///
    /// # Errors
    /// When the other end stopped listening or the connection is gone.
    pub async fn delivered(&mut self) -> Result<(), SendError> {
        self.finish().await?;
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(SendError::Stopped(StreamCode::from_quic(code))),
            Err(StoppedError::ConnectionLost(error)) => Err(SendError::Closed(self.core.closed_by(error))),
            Err(StoppedError::ZeroRttRejected) => Err(SendError::Finished),
        }
    }

    /// Gives the stream up.
    pub fn reset(mut self, code: StreamCode) {
        // Fails only on a stream that is closed already.
        let _ = self.stream.reset(VarInt::from_u32(code.to_u32()));
        self.finished = true;
    }

    /// Bytes that went into this stream so far, headers of messages included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) async fn flush(&mut self) -> Result<(), SendError> {
        while self.written < self.pending.len() {
            self.written += self.write(Source::Pending).await?;
        }
        // An idle stream holds no memory.
        self.pending = Vec::new();
        self.written = 0;
        Ok(())
    }

    async fn write(&mut self, source: Source<'_>) -> Result<usize, SendError> {
        let bytes = match source {
            Source::Pending => &self.pending[self.written..],
            Source::Slice(bytes) => bytes,
        };
        match self.stream.write(bytes).await {
            Ok(written) => {
                self.bytes += written as u64;
                Ok(written)
            }
            Err(WriteError::Stopped(code)) => Err(SendError::Stopped(StreamCode::from_quic(code))),
            Err(WriteError::ConnectionLost(error)) => Err(SendError::Closed(self.core.closed_by(error))),
            Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => Err(SendError::Finished),
        }
    }
}

enum Source<'a> {
    Pending,
    Slice(&'a [u8]),
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            // Fails only on a stream that is closed already.
            let _ = self.stream.reset(VarInt::from_u32(StreamCode::Abandoned.to_u32()));
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("bytes", &self.bytes)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

/// The receiving half of a stream. Dropping it tells the other end to stop sending.
pub struct Receiver {
    stream: quinn::RecvStream,
    core: Arc<Core>,
    decoder: Decoder,
    bytes: u64,
}

impl Receiver {
    pub(crate) fn new(stream: quinn::RecvStream, core: Arc<Core>, bytes: u64) -> Self {
        Self { stream, core, decoder: Decoder::new(), bytes }
    }

    /// Receives one message of at most `limit` bytes; `None` at the orderly end of the stream.
    /// Cancel safe.
    ///
    /// # Errors
    /// When the message is too long or not a `T`, the stream ended inside it or was given up, or
    /// the connection is gone.
    pub async fn recv<T: DeserializeOwned>(&mut self, limit: usize) -> Result<Option<T>, RecvError> {
        loop {
            let wanted = self.decoder.wants(limit)?;
            let chunk = match self.stream.read_chunk(wanted, true).await {
                Ok(Some(chunk)) => chunk.bytes,
                Ok(None) if self.decoder.is_between() => return Ok(None),
                Ok(None) => return Err(RecvError::Truncated),
                Err(error) => return Err(self.failed(error)),
            };
            self.bytes += chunk.len() as u64;
            let (_all, body) = self.decoder.push(&chunk, limit)?;
            if let Some(body) = body {
                return Ok(Some(frame::decode(&body)?));
            }
        }
    }

    /// Receives one message where the stream must not end yet.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Truncated`] at the end of the stream.
    pub async fn expect<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, RecvError> {
        self.recv(limit).await?.ok_or(RecvError::Truncated)
    }

    /// Receives the next bytes of a transfer into `buffer` (64 KiB, [`CHUNK`], is a good size) and
    /// says how many; 0 when the transfer is complete and its digest right. Until then, what was
    /// received is not vouched for. Cancel safe.
    ///
    /// # Errors
    /// When the bytes are not what was announced, the stream ended early or was given up, or the
    /// connection is gone. All but the first leave `transfer` fit to go on at its offset.
    pub async fn recv_chunk(
        &mut self,
        transfer: &mut Transfer,
        buffer: &mut [u8],
    ) -> Result<usize, RecvError> {
        let remaining = usize::try_from(transfer.remaining()).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(remaining);
        if wanted == 0 {
            transfer.verify()?;
            return Ok(0);
        }
        match self.stream.read(&mut buffer[..wanted]).await {
            Ok(Some(read)) => {
                self.bytes += read as u64;
                transfer.absorb(&buffer[..read])?;
                Ok(read)
            }
            Ok(None) => Err(ended_early(transfer)),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Receives the next bytes of a transfer to the end of `bytes`, which hold it from `start` on, and
    /// says how many; 0 when the transfer is complete and its digest right. As
    /// [`recv_chunk`](Self::recv_chunk), with one copy less, and `transfer` may lag behind `bytes` by
    /// up to [`CHUNK`], since small pieces are hashed at a fraction of the speed of a large one:
    /// [`Transfer::catch_up`] before it is put away. Cancel safe.
    ///
    /// # Errors
    /// As [`recv_chunk`](Self::recv_chunk).
    pub async fn recv_more(
        &mut self,
        transfer: &mut Transfer,
        start: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<usize, RecvError> {
        let left = transfer.blob().length.saturating_sub(start + bytes.len() as u64);
        let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        if wanted == 0 {
            transfer.catch_up(start, bytes)?;
            transfer.verify()?;
            return Ok(0);
        }
        match self.stream.read_chunk(wanted, true).await {
            Ok(Some(chunk)) => {
                self.bytes += chunk.bytes.len() as u64;
                bytes.extend_from_slice(&chunk.bytes);
                if start + bytes.len() as u64 - transfer.offset() >= CHUNK as u64 {
                    transfer.catch_up(start, bytes)?;
                }
                Ok(chunk.bytes.len())
            }
            Ok(None) => {
                transfer.catch_up(start, bytes)?;
                Err(ended_early(transfer))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Receives a whole transfer into memory. Memory grows with what arrives, not with what was
    /// announced.
    ///
    /// # Errors
    /// As [`recv_chunk`](Self::recv_chunk), and when more is announced than `limit`.
    pub async fn recv_blob(&mut self, blob: Blob, limit: u64) -> Result<Vec<u8>, RecvError> {
        let mut transfer = Transfer::new(blob, limit)?;
        // A length that is only promised is not allocated for.
        let mut bytes = Vec::with_capacity(usize::try_from(blob.length).unwrap_or(usize::MAX).min(AHEAD));
        while self.recv_more(&mut transfer, 0, &mut bytes).await? > 0 {}
        Ok(bytes)
    }

    /// Tells the other end that nothing more is wanted, and why.
    pub fn stop(mut self, code: StreamCode) {
        // Fails only on a stream that is closed already.
        let _ = self.stream.stop(VarInt::from_u32(code.to_u32()));
    }

    /// Bytes that came out of this stream so far, headers of messages included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn failed(&self, error: ReadError) -> RecvError {
        match error {
            ReadError::Reset(code) => RecvError::Reset(StreamCode::from_quic(code)),
            ReadError::ConnectionLost(error) => RecvError::Closed(self.core.closed_by(error)),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                RecvError::Finished
            }
        }
    }
}

fn ended_early(transfer: &Transfer) -> RecvError {
    BlobError::Incomplete { found: transfer.offset(), expected: transfer.blob().length }.into()
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
