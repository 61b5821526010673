//! What is said before anything else on a connection.
//!
//! The first byte of every stream says what it is for. On a fresh connection the client opens
//! one stream:
//!
//! ```text
//! member        Hello ─▶           ◀─ Welcome        Ready ─▶
//! newcomer      Join, JoinHello ─▶ ◀─ JoinAnswer
//! ```
//!
//! TLS 1.3 lets a client finish its handshake before the server has looked at its certificate:
//! `Welcome` is how a client learns that it was accepted. `Ready` is how the server learns that
//! the client stays; it may have tried several addresses at once.

use serde::{Deserialize, Serialize};

use crate::PeerId;

/// The first byte of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The caller's own protocol.
    Stream,
    /// A member greets.
    Hello,
    /// A newcomer wants to join.
    Join,
    /// A member wants a new certificate.
    Renewal,
}

impl Tag {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Stream => 0,
            Self::Hello => 1,
            Self::Join => 2,
            Self::Renewal => 3,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Stream, Self::Hello, Self::Join, Self::Renewal].into_iter().find(|tag| tag.to_byte() == byte)
    }
}

/// The server accepted the client's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// Whom the server takes the client for.
    pub(crate) you: PeerId,
}

/// The client stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready;
