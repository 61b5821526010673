//! The machine: its engine, its processor, its clock, and the keys that lie on it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exeunt_link::{Identity, IdentityError};
use exeunt_protocol::moment::{civil, unix_ms};

use super::Check;
use crate::computing::EngineOptions;

/// 2025-01-01. This software is younger.
const FIRST: Duration = Duration::from_secs(1_735_689_600);
/// A certificate that ends sooner than this is worth a word.
const SOON: Duration = Duration::from_secs(3 * 86_400);

/// Which engine runs networks here, and why that one.
pub fn engine(options: &EngineOptions) -> Check {
    const NAME: &str = "engine";
    let choice = match options.choose(None) {
        Ok(choice) => choice,
        Err(error) => {
            let remedy = "name the library with --onnxruntime or EXEUNT_ONNXRUNTIME, or take --engine tract";
            return Check::bad(NAME, error.to_string(), remedy);
        }
    };
    let searched: Vec<String> =
        choice.searched().iter().map(|place| place.folder.display().to_string()).collect();
    let mut found = format!("{choice}: {}", choice.reason());
    if choice.library().is_none() && !searched.is_empty() {
        found = format!("{found} ({})", searched.join(", "));
    }
    let check = if options.onnxruntime.is_some() && choice.library().is_none() {
        Check::note(NAME, found)
    } else {
        Check::good(NAME, found)
    };
    let library = choice.library().map(|path| path.display().to_string());
    check
        .with("engine", choice.to_string())
        .with("reason", choice.reason())
        .with("library", library)
        .with("searched", searched)
}

/// How many threads there are to compute with, of which kind.
pub fn processor(threads: Option<usize>) -> Check {
    const NAME: &str = "processor";
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let features = features();
    let named =
        if features.is_empty() { "no vector units that matter".to_owned() } else { features.join(", ") };
    let used = threads.map(|threads| format!(", {threads} used (node.json)")).unwrap_or_default();
    let found = format!("{}, {cores} threads{used}, {named}", std::env::consts::ARCH);
    let check = match threads {
        Some(threads) if threads > cores => Check::note(NAME, format!("{found}: more threads than cores")),
        _ => Check::good(NAME, found),
    };
    check.with("cores", cores).with("threads", threads.unwrap_or(cores)).with("features", features)
}

/// What the engines' kernels choose by.
fn features() -> Vec<&'static str> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("AVX", std::arch::is_x86_feature_detected!("avx")),
            ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
            ("FMA", std::arch::is_x86_feature_detected!("fma")),
            ("AVX-512F", std::arch::is_x86_feature_detected!("avx512f")),
            ("AVX-512VNNI", std::arch::is_x86_feature_detected!("avx512vnni")),
        ];
        features.extend(known.into_iter().filter_map(|(name, there)| there.then_some(name)));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let known = [
            ("NEON", std::arch::is_aarch64_feature_detected!("neon")),
            ("dot product", std::arch::is_aarch64_feature_detected!("dotprod")),
            ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ];
        features.extend(known.into_iter().filter_map(|(name, there)| there.then_some(name)));
    }
    features
}

/// Whether the clock can be right. Certificates end by it.
pub fn clock(now: SystemTime) -> Check {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let found = format!("{} UTC", date(now));
    let check = if since < FIRST {
        Check::bad("clock", found, "set the clock: certificates are not valid yet by this one")
    } else {
        Check::good("clock", found)
    };
    check.with("unix_s", since.as_secs())
}

/// The key and certificate in `folder`. A certificate is renewed while its owner is connected, when a third of its life
/// is left; `way_back` says what helps once it has ended.
pub fn identity(name: &'static str, folder: &Path, now: SystemTime, way_back: &str) -> Check {
    let identity = match Identity::load(folder) {
        Ok(identity) => identity,
        Err(error @ IdentityError::Missing { .. }) => return Check::bad(name, error.to_string(), way_back),
        Err(error) => return Check::bad(name, error.to_string(), way_back),
    };
    let peer = identity.peer();
    let ends = date(peer.expires);
    let who = format!("'{}', short id {}", peer.name, identity.id().short());
    let check = if identity.expired(now) {
        Check::bad(name, format!("{who}: its certificate ended {ends}"), way_back)
    } else if now < identity.valid_from() {
        let remedy = "set the clock: it is behind the one that signed the certificate";
        Check::bad(name, format!("{who}: its certificate is not valid yet"), remedy)
    } else {
        let left = peer.expires.duration_since(now).unwrap_or_default();
        let found = format!("{who}, certificate until {ends} ({} days)", left.as_secs() / 86_400);
        if left < SOON { Check::note(name, found) } else { Check::good(name, found) }
    };
    let expires = peer.expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    check.with("expires", expires).with("short", identity.id().short())
}

/// The day and minute, as ISO 8601 has them.
fn date(at: SystemTime) -> String {
    let [year, month, day, hour, minute, _] = civil(unix_ms(at));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

#[cfg(test)]
mod tests {
    use exeunt_link::{Authority, Role};

    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn days_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00");
        assert_eq!(at(951_782_400), "2000-02-29 00:00");
        assert_eq!(at(1_735_689_599), "2024-12-31 23:59");
        assert_eq!(at(1_795_564_800), "2026-11-25 00:00");
    }

    #[test]
    fn a_clock_from_before_this_software_is_wrong() {
        assert_eq!(clock(UNIX_EPOCH).outcome, Outcome::Bad);
        assert_eq!(clock(UNIX_EPOCH + FIRST).outcome, Outcome::Good);
    }

    #[test]
    fn a_certificate_is_judged_by_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = Authority::open_or_create(folder.path().join("authority"), now).unwrap();
        let node = folder.path().join("node");
        let back = "join again";
        let judged = |at: SystemTime| identity("identity", &node, at, back);
        assert_eq!(judged(now).remedy.as_deref(), Some(back), "there is none");
        let issued = authority.issue_to(&node, Role::Node, "n", now).unwrap();
        assert_eq!(judged(now).outcome, Outcome::Good, "{}", judged(now).found);
        let ends = issued.peer().expires;
        assert_eq!(judged(ends - Duration::from_secs(3600)).outcome, Outcome::Note);
        assert_eq!(judged(ends + Duration::from_secs(1)).outcome, Outcome::Bad);
        let early = judged(UNIX_EPOCH + FIRST);
        assert!(early.outcome == Outcome::Bad && early.remedy.unwrap().contains("set the clock"));
    }
}
