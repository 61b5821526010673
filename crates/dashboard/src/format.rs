//! Numbers and times as they are read.

use exeunt_protocol::moment::civil;

/// `93.4 %`.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", share * 100.0) } else { "–".to_owned() }
}

/// `1.42 ms`.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        ms if !ms.is_finite() => "–".to_owned(),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms if ms >= 10.0 => format!("{ms:.1} ms"),
        ms if ms >= 0.1 => format!("{ms:.2} ms"),
        ms => format!("{:.1} µs", ms * 1e3),
    }
}

/// `1.2 kJ`, or kilowatt hours from a million joules on.
pub(crate) fn joules(joules: f64) -> String {
    match joules {
        j if !j.is_finite() => "–".to_owned(),
        j if j >= 1e6 => format!("{:.1} kWh", j / 3.6e6),
        j if j >= 1e3 => format!("{:.1} kJ", j / 1e3),
        j if j >= 1.0 => format!("{j:.1} J"),
        j => format!("{:.1} mJ", j * 1e3),
    }
}

/// `−0.8`: points of accuracy, or of cost, with a sign.
pub(crate) fn points(difference: f64) -> String {
    let points = difference * 100.0;
    if points.abs() < 0.05 {
        return "±0.0".to_owned();
    }
    let sign = if points < 0.0 { '−' } else { '+' };
    format!("{sign}{:.1}", points.abs())
}

/// `1 234 567`, with narrow spaces.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

/// `1.4 MB`.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `3 min ago`, coarse on purpose: what is shown must not change every second.
pub(crate) fn ago(now_ms: u64, then_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) / 1000 {
        0..60 => "just now".to_owned(),
        s @ 60..3_600 => format!("{} min ago", s / 60),
        s @ 3_600..172_800 => format!("{} h ago", s / 3_600),
        s => format!("{} d ago", s / 86_400),
    }
}

/// How long something took: `240 ms`, `3.2 s`, `4 min 10 s`.
pub(crate) fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..7_200_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// `in 20 d`, coarse like [`ago`]; `expired` from then on.
pub(crate) fn until(now_ms: u64, then_ms: u64) -> String {
    match then_ms.saturating_sub(now_ms) / 1000 {
        0 => "expired".to_owned(),
        s @ 1..7_200 => format!("in {} min", s.div_ceil(60)),
        s @ 7_200..172_800 => format!("in {} h", s / 3_600),
        s => format!("in {} d", s / 86_400),
    }
}

/// `2026-11-25`, UTC.
pub(crate) fn day(at_ms: u64) -> String {
    let [year, month, day, ..] = civil(at_ms);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `59:03`, or `2 h 10 min`.
pub(crate) fn left(seconds: u64) -> String {
    match seconds {
        0..3_600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// `14:03:07`, UTC.
pub(crate) fn clock(at_ms: u64) -> String {
    let s = at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3_600, s % 3_600 / 60, s % 60)
}

/// A raw threshold: `always`, `never`, or four digits that tell neighbours apart.
pub(crate) fn threshold(threshold: f64) -> String {
    if threshold == f64::NEG_INFINITY {
        "always".to_owned()
    } else if threshold == f64::INFINITY {
        "never".to_owned()
    } else {
        let digits = if threshold.abs() < 10.0 { 3 } else { 1 };
        format!("{threshold:.digits$}").replace('-', "−")
    }
}

/// `1 node`, `8 nodes`.
pub(crate) fn plural(n: usize, what: &str) -> String {
    let n64 = n as u64;
    if n == 1 { format!("1 {what}") } else { format!("{} {what}s", count(n64)) }
}

/// The last part of an ONNX value name that tells taps apart, for narrow places.
pub(crate) fn tap(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [.., block, _layer, _output] => (*block).to_owned(),
        [.., last] => (*last).to_owned(),
        [] => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(percent(0.9337), "93.4 %");
        assert_eq!(percent(f64::NAN), "–");
        assert_eq!(
            (points(-0.008), points(0.0123), points(0.0001)),
            ("−0.8".into(), "+1.2".into(), "±0.0".into())
        );
        assert_eq!(count(1_234_567), "1\u{a0}234\u{a0}567");
        assert_eq!(
            (millis(123.4), millis(1.234), millis(0.0123)),
            ("123 ms".into(), "1.23 ms".into(), "12.3 µs".into())
        );
        assert_eq!((bytes(999), bytes(1_400_000)), ("999 B".into(), "1.4 MB".into()));
        assert_eq!(threshold(-1.5), "−1.500");
        assert_eq!((plural(1, "node"), plural(1000, "node")), ("1 node".into(), "1\u{a0}000 nodes".into()));
    }

    #[test]
    fn times_read_well() {
        assert_eq!(ago(100_000, 95_000), "just now");
        assert_eq!(ago(10_000_000, 9_700_000), "5 min ago");
        assert_eq!((left(3543), left(7800)), ("59:03".into(), "2 h 10 min".into()));
        assert_eq!(until(0, 1_728_000_000), "in 20 d");
        assert_eq!((until(0, 90_000), until(5, 5)), ("in 2 min".into(), "expired".into()));
        assert_eq!(
            (day(0), day(951_782_400_000), day(1_764_000_000_000)),
            ("1970-01-01".into(), "2000-02-29".into(), "2025-11-24".into())
        );
        assert_eq!(clock(86_400_000 + 3_661_000), "01:01:01");
    }

    #[test]
    fn taps_are_named_by_their_block() {
        assert_eq!(tap("/stage2/stage2.0/relu2/Relu_output_0"), "stage2.0");
        assert_eq!(tap("relu"), "relu");
        assert_eq!(tap(""), "");
    }
}
