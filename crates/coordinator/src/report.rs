//! What a person may see of a run: the machine's status, and what each node gave, read back from the store.

use std::collections::{BTreeMap, BTreeSet};

use exeunt_exits::{NodeCurve, Part, Query, Times, TimingsShape};
use exeunt_protocol::coordinator::{NodeStatus, Now, Purpose, RunStatus, Standing};
use exeunt_protocol::operator::{
    AuditLine, ContributionState, Coverage, LateAnswer, NodeContribution, NodeDetail, NodePoint, NodePolicy,
    NodeReport, NodeRow, NodeTimes, QueryTraffic, RunReport, RunRow, SnapshotNames, Withheld,
};
use exeunt_protocol::{NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::{Digest, MomentsShape, MomentsView, Table, packed};
use exeunt_store::{AuditEntry, NodeRecord, Seal};

use crate::core::{Core, CoreError};
use crate::runs::ListedRun;

/// Lines of the audit log that are looked through for those about one node.
const LOG_WINDOW: usize = 100_000;

impl Core {
    /// Everything there is to see of a run.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn report(&self, now: Now, run: &RunId) -> Result<RunReport, CoreError> {
        let mut status = self.machine.run_status(now, run)?;
        let seals = self.seals(run)?;
        let traffic = self.store.traffic(run)?;
        let asked = self.queries(run)?;
        let shown = shown_policies(&status, &asked);
        let late = self.late(run, &seals)?;
        let mut nodes = Vec::new();
        for (node, record) in self.nodes_by_name()? {
            let took_part =
                seals.iter().any(|(_, seal)| seal.cohort.iter().any(|(member, ..)| *member == node));
            if record.revoked && !took_part {
                continue;
            }
            let mut report = NodeReport {
                node,
                name: record.name,
                samples: None,
                withheld_classes: None,
                without_second_moments: Vec::new(),
                withheld: Vec::new(),
                network_accuracy: None,
                curve: Vec::new(),
                policies: Vec::new(),
                times: None,
                contribution: contribution(self.machine.contribution(run, node), node, &late),
                policy: self.machine.policy_state(run, node),
                traffic: traffic
                    .iter()
                    .filter(|(_, of, _)| *of == node)
                    .map(|(query, _, traffic)| QueryTraffic {
                        query: *query,
                        up: traffic.up,
                        down: traffic.down,
                    })
                    .collect(),
            };
            let described =
                seals.iter().zip(&asked).enumerate().filter(|(_, (_, query))| tells_of_nodes(query));
            let curve = asked.iter().position(on_evaluation);
            let mut measured: (Option<NodeCurve>, Option<Times>) = (None, None);
            for (place, ((id, seal), query)) in described {
                if on_evaluation(query) && curve != Some(place) {
                    continue;
                }
                if let Some(table) = self.counted(run, *id, seal, node)? {
                    self.describe(run, query, &table, &mut report, &mut measured);
                }
            }
            if let (curve, Some(times)) = measured {
                let points = curve.iter().flat_map(|curve| &curve.points);
                let curve_ms = points.map(|point| times.mean_ms(&point.policy, &point.exit_share)).collect();
                report.times = Some(NodeTimes { times, curve_ms });
            }
            for (policy, _, query) in shown.iter().filter(|(_, of, _)| of.is_none_or(|of| of == node)) {
                let Some((id, seal)) = seals.get(*query) else { continue };
                let table = self.counted(run, *id, seal, node)?;
                let point = table.zip(self.entries.get(run)).and_then(|(table, entry)| {
                    let curve = exeunt_exits::node_curve(&entry.context, asked.get(*query)?, &table)?;
                    curve.points.into_iter().next()
                });
                report.policies.extend(point.map(|point| NodePolicy {
                    version: *policy,
                    cost: point.cost,
                    accuracy: point.accuracy,
                    left: point.exit_share,
                }));
            }
            nodes.push(report);
        }
        let named = self.named_policies(run)?;
        for query in &mut status.queries {
            let seal = seals.iter().find(|(id, _)| *id == query.query);
            query.closed_ms = seal.map(|(_, seal)| seal.sealed_ms);
        }
        Ok(RunReport { status, digest: digest(&seals, &asked), nodes, late, named })
    }

    /// The seals of a run that count: those since the last contribution was removed.
    fn seals(&self, run: &RunId) -> Result<Vec<(QueryId, Seal)>, CoreError> {
        let first = self.machine.first_query(run);
        let mut seals = self.store.seals(run)?;
        seals.retain(|(query, _)| *query >= first);
        Ok(seals)
    }

    /// Answers that are stored and were not counted, because their query had closed.
    fn late(&self, run: &RunId, seals: &[(QueryId, Seal)]) -> Result<Vec<LateAnswer>, CoreError> {
        let names: BTreeMap<NodeId, String> =
            self.store.nodes()?.into_iter().map(|(node, record)| (node, record.name)).collect();
        let mut late = Vec::new();
        for (query, seal) in seals.iter().filter(|(_, seal)| seal.merged.is_some() && seal.reused.is_none()) {
            let counted: BTreeSet<NodeId> = seal.cohort.iter().map(|(node, ..)| *node).collect();
            let stored = self.store.contributions(run, *query)?;
            late.extend(stored.into_iter().filter(|(node, _)| !counted.contains(node)).map(
                |(node, meta)| LateAnswer {
                    query: *query,
                    node,
                    name: names.get(&node).cloned().unwrap_or_default(),
                    stored_ms: meta.stored_ms,
                },
            ));
        }
        Ok(late)
    }

    /// The nodes as people look for them: by name, `node-2` before `node-10`.
    fn nodes_by_name(&self) -> Result<Vec<(NodeId, NodeRecord)>, CoreError> {
        let mut nodes = self.store.nodes()?;
        nodes.sort_by(|(a_id, a), (b_id, b)| {
            (a.name.len(), &a.name, a_id).cmp(&(b.name.len(), &b.name, b_id))
        });
        Ok(nodes)
    }

    /// A node's table, where it was counted.
    fn counted(
        &self,
        run: &RunId,
        query: QueryId,
        seal: &Seal,
        node: NodeId,
    ) -> Result<Option<Table>, CoreError> {
        let Some((.., digest)) = seal.cohort.iter().find(|(member, ..)| *member == node) else {
            return Ok(None);
        };
        let origin = seal.reused.unwrap_or(query);
        let Some(bytes) = self.store.contribution(run, origin, node, *digest)? else { return Ok(None) };
        let cells = usize::try_from(seal.cells).unwrap_or(usize::MAX);
        // It was decoded before it was stored; a failure here is a damaged disk, which merging reports.
        Ok(packed::decode(&bytes, cells).ok().map(Table::from_cells))
    }

    fn describe(
        &self,
        run: &RunId,
        query: &Query,
        table: &Table,
        report: &mut NodeReport,
        measured: &mut (Option<NodeCurve>, Option<Times>),
    ) {
        let Some(entry) = self.entries.get(run) else { return };
        match query {
            Query::Census => {
                let count = |i: usize| table.cells().get(i).map_or(0, |n| u64::try_from(*n).unwrap_or(0));
                report.samples = Some([count(0), count(1), count(2)]);
            }
            Query::Moments { second, .. } => {
                let shape: MomentsShape = entry.context.moments_shape(second);
                let Ok(view) = MomentsView::new(&shape, table) else { return };
                report.withheld_classes = Some(view.withheld_classes());
                report.without_second_moments = (0..shape.exits.len())
                    .filter(|e| shape.exits[*e].second && view.paired_samples(*e) == 0)
                    .collect();
                report.withheld = withheld(report, &shape, &view, entry.file.floors);
            }
            Query::Evaluate { .. } => {
                if let Some(curve) = exeunt_exits::node_curve(&entry.context, query, table) {
                    report.network_accuracy = Some(curve.network_accuracy);
                    report.curve = curve
                        .points
                        .iter()
                        .map(|point| NodePoint { cost: point.cost, accuracy: point.accuracy })
                        .collect();
                    measured.0 = Some(curve);
                }
            }
            Query::Timings { .. } => {
                let shape = TimingsShape { exits: entry.context.exits.len() };
                measured.1 = Times::read(shape, table).ok().flatten();
            }
            _ => {}
        }
    }

    /// How many samples of each class the nodes counted, by the last moments that were sealed.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn coverage(&self, run: &RunId) -> Result<Option<Coverage>, CoreError> {
        let asked = self.queries(run)?;
        let seals = self.seals(run)?;
        let moments = seals.iter().zip(&asked).rev().find_map(|((id, seal), query)| match query {
            Query::Moments { second, .. } if seal.merged.is_some() => Some((id, seal, second)),
            _ => None,
        });
        let (Some((id, seal, second)), Some(entry)) = (moments, self.entries.get(run)) else {
            return Ok(None);
        };
        let shape: MomentsShape = entry.context.moments_shape(second);
        let mut nodes = Vec::new();
        for (node, ..) in &seal.cohort {
            if let Some(table) = self.counted(run, *id, seal, *node)?
                && let Ok(view) = MomentsView::new(&shape, &table)
            {
                // Every exit sees the same samples.
                nodes.push((*node, view.count(0)));
            }
        }
        Ok(Some(Coverage { classes: entry.context.class_names.clone(), nodes }))
    }

    /// The nodes, with those that were shut out.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn node_rows(&self, short: impl Fn(NodeId) -> String) -> Result<Vec<NodeRow>, CoreError> {
        let live = self.machine.node_statuses();
        let rows = self.nodes_by_name()?.into_iter().map(|(node, record)| {
            let known =
                live.binary_search_by_key(&node, |status| status.node).ok().map(|at| live[at].clone());
            let total = self.totals.get(&node).copied().unwrap_or_default();
            NodeRow {
                short: short(node),
                status: known.unwrap_or(NodeStatus {
                    node,
                    name: record.name.clone(),
                    connected: false,
                    last_seen_ms: None,
                    software: None,
                    engine: None,
                    membership: record.membership,
                    using: None,
                    certificate_expires_ms: None,
                }),
                revoked: record.revoked,
                enrolled_ms: record.enrolled_ms,
                bytes_up: total.up,
                bytes_down: total.down,
            }
        });
        Ok(rows.collect())
    }

    /// One node, with what it gave to a run and what was noted of it. `None` when there is no such node.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn node_detail(
        &self,
        now: Now,
        node: NodeId,
        run: Option<&RunId>,
        short: impl Fn(NodeId) -> String,
    ) -> Result<Option<NodeDetail>, CoreError> {
        let row = self.node_rows(short)?.into_iter().find(|row| row.status.node == node);
        let Some(row) = row else { return Ok(None) };
        let (mut report, mut live) = (None, None);
        if let Some(run) = run {
            report = self.report(now, run)?.nodes.into_iter().find(|report| report.node == node);
            live = self.machine.live(run)?.into_iter().find(|live| live.node == node);
        }
        let log = self.store.audit_of(node, NodeDetail::LINES, LOG_WINDOW)?;
        Ok(Some(NodeDetail { row, report, live, log: log.into_iter().map(audit_line).collect() }))
    }

    /// The runs, oldest first.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn run_rows(&self, now: Now) -> Result<Vec<RunRow>, CoreError> {
        let mut runs: Vec<_> = self.listed.iter().collect();
        runs.sort_by_key(|(_, listed)| listed.number);
        let row = |(run, listed): (&RunId, &ListedRun)| {
            let standing = match self.machine.rests(run) {
                true => "stopped".to_owned(),
                false => in_a_line(&self.machine.run_status(now, run)?),
            };
            Ok(RunRow { run: run.clone(), standing, started_ms: listed.started_ms })
        };
        runs.into_iter().map(row).collect()
    }

    /// The blobs that make up a run's snapshot; `None` before there is one.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn snapshot(&self, now: Now, run: &RunId) -> Result<Option<SnapshotNames>, CoreError> {
        let status = self.machine.run_status(now, run)?;
        let (Some(heads), Some(entry)) = (status.snapshot, self.entries.get(run)) else { return Ok(None) };
        let seals = self.seals(run)?;
        let asked = self.queries(run)?;
        let mut counts = Vec::new();
        for ((_, seal), query) in seals.iter().zip(&asked) {
            if let (Query::Moments { second, .. }, Some(bytes)) = (query, &seal.merged) {
                let shape: MomentsShape = entry.context.moments_shape(second);
                let cells = usize::try_from(seal.cells).unwrap_or(usize::MAX);
                if let Some(table) = packed::decode(bytes, cells).ok().map(Table::from_cells)
                    && let Ok(view) = MomentsView::new(&shape, &table)
                {
                    counts = (0..shape.exits.len()).map(|e| view.count(e)).collect();
                }
            }
        }
        Ok(Some(SnapshotNames {
            run: run.clone(),
            spec: entry.options.spec.digest,
            heads,
            classes: entry.context.class_names.clone(),
            taps: entry.context.exits.iter().map(|exit| exit.tap.clone()).collect(),
            counts,
            network: entry.options.network.digest,
            digest: digest(&seals, &asked),
        }))
    }
}

/// A line of the audit log, as it is shown.
pub(crate) fn audit_line((number, entry): (u64, AuditEntry)) -> AuditLine {
    AuditLine { number, at_ms: entry.at_ms, run: entry.run, node: entry.node, text: entry.text }
}

/// Where a run stands.
fn in_a_line(status: &RunStatus) -> String {
    match &status.standing {
        Standing::Asking { query, name } => {
            let (answers, missing) = (status.answers, status.waiting_for.len());
            format!("asking {name} ({query}), {answers} of {} answers", answers + missing)
        }
        Standing::Sealing { query } => format!("merging {query}"),
        Standing::Ready => "ready".to_owned(),
        Standing::Failed { why } => format!("failed: {why}"),
        Standing::Stopped => "stopped".to_owned(),
    }
}

/// What a node's table of moments lacks, in words.
fn withheld(
    report: &NodeReport,
    shape: &MomentsShape,
    view: &MomentsView<'_>,
    floors: exeunt_protocol::spec::FloorsSpec,
) -> Vec<Withheld> {
    let mut withheld = Vec::new();
    let classes = view.withheld_classes();
    if classes > 0 {
        let plural = if classes == 1 { "class" } else { "classes" };
        let why = format!("fewer than {} samples each (floors.min_count)", floors.min_count);
        withheld.push(Withheld { what: format!("{classes} {plural}"), why });
    }
    // Exits that lack them for the same reason are named together.
    let mut alike: BTreeMap<(usize, u64), Vec<String>> = BTreeMap::new();
    for &e in &report.without_second_moments {
        let found = view.samples(e);
        alike.entry((shape.exits[e].dim, found)).or_default().push((e + 1).to_string());
    }
    for ((dim, found), exits) in alike {
        let factor = floors.second_factor;
        let needed = factor.saturating_mul(dim as u64);
        let plural = if exits.len() == 1 { "exit" } else { "exits" };
        let what = format!("second moments of {plural} {}", exits.join(", "));
        let why =
            format!("{found} samples, at least {factor}·{dim} = {needed} needed (floors.second_factor)");
        withheld.push(Withheld { what, why });
    }
    withheld
}

/// Whether a query's answer is shown node by node.
fn tells_of_nodes(query: &Query) -> bool {
    matches!(query, Query::Census | Query::Moments { .. } | Query::Timings { .. }) || on_evaluation(query)
}

/// The policies in force and the one tried last, if they are measured: the version, the node that has it for itself
/// alone, and the place of the query that measured it.
///
/// After the query that reads the curve, every query but that for times measures one policy, in the order in which they
/// were recorded.
fn shown_policies(status: &RunStatus, asked: &[Query]) -> Vec<(PolicyVersion, Option<NodeId>, usize)> {
    let Some(curve) = asked.iter().position(on_evaluation) else { return Vec::new() };
    let measuring = asked.iter().enumerate().skip(curve + 1).filter(|(_, query)| query.is_reproducible());
    let policies = status.policies.iter().filter(|policy| !policy.superseded);
    // The last of each kind: the fleet's, one node's own, a draft.
    let mut last: BTreeMap<(bool, Option<NodeId>), (PolicyVersion, usize)> = BTreeMap::new();
    for (policy, (place, _)) in policies.zip(measuring).filter(|(policy, _)| !policy.cleared) {
        last.insert((policy.purpose == Purpose::Trial, policy.node), (policy.version, place));
    }
    last.into_iter().map(|((_, node), (version, place))| (version, node, place)).collect()
}

/// What became of an answer, with what only the store knows: that it came late.
fn contribution(
    known: Option<NodeContribution>,
    node: NodeId,
    late: &[LateAnswer],
) -> Option<NodeContribution> {
    let known = known?;
    let came_late = late.iter().any(|late| late.node == node && late.query == known.query);
    Some(match known.state {
        ContributionState::Missing if came_late => {
            NodeContribution { state: ContributionState::Late, ..known }
        }
        _ => known,
    })
}

/// The first of these reads the fleet's curve; later ones measure single policies.
fn on_evaluation(query: &Query) -> bool {
    matches!(query, Query::Evaluate { part: Part::Evaluation, .. })
}

/// BLAKE3 over the digests of the merged tables, in order. Times are left out: the same samples must give the same
/// digest whoever holds them.
fn digest(seals: &[(QueryId, Seal)], asked: &[Query]) -> Digest {
    let reproducible = seals.iter().zip(asked).filter(|(_, query)| query.is_reproducible());
    let bytes: Vec<u8> =
        reproducible.filter_map(|((_, seal), _)| seal.digest).flat_map(|d| *d.as_bytes()).collect();
    Digest::of(&bytes)
}
