//! Messages on a stream of bytes: four bytes of length (little endian), then `postcard`.
//!
//! The decoder is a pure state machine, fed with whatever arrived. It compares the declared
//! length with the caller's limit before it allocates, and then allocates no faster than bytes
//! arrive, so that a peer which only promises costs nothing.
//!
//! One thing `postcard` leaves to the message types: a sequence of values that take no bytes
//! (`Vec<()>`) can declare any length. Messages must not contain such sequences.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Bytes of the length in front of a frame.
pub const HEADER: usize = 4;
/// Most bytes allocated ahead of what has arrived.
const AHEAD: usize = 16 << 10;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is longer than allowed.
    #[error("a message of {found} bytes is over the limit of {limit}")]
    TooLong {
        /// Declared length.
        found: usize,
        /// What the reader allows.
        limit: usize,
    },
    /// The content is not the message expected.
    #[error("a message of {length} bytes cannot be read: {reason}")]
    Content {
        /// Length of the frame.
        length: usize,
        /// What the decoder says.
        reason: String,
    },
    /// The message ended before the frame did.
    #[error("a message of {length} bytes has {trailing} bytes too many")]
    Trailing {
        /// Length of the frame.
        length: usize,
        /// Bytes after the message.
        trailing: usize,
    },
    /// The message to send has no `postcard` form.
    #[error("the message cannot be written: {0}")]
    Unwritable(String),
}

/// A message as a frame, ready to send.
///
/// # Errors
/// When it is longer than `limit` or has no `postcard` form.
pub fn encode<T: Serialize + ?Sized>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; HEADER])
        .map_err(|error| FrameError::Unwritable(error.to_string()))?;
    let found = bytes.len() - HEADER;
    match u32::try_from(found) {
        Ok(length) if found <= limit => {
            bytes[..HEADER].copy_from_slice(&length.to_le_bytes());
            Ok(bytes)
        }
        _ => Err(FrameError::TooLong { found, limit }),
    }
}

/// The message in the body of a frame; all of the body must be used.
///
/// # Errors
/// When it is something else, or bytes are left.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let length = body.len();
    let (message, rest) = postcard::take_from_bytes(body)
        .map_err(|error| FrameError::Content { length, reason: error.to_string() })?;
    match rest.len() {
        0 => Ok(message),
        trailing => Err(FrameError::Trailing { length, trailing }),
    }
}

/// Collects one frame after the other from bytes as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER],
    header_bytes: usize,
    body: Vec<u8>,
}

impl Decoder {
    /// A decoder at the beginning of a frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it stands between two frames: the one place where a stream may end.
    pub fn is_between(&self) -> bool {
        self.header_bytes == 0
    }

    /// Bytes it can take now, at least 1. Never more than belong to the frame at hand.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] once the declared length is known to be over `limit`; nothing of
    /// that size was allocated.
    pub fn wants(&self, limit: usize) -> Result<usize, FrameError> {
        match self.length(limit)? {
            None => Ok(HEADER - self.header_bytes),
            Some(length) => Ok(length - self.body.len()),
        }
    }

    /// Takes bytes, and gives the body of the frame when these complete it, with the number of
    /// bytes used. The rest belongs to what follows.
    ///
    /// # Errors
    /// As [`wants`](Self::wants).
    pub fn push(&mut self, input: &[u8], limit: usize) -> Result<(usize, Option<Vec<u8>>), FrameError> {
        let from_header = input.len().min(HEADER - self.header_bytes);
        let (head, tail) = input.split_at(from_header);
        self.header[self.header_bytes..self.header_bytes + from_header].copy_from_slice(head);
        self.header_bytes += from_header;
        let Some(length) = self.length(limit)? else {
            return Ok((from_header, None));
        };
        let missing = length - self.body.len();
        let from_body = tail.len().min(missing);
        if self.body.capacity() - self.body.len() < from_body {
            // Doubling, but never past the end of the frame.
            let more = self.body.len().max(AHEAD).max(from_body).min(missing);
            self.body.reserve_exact(more);
        }
        self.body.extend_from_slice(&tail[..from_body]);
        let used = from_header + from_body;
        if self.body.len() < length {
            return Ok((used, None));
        }
        self.header_bytes = 0;
        Ok((used, Some(std::mem::take(&mut self.body))))
    }

    fn length(&self, limit: usize) -> Result<Option<usize>, FrameError> {
        if self.header_bytes < HEADER {
            return Ok(None);
        }
        let found = usize::try_from(u32::from_le_bytes(self.header)).unwrap_or(usize::MAX);
        if found > limit {
            return Err(FrameError::TooLong { found, limit });
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_over_the_limit_allocates_nothing() {
        let mut decoder = Decoder::new();
        let error = decoder.push(&u32::MAX.to_le_bytes(), 1 << 20);
        assert_eq!(error, Err(FrameError::TooLong { found: u32::MAX as usize, limit: 1 << 20 }));
        assert_eq!(decoder.body.capacity(), 0);
        // And it stays refused.
        assert!(decoder.wants(1 << 20).is_err());
    }

    #[test]
    fn a_promise_is_not_allocated_for() {
        let mut decoder = Decoder::new();
        let limit = 1 << 30;
        let promise = u32::try_from(limit).expect("fits").to_le_bytes();
        decoder.push(&promise, limit).expect("within the limit");
        assert_eq!(decoder.wants(limit), Ok(limit));
        decoder.push(&[7; 100], limit).expect("within the limit");
        assert!(decoder.body.capacity() <= AHEAD);
    }

    #[test]
    fn senders_have_a_limit_too() {
        assert!(encode(&[0u8; 5], 5).is_ok());
        assert_eq!(encode(&[0u8; 6], 5), Err(FrameError::TooLong { found: 6, limit: 5 }));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(decode::<u8>(&[1, 2, 3]), Err(FrameError::Trailing { length: 3, trailing: 2 }));
        assert!(matches!(decode::<String>(&[9]), Err(FrameError::Content { length: 1, .. })));
    }

    type Message = (String, Vec<u32>, Option<i64>);

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            messages in prop::collection::vec(any::<Message>(), 0..6),
            sizes in prop::collection::vec(1usize..40, 1..40),
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                bytes.extend(encode(message, 1 << 20).expect("small"));
            }
            let mut decoder = Decoder::new();
            let mut found: Vec<Message> = Vec::new();
            let mut sizes = sizes.iter().cycle();
            while !bytes.is_empty() {
                let size = bytes.len().min(*sizes.next().expect("endless"));
                let (used, body) = decoder.push(&bytes[..size], 1 << 20).expect("small");
                prop_assert!(used > 0);
                bytes.drain(..used);
                if let Some(body) = body {
                    found.push(decode(&body).expect("a message"));
                }
            }
            prop_assert!(decoder.is_between());
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, limit in 0usize..200) {
            let mut decoder = Decoder::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let Ok((used, body)) = decoder.push(rest, limit) else { break };
                prop_assert!(used > 0);
                prop_assert!(decoder.body.capacity() <= limit);
                if let Some(body) = body {
                    prop_assert!(body.len() <= limit);
                    let _ = decode::<Message>(&body);
                }
                rest = &rest[used..];
            }
        }
    }
}
