//! Names of things: nodes, runs, queries, versions. Private fields, checked constructors.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A node: the first 16 bytes of the BLAKE3 of its public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// From the 16 bytes that name the peer on the wire.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// As people read it in JSON; 16 bytes on the wire.
impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Self)
        }
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// What is wrong with an id that a person or a peer wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A node id is 32 hexadecimal digits.
    #[error("'{found}' is not a node id: expected 32 hexadecimal digits")]
    Node {
        /// What was given.
        found: String,
    },
    /// A run id is 1 to 64 characters of `a-z 0-9 - _ .`.
    #[error("'{found}' is not a run id: expected 1 to 64 characters of a-z, 0-9, '-', '_' or '.'")]
    Run {
        /// What was given.
        found: String,
    },
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Node { found: text.to_owned() };
        if text.len() != 32 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
            *byte = digits.ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

/// A run: its name in the run file and a number, such as `digits-1`. In order, `digits-9` comes before `digits-10`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// The `number`-th run called `name`.
    ///
    /// # Errors
    /// The name holds characters that a run id may not hold, or is too long.
    pub fn numbered(name: &str, number: u64) -> Result<Self, IdError> {
        format!("{name}-{number}").parse()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, and the number behind it as far as there is one: its length without leading zeros, and its digits.
    fn parts(&self) -> (&str, usize, &str) {
        let name = self.0.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = self.0[name.len()..].trim_start_matches('0');
        (name, number.len(), number)
    }
}

impl Ord for RunId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Ids that differ in leading zeros alone are still two.
        self.parts().cmp(&other.parts()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for RunId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for RunId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if (1..=64).contains(&text.len()) && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Run { found: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({})", self.0)
    }
}

/// A query of a run: 0, 1, 2, … in the order they were asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueryId(pub u32);

impl QueryId {
    /// The query asked after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.0)
    }
}

/// Which edition of its data a node answered from. Only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DatasetVersion(pub u64);

/// Which policy of a run is in force: 1, 2, 3, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyVersion(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_in_the_order_of_their_numbers() {
        let mut runs: Vec<RunId> =
            ["b-1", "a-10", "a-9", "a", "a-09", "a-100"].iter().map(|id| id.parse().unwrap()).collect();
        runs.sort();
        let order: Vec<&str> = runs.iter().map(RunId::as_str).collect();
        assert_eq!(order, ["a", "a-09", "a-9", "a-10", "a-100", "b-1"]);
    }

    #[test]
    fn ids_round_trip_and_reject_what_they_are_not() {
        let node = NodeId::from_bytes([7; 16]);
        assert_eq!(node.to_string().parse(), Ok(node));
        let json = serde_json::to_string(&node).unwrap();
        assert_eq!(json, format!("\"{node}\""));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), node);
        assert!("07".parse::<NodeId>().is_err());
        assert!("é".repeat(16).parse::<NodeId>().is_err());
        let run = RunId::numbered("digits", 3).expect("valid");
        assert_eq!(run.as_str(), "digits-3");
        assert!("../etc".parse::<RunId>().is_err());
        assert!("".parse::<RunId>().is_err());
        assert!(serde_json::from_str::<RunId>("\"Bad Name\"").is_err());
    }
}
