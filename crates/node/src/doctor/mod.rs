//! Whether everything works here: what `exeunt-node doctor` and `exeunt doctor` look at, and how they say it.
//!
//! Every check is one line: what was looked at, what was found, and where something is wrong, what helps. Nothing is
//! repaired, and nothing is changed but a file in the folder that is written to see how fast the disk is.

mod disk;
mod machine;
mod node;

use std::fmt::Write as _;

use serde::Serialize;

pub use disk::{free_space, sync_latency};
pub use machine::{clock, engine, identity, processor};
pub use node::examine;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Good,
    /// Works, and somebody should know.
    Note,
    /// Something does not work, or will not.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What.
    pub check: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found, in words.
    pub found: String,
    /// What helps, where something does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The same in numbers and names, for programs.
    #[serde(flatten)]
    pub values: serde_json::Map<String, serde_json::Value>,
}

impl Check {
    /// Something that is as it should be.
    pub fn good(check: &'static str, found: impl Into<String>) -> Self {
        let values = serde_json::Map::new();
        Self { check, outcome: Outcome::Good, found: found.into(), remedy: None, values }
    }

    /// Something that works, and that somebody should know.
    pub fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self { outcome: Outcome::Note, ..Self::good(check, found) }
    }

    /// Something that does not work, and what helps.
    pub fn bad(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Bad, remedy: Some(remedy.into()), ..Self::good(check, found) }
    }

    /// The same with a value for programs.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.values.insert(name.to_owned(), value.into());
        self
    }
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checkup {
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// The folder that was looked at.
    pub home: String,
    /// What was looked at, in order.
    pub checks: Vec<Check>,
}

impl Checkup {
    /// What was looked at in a folder.
    pub fn new(home: &std::path::Path, checks: Vec<Check>) -> Self {
        let healthy = checks.iter().all(|check| check.outcome != Outcome::Bad);
        Self { healthy, home: home.display().to_string(), checks }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("folder {}\n\n", self.home);
        let width = self.checks.iter().map(|check| check.check.chars().count()).max().unwrap_or(0);
        for check in &self.checks {
            let mark = match check.outcome {
                Outcome::Good => "ok  ",
                Outcome::Note => "note",
                Outcome::Bad => "BAD ",
            };
            let _ = writeln!(text, "{mark}  {:width$}  {}", check.check, check.found);
            if let Some(remedy) = &check.remedy {
                let _ = writeln!(text, "      {:width$}  → {remedy}", "");
            }
        }
        let bad = self.checks.iter().filter(|check| check.outcome == Outcome::Bad).count();
        let _ = match bad {
            0 => writeln!(text, "\neverything works"),
            1 => writeln!(text, "\n1 thing does not work"),
            bad => writeln!(text, "\n{bad} things do not work"),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_check_is_enough() {
        let home = std::path::Path::new("/home");
        let good = vec![Check::good("clock", "right"), Check::note("engine", "slow").with("threads", 2)];
        let checkup = Checkup::new(home, good.clone());
        assert!(checkup.healthy && checkup.text().ends_with("everything works\n"));
        let bad = Check::bad("disk", "full", "make room");
        let checkup = Checkup::new(home, [good, vec![bad]].concat());
        assert!(!checkup.healthy);
        let expected =
            "ok    clock   right\nnote  engine  slow\nBAD   disk    full\n              → make room\n";
        assert!(checkup.text().contains(expected), "{}", checkup.text());
        let json = serde_json::to_value(&checkup).unwrap();
        assert_eq!(
            (&json["checks"][1]["threads"], &json["checks"][2]["outcome"]),
            (&2.into(), &"bad".into())
        );
    }
}
