//! Names that nobody can choose: hashes of public keys.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Crockford's base 32 in lower case: no `i`, `l`, `o` or `u` to mistake, and what people write
/// instead of `1` and `0` is understood.
pub(crate) const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";

pub(crate) static BASE32: LazyLock<Option<Encoding>> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str(ALPHABET);
    specification.translate.from.push_str("ABCDEFGHJKMNPQRSTVWXYZiIlLoO");
    specification.translate.to.push_str("abcdefghjkmnpqrstvwxyz111100");
    specification.encoding().ok()
});

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// The text is too short or too long.
    #[error("an id has {expected} characters, found {found}")]
    Length {
        /// Characters of the text, dashes left out.
        found: usize,
        /// Characters of an id.
        expected: usize,
    },
    /// A character that no id contains, or bits that no id ends with.
    #[error("{text:?} is not an id")]
    Malformed {
        /// The text.
        text: String,
    },
}

fn encode(bytes: &[u8]) -> String {
    BASE32.as_ref().map(|encoding| encoding.encode(bytes)).unwrap_or_default()
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let expected = (N * 8).div_ceil(5);
    let found = plain.chars().count();
    if found != expected {
        return Err(IdError::Length { found, expected });
    }
    BASE32
        .as_ref()
        .and_then(|encoding| encoding.decode(plain.as_bytes()).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| IdError::Malformed { text: text.to_owned() })
}

/// Eight characters in two groups: forty bits, enough for two people to compare.
fn short(bytes: &[u8]) -> String {
    let full = encode(bytes.get(..5).unwrap_or(bytes));
    let (left, right) = full.split_at(full.len() / 2);
    format!("{left}-{right}")
}

macro_rules! id {
    ($name:ident, $length:literal) => {
        impl $name {
            /// The id of these bytes.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }

            /// The first forty bits, as `k7qm-3xza`: for a person to compare. It is the beginning
            /// of the full text.
            pub fn short(&self) -> String {
                short(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                decode(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $length]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

/// Who a peer is: the first 16 bytes of the BLAKE3 of its public key (the DER of the
/// `SubjectPublicKeyInfo`). It does not change when the certificate is renewed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 16]);
id!(PeerId, 16);

impl PeerId {
    pub(crate) fn of_public_key(spki: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&blake3::hash(spki).as_bytes()[..16]);
        Self(bytes)
    }
}

/// Which authority: the SHA-256 of its public key (the DER of the `SubjectPublicKeyInfo`), the
/// usual fingerprint that other tools print too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityId([u8; 32]);
id!(AuthorityId, 32);

impl AuthorityId {
    pub(crate) fn of_public_key(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_short_id_begins_the_full_one() {
        let id = PeerId::of_public_key(b"a public key");
        let short = id.short();
        assert_eq!(short.len(), 9);
        assert_eq!(short.as_bytes()[4], b'-');
        assert!(id.to_string().starts_with(&short.replace('-', "")));
        assert_eq!(id.to_string().len(), 26);
    }

    #[test]
    fn what_people_write_for_one_and_zero_is_understood() {
        let id = PeerId::from_bytes([0; 16]);
        assert_eq!("O".repeat(26).parse(), Ok(id));
        assert!(matches!("0".repeat(25).parse::<PeerId>(), Err(IdError::Length { found: 25, expected: 26 })));
        assert!(matches!("u".repeat(26).parse::<PeerId>(), Err(IdError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn ids_survive_text(bytes: [u8; 16], more: [u8; 32]) {
            let peer = PeerId::from_bytes(bytes);
            prop_assert_eq!(peer.to_string().parse(), Ok(peer));
            prop_assert_eq!(peer.to_string().to_uppercase().parse(), Ok(peer));
            let authority = AuthorityId::from_bytes(more);
            prop_assert_eq!(authority.to_string().parse(), Ok(authority));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in ".*") {
            let _ = text.parse::<PeerId>();
            let _ = text.parse::<AuthorityId>();
        }
    }
}
