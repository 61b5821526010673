//! What inference follows: at which exits a sample may leave, by which rule, and how sure it must be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rule::Rule;

/// An exit in use: a sample leaves where its margin is above the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRule {
    /// What the margin is measured by.
    pub rule: Rule,
    /// Margins above this leave, in natural log-odds (METHOD, "Three facts"). `-∞` lets every sample leave and
    /// is written `"always"` where people read it; `+∞` lets none leave and is written `"never"`.
    #[serde(with = "threshold")]
    pub threshold: f64,
}

impl ExitRule {
    /// Leaves where the margin is above `threshold`.
    #[must_use]
    pub const fn new(rule: Rule, threshold: f64) -> Self {
        Self { rule, threshold }
    }

    /// Every sample leaves.
    #[must_use]
    pub const fn everyone(rule: Rule) -> Self {
        Self::new(rule, f64::NEG_INFINITY)
    }

    /// Whether every sample leaves, whatever its margin.
    #[must_use]
    pub fn is_everyone(&self) -> bool {
        self.threshold == f64::NEG_INFINITY
    }

    /// Whether a sample of this margin leaves. A margin that is not a number, or `-∞`, never does.
    #[must_use]
    pub fn leaves(&self, margin: f64) -> bool {
        margin > self.threshold
    }
}

impl fmt::Display for ExitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, threshold } = self;
        if threshold.is_infinite() {
            write!(f, "{rule} {}", threshold::word(*threshold))
        } else {
            write!(f, "{rule} > {threshold}")
        }
    }
}

/// Per exit, in the order they are reached: off, or a rule with its threshold (METHOD, "Words").
///
/// A sample leaves at the first exit in use whose margin is above the threshold; one that leaves nowhere is
/// decided by the network itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// One entry per exit of the run; `None` where the exit is off.
    pub exits: Vec<Option<ExitRule>>,
}

/// Why a policy does not fit a run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// Too many exits, or too few.
    #[error("a policy for {found} exits, expected {expected}")]
    Exits {
        /// Exits of the policy.
        found: usize,
        /// Exits of the run.
        expected: usize,
    },
    /// The exit cannot decide by that rule.
    #[error("exit {exit} has no rule {found}, expected {}", list(expected))]
    Rule {
        /// The exit, from 0.
        exit: usize,
        /// The policy's rule.
        found: Rule,
        /// The rules it has.
        expected: Vec<Rule>,
    },
    /// The threshold is not a number.
    #[error("the threshold of exit {exit} is not a number")]
    Threshold {
        /// The exit, from 0.
        exit: usize,
    },
}

fn list(rules: &[Rule]) -> String {
    match rules {
        [] => "the exit to be off".to_owned(),
        rules => rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(" or "),
    }
}

impl Policy {
    /// No exit in use: the bare network.
    #[must_use]
    pub fn off(exits: usize) -> Self {
        Self { exits: vec![None; exits] }
    }

    /// Every sample leaves at `exit` (from 0), and no other exit is in use. The bare network if there is no such
    /// exit.
    #[must_use]
    pub fn static_cut(exits: usize, exit: usize, rule: Rule) -> Self {
        let mut policy = Self::off(exits);
        if let Some(place) = policy.exits.get_mut(exit) {
            *place = Some(ExitRule::everyone(rule));
        }
        policy
    }

    /// Whether this is the bare network.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.exits.iter().all(Option::is_none)
    }

    /// The exit and rule of a static cut: that exit alone in use, and every sample leaving there.
    #[must_use]
    pub fn as_static_cut(&self) -> Option<(usize, Rule)> {
        let mut used = self.exits.iter().enumerate().filter_map(|(e, exit)| Some((e, exit.as_ref()?)));
        match (used.next(), used.next()) {
            (Some((e, exit)), None) if exit.is_everyone() => Some((e, exit.rule)),
            _ => None,
        }
    }

    /// Where a sample leaves, given its margin at any exit by any rule; the number of exits if nowhere. Margins
    /// are asked for only at exits that are reached and in use.
    pub fn leaves_at(&self, mut margin: impl FnMut(usize, Rule) -> f64) -> usize {
        let left = self.exits.iter().enumerate().position(|(e, exit)| match exit {
            Some(exit) => exit.leaves(margin(e, exit.rule)),
            None => false,
        });
        left.unwrap_or(self.exits.len())
    }

    /// Checks the policy against the rules each exit of the run can decide by.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn check(&self, rules: &[Vec<Rule>]) -> Result<(), PolicyError> {
        if self.exits.len() != rules.len() {
            return Err(PolicyError::Exits { found: self.exits.len(), expected: rules.len() });
        }
        for (exit, (used, rules)) in self.exits.iter().zip(rules).enumerate() {
            let Some(used) = used else { continue };
            if !rules.contains(&used.rule) {
                return Err(PolicyError::Rule { exit, found: used.rule, expected: rules.clone() });
            }
            if used.threshold.is_nan() {
                return Err(PolicyError::Threshold { exit });
            }
        }
        Ok(())
    }
}

/// Thresholds in serde: a number; infinities, which JSON lacks, as words where people read them.
mod threshold {
    use std::fmt;

    use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
    use serde::ser::{Serialize, Serializer};

    const EVERYONE: &str = "always";
    const NOBODY: &str = "never";

    pub(super) fn word(infinite: f64) -> &'static str {
        if infinite < 0.0 { EVERYONE } else { NOBODY }
    }

    pub(super) fn serialize<S: Serializer>(threshold: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && threshold.is_infinite() {
            word(*threshold).serialize(serializer)
        } else {
            threshold.serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(NumberOrWord)
        } else {
            let threshold = f64::deserialize(deserializer)?;
            number(threshold)
        }
    }

    fn number<E: Error>(threshold: f64) -> Result<f64, E> {
        if threshold.is_nan() {
            return Err(E::invalid_value(Unexpected::Float(threshold), &NumberOrWord));
        }
        Ok(threshold)
    }

    struct NumberOrWord;

    impl Visitor<'_> for NumberOrWord {
        type Value = f64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a threshold: a number, {EVERYONE:?} or {NOBODY:?}")
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
            number(value)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<f64, E> {
            match value {
                EVERYONE => Ok(f64::NEG_INFINITY),
                NOBODY => Ok(f64::INFINITY),
                _ => Err(E::invalid_value(Unexpected::Str(value), &self)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Policy {
        Policy {
            exits: vec![
                Some(ExitRule::new(Rule::Whitened, 2.5)),
                None,
                Some(ExitRule::new(Rule::ClassMeans, -1.0)),
                Some(ExitRule::everyone(Rule::Whitened)),
                Some(ExitRule::new(Rule::Whitened, f64::INFINITY)),
            ],
        }
    }

    #[test]
    fn infinite_thresholds_survive_json_and_postcard() {
        let json = serde_json::to_string(&example()).unwrap();
        assert!(json.contains(r#"{"rule":"whitened","threshold":"always"}"#), "{json}");
        assert!(json.contains(r#"{"rule":"whitened","threshold":"never"}"#), "{json}");
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), example());
        let wire = postcard::to_stdvec(&example()).unwrap();
        assert_eq!(postcard::from_bytes::<Policy>(&wire).unwrap(), example());
    }

    #[test]
    fn a_threshold_that_is_no_number_is_refused_on_arrival() {
        let read = |threshold: &str| {
            serde_json::from_str::<ExitRule>(&format!(r#"{{"rule":"whitened","threshold":{threshold}}}"#))
        };
        assert_eq!(read("-3").unwrap().threshold, -3.0);
        assert_eq!(read("3").unwrap().threshold, 3.0);
        let error = read("\"sometimes\"").unwrap_err().to_string();
        assert!(error.contains(r#"expected a threshold: a number, "always" or "never""#), "{error}");
        let wire = postcard::to_stdvec(&ExitRule::new(Rule::Whitened, f64::NAN)).unwrap();
        assert!(postcard::from_bytes::<ExitRule>(&wire).is_err());
    }

    #[test]
    fn a_sample_leaves_at_the_first_exit_above_its_threshold() {
        let policy = example();
        let leaves = |first: f64, third: f64| {
            policy.leaves_at(|e, rule| match (e, rule) {
                (0, Rule::Whitened) => first,
                (2, Rule::ClassMeans) => third,
                (3, Rule::Whitened) => -1e300,
                other => panic!("nobody asked {other:?}"),
            })
        };
        assert_eq!(leaves(2.6, f64::NAN), 0);
        assert_eq!(leaves(2.5, -0.9), 2);
        assert_eq!(leaves(f64::NAN, -1.0), 3);
        assert_eq!(Policy::off(3).leaves_at(|_, _| f64::INFINITY), 3);
    }

    #[test]
    fn static_cuts_are_recognised() {
        let cut = Policy::static_cut(3, 1, Rule::ClassMeans);
        assert_eq!(cut.as_static_cut(), Some((1, Rule::ClassMeans)));
        assert_eq!(example().as_static_cut(), None);
        assert_eq!(Policy::off(3).as_static_cut(), None);
        assert!(Policy::static_cut(3, 3, Rule::Whitened).is_off());
    }

    #[test]
    fn a_policy_is_checked_against_the_rules_of_the_run() {
        let both = vec![Rule::ClassMeans, Rule::Whitened];
        let mut rules = vec![both.clone(); 5];
        assert_eq!(example().check(&rules), Ok(()));
        rules[2] = vec![Rule::Whitened];
        let error = example().check(&rules).unwrap_err();
        assert_eq!(error.to_string(), "exit 2 has no rule class-means, expected whitened");
        rules[2].clear();
        let error = example().check(&rules).unwrap_err();
        assert_eq!(error.to_string(), "exit 2 has no rule class-means, expected the exit to be off");
        let error = example().check(&rules[..2]).unwrap_err();
        assert_eq!(error.to_string(), "a policy for 5 exits, expected 2");
        let nan = Policy { exits: vec![Some(ExitRule::new(Rule::Whitened, f64::NAN))] };
        assert_eq!(nan.check(&[both]), Err(PolicyError::Threshold { exit: 0 }));
    }
}
