//! How an exit turns distances or projections into a class and a margin.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The rule an exit decides by (METHOD, "Early Exit Class Means" and "Whitened class means").
///
/// Both cost `K · D` multiply-accumulates per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The nearest class mean; confidence from distances divided by spreads. Needs a spread pass.
    ClassMeans,
    /// Linear discriminant analysis: class means measured in whitened space. Needs second moments.
    Whitened,
}

impl Rule {
    /// Every rule, in order.
    pub const ALL: [Rule; 2] = [Rule::ClassMeans, Rule::Whitened];

    /// The name used in run files, tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Rule::ClassMeans => "class-means",
            Rule::Whitened => "whitened",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown rule {found:?}, expected one of: class-means, whitened")]
pub struct ParseRuleError {
    /// What was given.
    pub found: String,
}

impl FromStr for Rule {
    type Err = ParseRuleError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Rule::ALL
            .into_iter()
            .find(|rule| rule.name() == s)
            .ok_or_else(|| ParseRuleError { found: s.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_text_and_serde() {
        for rule in Rule::ALL {
            assert_eq!(rule.to_string().parse(), Ok(rule));
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(json, format!("\"{rule}\""));
            assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
        }
        assert_eq!(format!("{:>12}|", Rule::Whitened), "    whitened|");
    }

    #[test]
    fn an_unknown_name_says_what_would_be_right() {
        let error = "class_means".parse::<Rule>().unwrap_err();
        assert_eq!(error.to_string(), "unknown rule \"class_means\", expected one of: class-means, whitened");
    }

    #[test]
    fn all_is_sorted_and_complete() {
        assert!(Rule::ALL.is_sorted());
        // A rule that is added must be added to ALL: this match does not compile otherwise.
        for rule in Rule::ALL {
            match rule {
                Rule::ClassMeans | Rule::Whitened => {}
            }
        }
    }
}
