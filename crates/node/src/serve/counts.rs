//! What was served: counts for `/v2/…/stats` and `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use exeunt_protocol::moment::unix_ms;
use serde_json::{Value, json};

use crate::infer::Verdict;
use crate::serve::live::Ready;

/// How often something happened, and how long it took together.
#[derive(Debug, Default, Clone, Copy)]
struct Timed {
    count: u64,
    ns: u64,
}

impl Timed {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn json(self) -> Value {
        json!({ "count": self.count, "ns": self.ns })
    }
}

/// Where the time of a request went.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Took {
    /// Reading the body.
    pub(crate) input: Duration,
    /// Waiting for a thread.
    pub(crate) queue: Duration,
    /// Running the network and asking exits.
    pub(crate) infer: Duration,
    /// Writing the answer.
    pub(crate) output: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    success: Timed,
    fail: Timed,
    input: Timed,
    queue: Timed,
    infer: Timed,
    output: Timed,
    samples: u64,
    last_ms: u64,
    /// Samples by run and exit, numbered from 1; 0 is the whole network.
    exits: BTreeMap<(String, usize), u64>,
    refused_connections: u64,
}

/// Counts since the process started.
#[derive(Debug, Default)]
pub(crate) struct Served(Mutex<Counts>);

impl Served {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counting does not panic half-way; a count that is one off would be no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn succeeded(&self, ready: &Ready, verdicts: &[Verdict], took: Took) {
        let now_ms = unix_ms(SystemTime::now());
        let mut counts = self.counts();
        counts.success.add(took.input + took.queue + took.infer + took.output);
        counts.input.add(took.input);
        counts.queue.add(took.queue);
        counts.infer.add(took.infer);
        counts.output.add(took.output);
        counts.samples += verdicts.len() as u64;
        counts.last_ms = now_ms;
        for verdict in verdicts {
            let exit = verdict.exit.map_or(0, |exit| exit + 1);
            *counts.exits.entry((ready.policy.run.to_string(), exit)).or_default() += 1;
        }
    }

    pub(crate) fn failed(&self, took: Duration) {
        self.counts().fail.add(took);
    }

    pub(crate) fn refused_connection(&self) {
        self.counts().refused_connections += 1;
    }

    /// The protocol's statistics of the one model there is.
    pub(crate) fn json(&self, model: &str, version: u32) -> Value {
        let counts = self.counts();
        json!({ "model_stats": [{
            "name": model,
            "version": version.to_string(),
            "last_inference": counts.last_ms,
            "inference_count": counts.samples,
            "execution_count": counts.success.count,
            "inference_stats": {
                "success": counts.success.json(),
                "fail": counts.fail.json(),
                "queue": counts.queue.json(),
                "compute_input": counts.input.json(),
                "compute_infer": counts.infer.json(),
                "compute_output": counts.output.json(),
            },
            "batch_stats": [],
        }]})
    }

    /// Prometheus's text format. Run ids need no escaping.
    pub(crate) fn metrics(&self, ready: Option<&Ready>, connections: usize) -> String {
        let counts = self.counts();
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let results = [("ok", counts.success.count), ("failed", counts.fail.count)];
        let results = results.map(|(result, n)| (format!("{{result=\"{result}\"}}"), n as f64));
        metric("exeunt_requests_total", "counter", "Inference requests answered.", &results);
        let exits = counts
            .exits
            .iter()
            .map(|((run, exit), n)| (format!("{{run=\"{run}\",exit=\"{exit}\"}}"), *n as f64));
        let help = "Samples by the exit they left by; 0 is the whole network.";
        metric("exeunt_samples_total", "counter", help, &exits.collect::<Vec<_>>());
        let phases = [
            ("input", counts.input),
            ("queue", counts.queue),
            ("infer", counts.infer),
            ("output", counts.output),
        ];
        let phases = phases.map(|(phase, timed)| (format!("{{phase=\"{phase}\"}}"), timed.ns as f64 / 1e9));
        metric("exeunt_request_seconds_total", "counter", "Where the time of requests went.", &phases);
        let refused = [(String::new(), counts.refused_connections as f64)];
        let help = "Connections turned away because there were too many.";
        metric("exeunt_connections_refused_total", "counter", help, &refused);
        let open = [(String::new(), connections as f64)];
        metric("exeunt_connections", "gauge", "Open connections.", &open);
        if let Some(Ready { policy, .. }) = ready {
            let version = [(format!("{{run=\"{}\"}}", policy.run), f64::from(policy.version))];
            metric("exeunt_policy_version", "gauge", "The policy that answers requests.", &version);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_out_as_prometheus_reads_them() {
        let served = Served::default();
        served.failed(Duration::from_millis(2));
        served.refused_connection();
        let text = served.metrics(None, 3);
        assert!(text.contains("# TYPE exeunt_requests_total counter\n"));
        assert!(text.contains("exeunt_requests_total{result=\"failed\"} 1\n"));
        assert!(text.contains("exeunt_connections 3\n"));
        assert!(text.contains("exeunt_connections_refused_total 1\n"));
        assert!(!text.contains("exeunt_policy_version"));
        let stats = served.json("m", 4);
        assert_eq!(stats["model_stats"][0]["inference_stats"]["fail"]["count"], 1);
        assert_eq!(stats["model_stats"][0]["version"], "4");
    }
}
