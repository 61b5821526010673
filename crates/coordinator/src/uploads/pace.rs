//! Whether an upload moves on.

use std::time::Duration;

/// Over how long the pace is taken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes in that time below which an upload gives way when others wait for memory: 16 KiB a second.
pub(crate) const SLOW: u64 = 480 << 10;

/// How an upload moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As it should, or it is too early to say.
    Fine,
    /// Not at all.
    Silent,
    /// So slowly that it keeps others waiting.
    Slow,
}

/// Looks at one upload now and then.
#[derive(Debug)]
pub(crate) struct Meter {
    since: Duration,
    received: u64,
}

impl Meter {
    /// Begins to measure.
    pub(crate) fn new(now: Duration, received: u64) -> Self {
        Self { since: now, received }
    }

    /// How it has moved on since [`PATIENCE`] ago; `crowded`: others wait.
    pub(crate) fn look(&mut self, now: Duration, received: u64, crowded: bool) -> Pace {
        if now.saturating_sub(self.since) < PATIENCE {
            return Pace::Fine;
        }
        let came = received.saturating_sub(self.received);
        *self = Self::new(now, received);
        match came {
            0 => Pace::Silent,
            came if crowded && came < SLOW => Pace::Slow,
            _ => Pace::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_an_upload_and_slowness_only_where_others_wait() {
        let at = |seconds: u64| Duration::from_secs(seconds);
        let mut meter = Meter::new(at(0), 100);
        assert_eq!(meter.look(at(29), 100, true), Pace::Fine, "too early");
        assert_eq!(meter.look(at(30), 100, false), Pace::Silent);
        let mut meter = Meter::new(at(0), 100);
        assert_eq!(meter.look(at(30), 101, false), Pace::Fine);
        assert_eq!(meter.look(at(45), 101, true), Pace::Fine, "the next half minute has begun");
        assert_eq!(meter.look(at(60), 102, true), Pace::Slow);
        assert_eq!(meter.look(at(90), 102 + SLOW, true), Pace::Fine);
    }
}
