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
pub(crate) fn moment(ms: u64) -> String {
    let [year, month, day, hour, minute, second] = exeunt_protocol::moment::civil(ms);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
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
