//! Why a connection or a stream ended.

use std::fmt;
use std::time::Duration;

use quinn::{ConnectionError, TransportErrorCode, VarInt};
use thiserror::Error;

use crate::limits::MAX_REASON;

/// What kind of end. The numbers are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// Nothing left to do, or the process is gone (0).
    Finished,
    /// The process stops; come back later (1).
    ShuttingDown,
    /// This member was removed (2).
    Revoked,
    /// The same member connected again (3).
    Superseded,
    /// The peer broke the protocol (4).
    Protocol,
    /// Only joining is open to a client without a certificate (5).
    Unauthenticated,
    /// Too much at once; come back later (6).
    Busy,
    /// The two versions do not understand each other (7).
    Incompatible,
    /// Any other number: the caller's own, or a later version's.
    Other(u32),
}

const CODES: [(CloseCode, u32, &str); 8] = [
    (CloseCode::Finished, 0, "finished"),
    (CloseCode::ShuttingDown, 1, "shutting down"),
    (CloseCode::Revoked, 2, "revoked"),
    (CloseCode::Superseded, 3, "superseded"),
    (CloseCode::Protocol, 4, "protocol broken"),
    (CloseCode::Unauthenticated, 5, "not authenticated"),
    (CloseCode::Busy, 6, "busy"),
    (CloseCode::Incompatible, 7, "incompatible version"),
];

impl CloseCode {
    /// The number on the wire.
    pub fn to_u32(self) -> u32 {
        match self {
            Self::Other(number) => number,
            known => CODES.iter().find(|(code, ..)| *code == known).map_or(0, |(_, number, _)| *number),
        }
    }

    /// The kind of this number.
    pub fn from_u32(number: u32) -> Self {
        CODES.iter().find(|(_, known, _)| *known == number).map_or(Self::Other(number), |(code, ..)| *code)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.iter().find(|(code, ..)| code == self) {
            Some((.., text)) => f.write_str(text),
            None => write!(f, "code {}", self.to_u32()),
        }
    }
}

/// Why somebody closed a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// For programs.
    pub code: CloseCode,
    /// For people; may be empty.
    pub text: String,
}

impl Reason {
    /// A reason; the text is cut to [`MAX_REASON`] bytes.
    pub fn new(code: CloseCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = text.len().min(MAX_REASON);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { code, text }
    }

    /// What a peer sent: nothing that could rewrite a terminal or a log is kept.
    fn received(code: VarInt, text: &[u8]) -> Self {
        let text: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
        let code = u32::try_from(code.into_inner()).unwrap_or(u32::MAX);
        Self::new(CloseCode::from_u32(code), text)
    }
}

impl From<CloseCode> for Reason {
    fn from(code: CloseCode) -> Self {
        Self::new(code, "")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{}: {}", self.code, self.text)
        }
    }
}

/// Why the other end does not accept one's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It comes from another authority.
    #[error("this identity's certificate comes from another authority: join again with a new token")]
    Authority,
    /// It has expired, or is not valid yet by the other clock.
    #[error("this identity's certificate has expired: join again with a new token")]
    Expired,
    /// It is not for this use.
    #[error("this identity's role may not do that")]
    Role,
    /// Something else about it.
    #[error("this identity's certificate is not accepted: {0}")]
    Other(String),
}

/// Why a connection is no more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Closed {
    /// The other end closed it and said why.
    #[error("the other end closed the connection: {0}")]
    ByPeer(Reason),
    /// This end closed it.
    #[error("the connection was closed here: {0}")]
    Here(Reason),
    /// Nothing was heard for the idle timeout.
    #[error("the connection was lost: nothing heard for {} s", .after.as_secs())]
    TimedOut {
        /// The idle timeout.
        after: Duration,
    },
    /// The other end restarted and has forgotten the connection.
    #[error("the connection was lost: the other end has restarted")]
    Restarted,
    /// The other end does not accept our certificate.
    #[error("{0}")]
    Refused(Refusal),
    /// The two ends have no protocol version in common.
    #[error("the other end speaks another version of the protocol")]
    Version,
    /// QUIC or TLS was broken.
    #[error("the connection broke: {0}")]
    Transport(String),
}

/// TLS alerts that a peer may answer a certificate or a version with (RFC 8446, section 6).
mod alert {
    pub(super) const BAD_CERTIFICATE: u8 = 42;
    pub(super) const UNSUPPORTED_CERTIFICATE: u8 = 43;
    pub(super) const CERTIFICATE_REVOKED: u8 = 44;
    pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
    pub(super) const CERTIFICATE_UNKNOWN: u8 = 46;
    pub(super) const UNKNOWN_CA: u8 = 48;
    pub(super) const ACCESS_DENIED: u8 = 49;
    pub(super) const DECRYPT_ERROR: u8 = 51;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

impl Closed {
    /// What quinn reports, in our words. `here` is the reason given to `close` at this end.
    pub(crate) fn from_quic(error: ConnectionError, here: Option<&Reason>, idle_timeout: Duration) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Self::ByPeer(Reason::received(close.error_code, &close.reason))
            }
            ConnectionError::LocallyClosed => Self::Here(here.cloned().unwrap_or(CloseCode::Finished.into())),
            ConnectionError::TimedOut => Self::TimedOut { after: idle_timeout },
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::ConnectionClosed(close) => {
                let text = String::from_utf8_lossy(&close.reason)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(MAX_REASON)
                    .collect();
                Self::from_transport(close.error_code, text)
            }
            // Our own end found the fault: never a refusal of our certificate.
            ConnectionError::TransportError(error) => {
                if error.code == TransportErrorCode::crypto(alert::NO_APPLICATION_PROTOCOL) {
                    Self::Version
                } else {
                    Self::Transport(error.reason)
                }
            }
            ConnectionError::CidsExhausted => Self::Transport(error.to_string()),
        }
    }

    fn from_transport(code: TransportErrorCode, text: String) -> Self {
        let Some(alert) = u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
        else {
            return if code == TransportErrorCode::CONNECTION_REFUSED {
                Self::ByPeer(CloseCode::Busy.into())
            } else {
                Self::Transport(format!("{code} {text}").trim_end().to_owned())
            };
        };
        match alert {
            alert::UNKNOWN_CA | alert::DECRYPT_ERROR => Self::Refused(Refusal::Authority),
            alert::CERTIFICATE_EXPIRED => Self::Refused(Refusal::Expired),
            alert::UNSUPPORTED_CERTIFICATE | alert::ACCESS_DENIED => Self::Refused(Refusal::Role),
            alert::BAD_CERTIFICATE | alert::CERTIFICATE_REVOKED | alert::CERTIFICATE_UNKNOWN => {
                Self::Refused(Refusal::Other(text))
            }
            alert::NO_APPLICATION_PROTOCOL => Self::Version,
            other => Self::Transport(format!("TLS alert {other} {text}").trim_end().to_owned()),
        }
    }
}

/// Why one direction of a stream was given up, in place of an orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamCode {
    /// Dropped without finishing: the task behind it failed or was cancelled (0).
    Abandoned,
    /// What was asked for on it is not understood or not allowed here (1).
    Refused,
    /// The caller's own number, or a later version's.
    Other(u32),
}

impl StreamCode {
    /// The number on the wire.
    pub fn to_u32(self) -> u32 {
        match self {
            Self::Abandoned => 0,
            Self::Refused => 1,
            Self::Other(number) => number,
        }
    }

    pub(crate) fn from_quic(code: VarInt) -> Self {
        match u32::try_from(code.into_inner()).unwrap_or(u32::MAX) {
            0 => Self::Abandoned,
            1 => Self::Refused,
            number => Self::Other(number),
        }
    }
}

impl fmt::Display for StreamCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abandoned => f.write_str("abandoned"),
            Self::Refused => f.write_str("refused"),
            Self::Other(number) => write!(f, "code {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_their_numbers() {
        for number in 0..20 {
            assert_eq!(CloseCode::from_u32(number).to_u32(), number);
        }
        assert_eq!(CloseCode::from_u32(8), CloseCode::Other(8));
        for number in 0..4 {
            assert_eq!(StreamCode::from_quic(number.into()).to_u32(), number);
        }
    }

    #[test]
    fn texts_are_cut_and_cleaned() {
        let long = Reason::new(CloseCode::Protocol, "ü".repeat(200));
        assert_eq!(long.text.len(), MAX_REASON);
        let odd = Reason::new(CloseCode::Protocol, format!("a{}", "ü".repeat(200)));
        assert_eq!(odd.text.len(), MAX_REASON - 1);
        let hostile = Reason::received(4u32.into(), b"\x1b[2Jgone\xff\n");
        assert_eq!(hostile.text, "[2Jgone\u{fffd}");
        assert_eq!(hostile.to_string(), "protocol broken: [2Jgone\u{fffd}");
    }

    #[test]
    fn alerts_become_reasons() {
        let closed = |alert| Closed::from_transport(TransportErrorCode::crypto(alert), "x".into());
        assert_eq!(closed(48), Closed::Refused(Refusal::Authority));
        assert_eq!(closed(45), Closed::Refused(Refusal::Expired));
        assert_eq!(closed(120), Closed::Version);
        assert_eq!(closed(80), Closed::Transport("TLS alert 80 x".into()));
        assert_eq!(
            Closed::from_transport(TransportErrorCode::CONNECTION_REFUSED, String::new()),
            Closed::ByPeer(CloseCode::Busy.into())
        );
    }
}
