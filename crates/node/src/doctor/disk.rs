//! The disk below a folder: how much room is left, and how long a write takes until it is safe.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Check;

/// Writes that are timed.
const WRITES: usize = 200;
/// A slow disk is left alone after this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of each.
const BLOCK: [u8; 4096] = [0x5a; 4096];
/// Less room than this is too little for a network and its tables.
const LITTLE: u64 = 200 << 20;
/// Syncs slower than this hold up every acknowledgement.
const SLOW_MS: f64 = 100.0;

/// How much room is left on the disk that holds `folder`.
pub fn free_space(folder: &Path) -> Check {
    const NAME: &str = "free space";
    match available(folder) {
        Ok(Some(bytes)) => {
            let found = format!("{:.1} GB", bytes as f64 / 1e9);
            let check = match bytes {
                0..LITTLE => Check::bad(
                    NAME,
                    found,
                    "make room: networks, tables and the log of what happened lie here",
                ),
                _ => Check::good(NAME, found),
            };
            check.with("free_bytes", bytes)
        }
        Ok(None) => Check::note(NAME, "not known on this system"),
        Err(error) => Check::bad(NAME, error.to_string(), "the folder must be on a disk that can be read"),
    }
}

#[cfg(unix)]
fn available(folder: &Path) -> io::Result<Option<u64>> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(Some(disk.f_bavail.saturating_mul(disk.f_frsize)))
}

#[cfg(not(unix))]
fn available(_folder: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}

/// How long 4 kB take until they are on the disk that holds `folder`: the median and the 99th percentile of 200 writes,
/// or of as many as five seconds allow.
pub fn sync_latency(folder: &Path) -> Check {
    const NAME: &str = "disk sync";
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let measured = times(&path);
    // Whatever came of it, nothing is left behind; where it cannot be removed it could not be made either.
    let _ = fs::remove_file(&path);
    let mut times = match measured {
        Ok(times) => times,
        Err(error) => {
            return Check::bad(NAME, format!("cannot write here: {error}"), "make the folder writable");
        }
    };
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    let (median, p99) = (at(0.5), at(0.99));
    let writes = times.len();
    let found = format!("{median:.2} ms median, {p99:.2} ms p99, {writes} writes of 4 kB");
    let check = if median > SLOW_MS {
        Check::note(NAME, format!("{found}: slow, and every acknowledgement waits for one"))
    } else {
        Check::good(NAME, found)
    };
    check.with("sync_median_ms", median).with("sync_p99_ms", p99).with("sync_writes", writes)
}

fn times(path: &Path) -> io::Result<Vec<f64>> {
    let mut file = File::create_new(path)?;
    let begin = Instant::now();
    let mut times = Vec::with_capacity(WRITES);
    while times.len() < WRITES && (times.is_empty() || begin.elapsed() < PATIENCE) {
        let start = Instant::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn the_disk_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let check = sync_latency(folder.path());
        assert_ne!(check.outcome, Outcome::Bad, "{}", check.found);
        assert!(check.values["sync_median_ms"].as_f64() <= check.values["sync_p99_ms"].as_f64());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = sync_latency(&folder.path().join("gone"));
        assert_eq!(gone.outcome, Outcome::Bad);
        if cfg!(unix) {
            assert!(free_space(folder.path()).values["free_bytes"].as_u64() > Some(0));
        }
        assert_eq!(
            free_space(&folder.path().join("gone")).outcome,
            if cfg!(unix) { Outcome::Bad } else { Outcome::Note }
        );
    }
}
