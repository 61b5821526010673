//! The identity of a piece of content.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A BLAKE3 digest: the name of a network, a table or a snapshot.
///
/// Displays and parses as 64 lower-case hexadecimal digits; serialises as that text where people read
/// it (JSON, TOML) and as 32 bytes elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDigestError {
    /// Not 64 characters long.
    #[error("a digest has {expected} hexadecimal digits, found {found} characters")]
    Length {
        /// Characters in the text.
        found: usize,
        /// Always 64.
        expected: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("character {at} of the digest is {found:?}, not a hexadecimal digit")]
    Character {
        /// Position, counted from 0.
        at: usize,
        /// What stands there.
        found: char,
    },
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A digest that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for a person to read.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }
}

/// Makes the [`Digest`] of bytes that come in parts.
#[derive(Clone, Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = text.chars().count();
        if found != 64 {
            return Err(ParseDigestError::Length { found, expected: 64 });
        }
        let mut bytes = [0_u8; 32];
        for (at, character) in text.chars().enumerate() {
            let digit = character
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or(ParseDigestError::Character { at, found: character })?;
            bytes[at / 2] = bytes[at / 2] << 4 | digit;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        let digest = Digest::of(b"exeunt");
        let text = digest.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(text.to_uppercase().parse(), Ok(digest));
        assert_eq!(digest.short(), text[..12]);
        assert_eq!(text, blake3::hash(b"exeunt").to_hex().as_str());
        let mut parts = Hasher::default();
        parts.update(b"exe");
        parts.update(b"unt");
        assert_eq!(parts.digest(), digest);
    }

    #[test]
    fn names_what_is_wrong_with_a_text() {
        assert_eq!("ab".parse::<Digest>(), Err(ParseDigestError::Length { found: 2, expected: 64 }));
        let text = format!("ab{}", "ü".repeat(62));
        assert_eq!(text.parse::<Digest>(), Err(ParseDigestError::Character { at: 2, found: 'ü' }));
    }

    #[test]
    fn is_text_for_people_and_bytes_on_the_wire() {
        let digest = Digest::of(b"x");
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        let wire = postcard::to_stdvec(&digest).unwrap();
        assert_eq!(wire, digest.as_bytes());
        assert_eq!(postcard::from_bytes::<Digest>(&wire).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"zz\"").is_err());
    }
}
