//! The join token: what a device must be told to enrol, in one line of text.
//!
//! `exeunt1` followed by base 32 of
//!
//! ```text
//! length of the payload (2 bytes, big endian) · check of the length (1 byte)
//! payload (postcard: authority, secret, expiry, addresses)
//! checksum (4 bytes: the beginning of the BLAKE3 of all before it)
//! ```
//!
//! The length makes a token that was cut short look different from one that was mistyped.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exeunt_stats::Digest;
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{ALPHABET, BASE32};
use crate::limits::{MAX_ADDRESSES, MAX_TOKEN};
use crate::{Address, AuthorityId};

const PREFIX: &str = "exeunt";
const VERSION: &str = "1";
const HEADER: usize = 3;
const CHECKSUM: usize = 4;

/// The one-time secret of a token. Whoever shows it may enrol one key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 16]);

impl Secret {
    /// A new secret from the operating system's randomness.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The secret of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// What a store should keep instead of the secret: enough to recognise it, of no use to
    /// whoever reads the store.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A join token. `Display` writes the line to hand over (it contains the secret); `Debug` does
/// not show the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    addresses: Vec<Address>,
    authority: AuthorityId,
    secret: Secret,
    expires: u64,
}

/// Why a text is no token, or one that is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text does not begin like a token.
    #[error("a join token begins with {PREFIX:?}, found {found:?}")]
    NotAToken {
        /// The beginning of the text.
        found: String,
    },
    /// The token is of another version of exeunt.
    #[error("the join token is of version {found:?}, this program understands {VERSION:?}")]
    Version {
        /// The version in the token.
        found: String,
    },
    /// Characters are missing at the end.
    #[error("the join token is cut short: found {found} characters, expected {expected}")]
    Truncated {
        /// Characters present.
        found: usize,
        /// Characters of the whole token.
        expected: usize,
    },
    /// Something was added at the end.
    #[error("the join token is too long: found {found} characters, expected {expected}")]
    TooLong {
        /// Characters present.
        found: usize,
        /// Characters of the whole token, or the most a token may have.
        expected: usize,
    },
    /// A character that no token contains.
    #[error("the join token has {found:?} at character {position}, which no token contains")]
    Character {
        /// The character.
        found: char,
        /// Where, counted from 1.
        position: usize,
    },
    /// The checksum says that some character is wrong.
    #[error("the join token is mistyped: its checksum does not match")]
    Mistyped,
    /// The checksum is right and the content is not: made by something else than exeunt.
    #[error("the content of the join token cannot be read")]
    Content,
    /// The token has no address, or too many.
    #[error("a join token names 1 to {MAX_ADDRESSES} addresses, found {found}")]
    Addresses {
        /// Addresses in the token.
        found: usize,
    },
    /// Too late.
    #[error("the join token expired {} ago: ask for a new one", coarse(*.ago))]
    Expired {
        /// How long ago.
        ago: Duration,
    },
}

fn coarse(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[derive(Serialize, Deserialize)]
struct Payload {
    authority: [u8; 32],
    secret: Secret,
    expires: u64,
    addresses: Vec<Address>,
}

impl Token {
    /// A token for one node, good until `expires` (whole seconds; the rest is cut off).
    ///
    /// # Errors
    /// [`TokenError::Addresses`] without an address or with too many.
    pub fn new(
        addresses: Vec<Address>,
        authority: AuthorityId,
        secret: Secret,
        expires: SystemTime,
    ) -> Result<Self, TokenError> {
        check_addresses(&addresses)?;
        let expires = expires.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self { addresses, authority, secret, expires })
    }

    /// Where the coordinator can be reached, best first.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The authority that the coordinator's certificate must come from.
    pub fn authority(&self) -> AuthorityId {
        self.authority
    }

    /// The one-time secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// When the token stops being accepted.
    pub fn expires(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.expires)).unwrap_or(UNIX_EPOCH)
    }

    /// Whether the token may still be used at `now`. The coordinator decides; this spares a node
    /// the journey.
    ///
    /// # Errors
    /// [`TokenError::Expired`] when it may not.
    pub fn check_expiry(&self, now: SystemTime) -> Result<(), TokenError> {
        match now.duration_since(self.expires()) {
            Ok(ago) => Err(TokenError::Expired { ago }),
            Err(_still_ahead) => Ok(()),
        }
    }
}

fn check_addresses(addresses: &[Address]) -> Result<(), TokenError> {
    match addresses.len() {
        1..=MAX_ADDRESSES => Ok(()),
        found => Err(TokenError::Addresses { found }),
    }
}

fn length_check(length: [u8; 2]) -> u8 {
    blake3::hash(&length).as_bytes()[0]
}

fn characters(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = postcard::to_allocvec(&Payload {
            authority: *self.authority.as_bytes(),
            secret: self.secret.clone(),
            expires: self.expires,
            addresses: self.addresses.clone(),
        })
        .map_err(|_unwritable| fmt::Error)?;
        // 16 addresses of 253 characters and the rest are far below 65,535.
        let length = u16::try_from(payload.len()).map_err(|_too_long| fmt::Error)?.to_be_bytes();
        let mut bytes = Vec::with_capacity(HEADER + payload.len() + CHECKSUM);
        bytes.extend_from_slice(&length);
        bytes.push(length_check(length));
        bytes.extend_from_slice(&payload);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM]);
        let encoding = BASE32.as_ref().ok_or(fmt::Error)?;
        write!(f, "{PREFIX}{VERSION}{}", encoding.encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Reads a token. White space is ignored, since terminals and mail programs wrap lines;
    /// upper and lower case are the same.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        // Long before a person would type it, and before anything of that size is copied.
        if text.len() > MAX_TOKEN {
            return Err(TokenError::TooLong { found: text.len(), expected: MAX_TOKEN });
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let body = body(&text)?;
        let found = text.chars().count();
        let skipped = PREFIX.len() + VERSION.len();
        for (index, character) in body.chars().enumerate() {
            let known = ALPHABET.contains(character.to_ascii_lowercase())
                || matches!(character, 'i' | 'I' | 'l' | 'L' | 'o' | 'O');
            if !known {
                return Err(TokenError::Character { found: character, position: skipped + index + 1 });
            }
        }
        let encoding = BASE32.as_ref().ok_or(TokenError::Content)?;
        let head = body
            .get(..8)
            .ok_or(TokenError::Truncated { found, expected: skipped + characters(HEADER + CHECKSUM) })?;
        let head = encoding.decode(head.as_bytes()).map_err(|_symbols| TokenError::Mistyped)?;
        let [high, low, check, ..] = head[..] else {
            return Err(TokenError::Mistyped);
        };
        if check != length_check([high, low]) {
            return Err(TokenError::Mistyped);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let expected = characters(HEADER + length + CHECKSUM);
        if body.len() < expected {
            return Err(TokenError::Truncated { found, expected: skipped + expected });
        }
        if body.len() > expected {
            return Err(TokenError::TooLong { found, expected: skipped + expected });
        }
        let bytes = encoding.decode(body.as_bytes()).map_err(|_trailing_bits| TokenError::Mistyped)?;
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TokenError::Mistyped)?;
        if blake3::hash(content).as_bytes()[..CHECKSUM] != checksum[..] {
            return Err(TokenError::Mistyped);
        }
        let (payload, rest) = postcard::take_from_bytes::<Payload>(&content[HEADER..])
            .map_err(|_foreign| TokenError::Content)?;
        if !rest.is_empty() {
            return Err(TokenError::Content);
        }
        check_addresses(&payload.addresses)?;
        Ok(Self {
            addresses: payload.addresses,
            authority: AuthorityId::from_bytes(payload.authority),
            secret: payload.secret,
            expires: payload.expires,
        })
    }
}

/// What follows the prefix and the version.
fn body(text: &str) -> Result<&str, TokenError> {
    let prefix = text
        .get(..PREFIX.len())
        .filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
        .ok_or_else(|| TokenError::NotAToken { found: text.chars().take(12).collect() })?;
    let rest = &text[prefix.len()..];
    match rest.strip_prefix(VERSION) {
        Some(body) => Ok(body),
        None if rest.is_empty() => Err(TokenError::Truncated {
            found: text.len(),
            expected: PREFIX.len() + VERSION.len() + characters(HEADER + CHECKSUM),
        }),
        None => Err(TokenError::Version { found: rest.chars().take(1).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> Token {
        Token::new(
            vec![
                "192.0.2.7:7000".parse().expect("an address"),
                "coordinator.lan:7000".parse().expect("an address"),
            ],
            AuthorityId::from_bytes([7; 32]),
            Secret::from_bytes([9; 16]),
            UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        )
        .expect("a token")
    }

    #[test]
    fn survives_text_wrapping_and_case() {
        let token = token();
        let text = token.to_string();
        assert!(text.starts_with("exeunt1"));
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(text.to_uppercase().parse(), Ok(token.clone()));
        let wrapped = format!("  {}\n  {}\n", &text[..60], &text[60..]);
        assert_eq!(wrapped.parse(), Ok(token));
    }

    #[test]
    fn every_cut_is_called_a_cut() {
        let text = token().to_string();
        for length in 6..text.len() {
            let error = text[..length].parse::<Token>().expect_err("cut short");
            assert!(
                matches!(error, TokenError::Truncated { found, .. } if found == length),
                "{length}: {error}"
            );
        }
        assert!(matches!(format!("{text}0").parse::<Token>(), Err(TokenError::TooLong { .. })));
    }

    #[test]
    fn every_wrong_character_is_noticed() {
        let text = token().to_string();
        for index in 7..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[index] = if wrong[index] == b'z' { b'y' } else { b'z' };
            let wrong = String::from_utf8(wrong).expect("ascii");
            assert_eq!(wrong.parse::<Token>(), Err(TokenError::Mistyped), "{index}");
        }
        let mut wrong = text;
        wrong.replace_range(20..21, "!");
        assert_eq!(wrong.parse::<Token>(), Err(TokenError::Character { found: '!', position: 21 }));
    }

    #[test]
    fn foreign_text_and_versions_have_names() {
        assert!(matches!("hello".parse::<Token>(), Err(TokenError::NotAToken { .. })));
        assert!(matches!(
            "exeunt2abc".parse::<Token>(),
            Err(TokenError::Version { found }) if found == "2"
        ));
        assert!(matches!("exeunt1".repeat(2_000).parse::<Token>(), Err(TokenError::TooLong { .. })));
    }

    #[test]
    fn expiry_is_judged_by_the_time_given() {
        let token = token();
        let end = token.expires();
        assert_eq!(token.check_expiry(end - Duration::from_secs(1)), Ok(()));
        let late = token.check_expiry(end + Duration::from_secs(7_200));
        assert_eq!(
            late.expect_err("expired").to_string(),
            "the join token expired 2 h ago: ask for a new one"
        );
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let shown = format!("{:?}", token());
        assert!(shown.contains("Secret(…)"), "{shown}");
        assert!(!shown.contains("9, 9"), "{shown}");
    }

    #[test]
    fn a_token_without_an_address_is_refused() {
        let made = Token::new(Vec::new(), AuthorityId::from_bytes([0; 32]), Secret::random(), UNIX_EPOCH);
        assert_eq!(made, Err(TokenError::Addresses { found: 0 }));
    }

    proptest! {
        #[test]
        fn round_trips(
            hosts in prop::collection::vec(("[a-z]{1,20}(\\.[a-z]{1,9})?", 1u16..), 1..5),
            authority: [u8; 32],
            secret: [u8; 16],
            expires in 0u64..1 << 40,
        ) {
            let addresses = hosts
                .into_iter()
                .map(|(host, port)| format!("{host}:{port}").parse().expect("an address"))
                .collect();
            let token = Token::new(
                addresses,
                AuthorityId::from_bytes(authority),
                Secret::from_bytes(secret),
                UNIX_EPOCH + Duration::from_secs(expires),
            )
            .expect("a token");
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn any_text_is_a_token_or_an_error(text in ".*", tail in "[0-9a-zA-Z]{0,80}") {
            let _ = text.parse::<Token>();
            let _ = format!("exeunt1{tail}").parse::<Token>();
        }
    }
}
