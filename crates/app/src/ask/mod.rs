//! Commands about nodes, policies and snapshots, each one wish of an operator and what is printed of the answer.

mod live;
mod nodes;
mod policies;
mod snapshots;

use std::path::Path;
use std::time::SystemTime;

use exeunt_coordinator::Home;

pub(crate) use nodes::{node_id, nodes, remove};
pub(crate) use policies::policies;
pub(crate) use snapshots::snapshots;

/// `exeunt operator`.
pub(crate) fn operator(home: &Home, name: &str, out: &Path) -> anyhow::Result<()> {
    home.hand_out_operator(name, out, SystemTime::now())?;
    crate::out!("made {} for operator '{name}'", out.display());
    eprintln!(
        "copy it to the other machine and keep it as safe as a key; there: exeunt --connect {0}, or exeunt --home {0} run show",
        out.file_name().map_or_else(|| out.display().to_string(), |name| name.to_string_lossy().into_owned())
    );
    Ok(())
}

/// A moment, as days and hours of UTC.
fn moment(ms: u64) -> String {
    // Days since 1970 to a date, after Howard Hinnant's `civil_from_days`.
    let (days, seconds) = (ms / 86_400_000, ms / 1000 % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(1_796_083_199_999), "2026-11-30 23:59:59 UTC");
    }
}
