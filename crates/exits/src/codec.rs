//! Heads as bytes: a version, then `postcard`; read through the same checks that make heads.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::head::Unavailable;
use crate::{ExitHead, HeadError, Heads, LinearHead};

/// Longest encoding that is read.
pub const MAX_ENCODED_BYTES: usize = 1 << 30;
/// Version of the encoding.
const VERSION: u8 = 1;

/// Why bytes are not heads.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// More than [`MAX_ENCODED_BYTES`].
    #[error("{found} bytes, expected at most {MAX_ENCODED_BYTES}")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// Another version wrote them.
    #[error("version {found:?}, expected {VERSION}")]
    Version {
        /// The version, if there is a byte at all.
        found: Option<u8>,
    },
    /// They are cut off or garbled.
    #[error("not an encoded snapshot: {what}")]
    Malformed {
        /// What the reader says.
        what: String,
    },
    /// More bytes than heads.
    #[error("{found} bytes too many")]
    Trailing {
        /// How many.
        found: usize,
    },
    /// They say in other bytes what [`Heads::encode`] would: a digest would not name them.
    #[error("not in the one form heads are written in")]
    NotCanonical,
    /// Exits do not have the same classes.
    #[error("exit {exit} has {found} classes, expected {expected}")]
    Classes {
        /// The exit, from 0.
        exit: usize,
        /// Its classes.
        found: usize,
        /// Those of the first exit.
        expected: usize,
    },
    /// An exit's parts do not fit each other.
    #[error("exit {exit}: {source}")]
    Head {
        /// The exit, from 0.
        exit: usize,
        /// What is wrong.
        source: HeadError,
    },
}

#[derive(Clone, Serialize, Deserialize)]
struct Plain {
    classes: u32,
    present: Vec<bool>,
    means: Vec<f32>,
    spreads: Result<Vec<f64>, Unavailable>,
    whitened: Result<(Vec<f32>, Vec<f64>), Unavailable>,
}

pub(crate) fn encode(heads: &Heads) -> Vec<u8> {
    let numbers = |array: ndarray::ArrayView2<'_, f32>| array.iter().copied().collect::<Vec<f32>>();
    let exits: Vec<Plain> = heads
        .exits()
        .iter()
        .map(|exit| Plain {
            classes: u32::try_from(exit.classes()).unwrap_or(u32::MAX),
            present: exit.present().to_vec(),
            means: numbers(exit.means()),
            spreads: exit.spreads().map(<[f64]>::to_vec).map_err(Clone::clone),
            whitened: exit
                .whitened()
                .map(|head| (numbers(head.weights()), head.bias().to_vec()))
                .map_err(Clone::clone),
        })
        .collect();
    // Writing into memory that grows cannot fail, and every field has a length known before it is written.
    postcard::to_extend(&exits, vec![VERSION]).unwrap_or_default()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Heads, DecodeError> {
    if bytes.len() > MAX_ENCODED_BYTES {
        return Err(DecodeError::TooLong { found: bytes.len() });
    }
    let Some((&VERSION, body)) = bytes.split_first() else {
        return Err(DecodeError::Version { found: bytes.first().copied() });
    };
    let (plain, rest): (Vec<Plain>, &[u8]) = postcard::take_from_bytes(body)
        .map_err(|error| DecodeError::Malformed { what: error.to_string() })?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { found: rest.len() });
    }
    let expected = plain.first().map_or(0, |exit| exit.classes as usize);
    let mut exits = Vec::with_capacity(plain.len());
    for (exit, plain) in plain.into_iter().enumerate() {
        if plain.classes as usize != expected {
            return Err(DecodeError::Classes { exit, found: plain.classes as usize, expected });
        }
        exits.push(head(plain).map_err(|source| DecodeError::Head { exit, source })?);
    }
    let heads = Heads::new(exits);
    if encode(&heads) != bytes {
        return Err(DecodeError::NotCanonical);
    }
    Ok(heads)
}

fn head(plain: Plain) -> Result<ExitHead, HeadError> {
    let classes = plain.classes as usize;
    let whitened = match plain.whitened {
        Ok((weights, bias)) => Ok(LinearHead::new(matrix("weights", classes, weights)?, bias)?),
        Err(why) => Err(why),
    };
    ExitHead::new(matrix("means", classes, plain.means)?, plain.present)?
        .with_spreads(plain.spreads)?
        .with_whitened(whitened)
}

fn matrix(what: &'static str, classes: usize, numbers: Vec<f32>) -> Result<Array2<f32>, HeadError> {
    let found = numbers.len();
    let dim = found.checked_div(classes).unwrap_or(0);
    let wrong = HeadError::Size { what, found, expected: classes * dim };
    if dim * classes != found {
        return Err(wrong);
    }
    Array2::from_shape_vec((classes, dim), numbers).map_err(|_error| wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads() -> Heads {
        let means = Array2::from_shape_fn((2, 3), |(k, d)| (k * 3 + d) as f32);
        let linear = LinearHead::new(means.clone(), vec![0.5, -1.0]).unwrap();
        let first = ExitHead::new(means.clone(), vec![true, true])
            .and_then(|head| head.with_spreads(Ok(vec![1.0, 2.0])))
            .and_then(|head| head.with_whitened(Ok(linear)))
            .unwrap();
        let needed = Unavailable::NoSecondMoments { needed: 6, found: 4 };
        let second =
            ExitHead::new(means, vec![true, false]).and_then(|head| head.with_whitened(Err(needed))).unwrap();
        Heads::new(vec![first, second])
    }

    #[test]
    fn heads_round_trip() {
        let heads = heads();
        let bytes = heads.encode();
        assert_eq!(Heads::decode(&bytes), Ok(heads));
        assert_eq!(
            Heads::decode(&[bytes.clone(), vec![0]].concat()),
            Err(DecodeError::Trailing { found: 1 })
        );
        assert!(Heads::decode(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(Heads::decode(&[9]), Err(DecodeError::Version { found: Some(9) }));
        assert_eq!(Heads::decode(&[]), Err(DecodeError::Version { found: None }));
    }

    #[test]
    fn heads_have_one_form() {
        let bytes = heads().encode();
        // The number of exits, 2, in two bytes rather than one.
        let longer = [&[VERSION, 0x82, 0x00][..], &bytes[2..]].concat();
        assert_eq!(bytes[1], 2);
        assert_eq!(Heads::decode(&longer), Err(DecodeError::NotCanonical));
        assert_eq!(Heads::decode(&bytes).unwrap().digest(), exeunt_stats::Digest::of(&bytes));
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let with = |change: fn(&mut Plain)| {
            let mut exits = vec![
                Plain {
                    classes: 2,
                    present: vec![true; 2],
                    means: vec![0.0; 6],
                    spreads: Ok(vec![1.0; 2]),
                    whitened: Ok((vec![0.0; 6], vec![0.0; 2])),
                };
                2
            ];
            change(&mut exits[1]);
            decode(&postcard::to_extend(&exits, vec![VERSION]).unwrap()).unwrap_err()
        };
        let head = |source| DecodeError::Head { exit: 1, source };
        assert_eq!(with(|exit| exit.classes = 3), DecodeError::Classes { exit: 1, found: 3, expected: 2 });
        assert_eq!(
            with(|exit| exit.means.truncate(5)),
            head(HeadError::Size { what: "means", found: 5, expected: 4 })
        );
        assert_eq!(with(|exit| exit.means[4] = f32::NAN), head(HeadError::Value { what: "means", class: 1 }));
        assert_eq!(
            with(|exit| exit.spreads = Ok(vec![1.0, -1.0])),
            head(HeadError::Value { what: "spreads", class: 1 })
        );
        assert_eq!(
            with(|exit| exit.whitened = Ok((vec![0.0; 4], vec![0.0; 2]))),
            head(HeadError::Size { what: "weights", found: 4, expected: 6 })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Heads::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = Heads::decode(&bytes);
        }

        #[test]
        fn a_changed_byte_is_an_error_or_other_heads(at in 1_usize..60, to in any::<u8>()) {
            let mut bytes = heads().encode();
            bytes[at] = to;
            if let Ok(read) = Heads::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
