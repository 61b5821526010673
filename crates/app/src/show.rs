//! A run as a person likes to read it.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use exeunt_exits::{CurvePoint, Rule, RunResult, Times};
use exeunt_protocol::coordinator::{Purpose, QueryStatus, RunStatus, Standing};
use exeunt_protocol::operator::RunReport;

use exeunt_dashboard::svg::{self, Series, Style};
use exeunt_dashboard::{CostAxis, Unit};

/// Rows of the curve that are shown; `--json` and `--svg` have them all.
const CURVE_ROWS: usize = 12;
/// Nodes that are shown.
const NODE_ROWS: usize = 40;

/// A line under the head, and nothing else.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table with a line under its head and nothing else.
pub(crate) fn grid(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(head.iter().copied());
    table
}

/// Aligns columns of numbers.
pub(crate) fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The whole report.
pub(crate) fn report(report: &RunReport) -> String {
    let status = &report.status;
    let mut text = format!("run {}: {}\n", status.run, standing(report));
    if !status.waiting_for.is_empty() {
        let deadline = status.deadline_in_s.map(|s| format!(", deadline in {s} s")).unwrap_or_default();
        let _ = writeln!(
            text,
            "\nwaiting for ({} of at least {} answers{deadline})",
            status.answers, status.quorum
        );
        let mut table = grid(&["node", "what keeps it"]);
        for waiting in status.waiting_for.iter().take(NODE_ROWS) {
            table.add_row([waiting.name.as_str(), waiting.reason.as_str()]);
        }
        let _ = writeln!(text, "{table}");
    }
    if let Some(missing) = quorum_gap(status) {
        let _ = writeln!(text, "{missing}");
    }
    if let Some(result) = &status.result {
        exits(&mut text, report, result);
        curve(&mut text, report, result);
        policies(&mut text, report, result);
    }
    nodes(&mut text, report);
    times(&mut text, report);
    withheld(&mut text, report);
    queries(&mut text, report);
    text
}

/// Why an open query cannot close although everybody who is enrolled has answered or declined.
pub(crate) fn quorum_gap(status: &RunStatus) -> Option<String> {
    let Standing::Asking { query, .. } = &status.standing else { return None };
    let missing = status.quorum.checked_sub(status.answers + status.waiting_for.len()).filter(|n| *n > 0)?;
    let declined = status.queries.last().map_or(0, |query| query.declined.len());
    Some(format!(
        "\n{query} needs {} answers (federation.quorum): {} came, {declined} declined, {} may still come; it waits for {missing} \
         more to join (`exeunt token`)",
        status.quorum,
        status.answers,
        status.waiting_for.len()
    ))
}

fn standing(report: &RunReport) -> String {
    match &report.status.standing {
        Standing::Asking { query, name } => format!("asking the nodes ({name}, {query})"),
        Standing::Sealing { query } => format!("merging the answers to {query}"),
        Standing::Ready => "ready".to_owned(),
        Standing::Failed { why } => format!("failed: {why}"),
        Standing::Stopped => "stopped".to_owned(),
    }
}

/// Every exit: what it costs and how often it is right if everyone leaves there, and what leaves there under the
/// policy in force.
fn exits(text: &mut String, report: &RunReport, result: &RunResult) {
    let [statistics, calibration, evaluation] = result.samples;
    let _ = writeln!(
        text,
        "\nsamples: {statistics} make the means, {calibration} choose thresholds, accuracy is read on {evaluation}\n\
         bare network: accuracy {}\n\nexits, if everyone left there",
        percent(result.network_accuracy)
    );
    let left = report.status.in_force().map(|policy| policy.left.clone()).unwrap_or_default();
    let times = report.status.times.as_ref();
    let mut table = grid(&["exit", "tap", "cost", "ms", "class means", "whitened", "leave here now"]);
    for (e, exit) in result.exits.iter().enumerate() {
        let accuracy = |rule: Rule| exit.accuracy.get(&rule).map_or_else(|| "–".to_owned(), |a| percent(*a));
        let share = left.get(e).map_or_else(|| "–".to_owned(), |share| percent(*share));
        table.add_row([
            (e + 1).to_string(),
            exit.tap.clone(),
            format!("{:.3}", exit.cost),
            known(times.and_then(|times| times.exits_ms.get(e).copied()), ms),
            accuracy(Rule::ClassMeans),
            accuracy(Rule::Whitened),
            share,
        ]);
    }
    if let Some(share) = left.last() {
        let (cost, accuracy) = ("1.000".to_owned(), percent(result.network_accuracy));
        table.add_row([
            "".to_owned(),
            "whole network".to_owned(),
            cost,
            known(times.map(|times| times.times.network_ms), ms),
            accuracy.clone(),
            accuracy,
            percent(*share),
        ]);
    }
    right(&mut table, &[0, 2, 3, 4, 5, 6]);
    let _ = writeln!(text, "{table}");
    for (e, exit) in report.status.exits.iter().enumerate() {
        if let Some(why) = &exit.whitened_unavailable {
            let _ = writeln!(text, "exit {}: no whitened rule: {why}", e + 1);
        }
    }
}

/// Points along the curve, with the static line at the same cost.
fn curve(text: &mut String, report: &RunReport, result: &RunResult) {
    let points = thinned(result.curve.points());
    let _ = writeln!(text, "\ntrade-off, {} of {} policies", points.len(), result.curve.points().len());
    let times = report.status.times.as_ref();
    let mut table =
        grid(&["cost", "ms", "accuracy", "to network", "cutting everyone at that cost", "leave early"]);
    for (i, point) in points {
        let cut = result.static_line.at_cost(point.cost).map_or_else(|| "–".to_owned(), percent);
        let early: f64 = point.exit_share.iter().rev().skip(1).sum();
        table.add_row([
            format!("{:.3}", point.cost),
            known(times.and_then(|times| times.curve_ms.get(i).copied()), ms),
            percent(point.accuracy),
            signed(point.accuracy - result.network_accuracy),
            cut,
            percent(early),
        ]);
    }
    right(&mut table, &[0, 1, 2, 3, 4, 5]);
    let _ = writeln!(text, "{table}");
}

/// Points along the curve, each with its number.
fn thinned(points: &[CurvePoint]) -> Vec<(usize, &CurvePoint)> {
    if points.len() <= CURVE_ROWS {
        return points.iter().enumerate().collect();
    }
    let place = |row: usize| row * (points.len() - 1) / (CURVE_ROWS - 1);
    (0..CURVE_ROWS).map(|row| (place(row), &points[place(row)])).collect()
}

fn policies(text: &mut String, report: &RunReport, result: &RunResult) {
    if report.status.in_force().is_none() {
        let _ = writeln!(
            text,
            "\nno policy is in force; `exeunt policy set --max-drop 1` picks the cheapest within a point"
        );
        return;
    }
    let _ = writeln!(text, "\npolicies, the last is in force");
    let mut table = grid(&["version", "asked for", "cost", "ms", "accuracy", "to network"]);
    for policy in report.status.policies.iter().filter(|policy| policy.purpose == Purpose::Force) {
        let shown =
            |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "measuring".to_owned(), show);
        table.add_row([
            policy.version.0.to_string(),
            policy.asked.clone(),
            shown(policy.cost, |cost| format!("{cost:.3}")),
            known(policy.mean_ms, ms),
            shown(policy.accuracy, percent),
            policy.accuracy.map_or_else(String::new, |accuracy| signed(accuracy - result.network_accuracy)),
        ]);
    }
    right(&mut table, &[0, 2, 3, 4, 5]);
    let _ = writeln!(text, "{table}");
}

fn nodes(text: &mut String, report: &RunReport) {
    let exits = report.status.exits.len();
    let _ = writeln!(text, "\nnodes; their samples for statistics + calibration + evaluation");
    let mut table = grid(&[
        "node",
        "samples",
        "withheld classes",
        "second moments",
        "bare network",
        "within a point",
        "sent",
        "received",
    ]);
    for node in report.nodes.iter().take(NODE_ROWS) {
        let samples = node.samples.map_or_else(|| "–".to_owned(), |[s, c, e]| format!("{s} + {c} + {e}"));
        let withheld = node.withheld_classes.map_or_else(|| "–".to_owned(), |n| n.to_string());
        let second = match (node.withheld_classes, node.without_second_moments.len()) {
            (None, _) => "–".to_owned(),
            (_, 0) => "all exits".to_owned(),
            (_, without) => format!("{} of {exits} exits", exits - without.min(exits)),
        };
        // The curve is in order of cost.
        let floor = node.network_accuracy.map(|accuracy| accuracy - 0.01);
        let near = node.curve.iter().find(|point| floor.is_some_and(|floor| point.accuracy >= floor));
        let sum = |bytes: fn(&exeunt_protocol::operator::QueryTraffic) -> u64| {
            size(node.traffic.iter().map(bytes).sum())
        };
        table.add_row([
            node.name.clone(),
            samples,
            withheld,
            second,
            node.network_accuracy.map_or_else(|| "–".to_owned(), percent),
            near.map_or_else(|| "–".to_owned(), |point| format!("at cost {:.3}", point.cost)),
            sum(|traffic| traffic.up),
            sum(|traffic| traffic.down),
        ]);
    }
    right(&mut table, &[1, 2, 4, 5, 6, 7]);
    let _ = writeln!(text, "{table}");
    if report.nodes.len() > NODE_ROWS {
        let _ = writeln!(text, "and {} more; --json has them all", report.nodes.len() - NODE_ROWS);
    }
}

/// What a sample takes at the nodes that measured it, and for the mean over them.
fn times(text: &mut String, report: &RunReport) {
    let Some(fleet) = &report.status.times else { return };
    let _ = writeln!(text, "\nmilliseconds per sample, one at a time, as the nodes measured them");
    let mut table = grid(&[
        "node",
        "whole network",
        "in segments, asking every exit",
        "asking",
        "lost where nobody leaves",
    ]);
    let mut row = |name: &str, times: &Times| {
        let asking: f64 = times.decisions_ms.iter().sum();
        let all = times.segments_ms.iter().sum::<f64>() + asking;
        let lost = percent(all / times.network_ms - 1.0);
        table.add_row([name.to_owned(), ms(times.network_ms), ms(all), ms(asking), lost]);
    };
    let nodes = report.nodes.iter().filter_map(|node| Some((&node.name, &node.times.as_ref()?.times)));
    nodes.take(NODE_ROWS).for_each(|(name, times)| row(name, times));
    if fleet.times.nodes > 1 {
        row(&format!("mean of {}", fleet.times.nodes), &fleet.times);
    }
    right(&mut table, &[1, 2, 3, 4]);
    let _ = writeln!(text, "{table}");
}

/// What nodes kept back, and the floor that made them.
fn withheld(text: &mut String, report: &RunReport) {
    let rows =
        || report.nodes.iter().flat_map(|node| node.withheld.iter().map(|withheld| (&node.name, withheld)));
    if rows().next().is_none() {
        return;
    }
    let _ = writeln!(text, "\nwithheld at the nodes");
    let mut table = grid(&["node", "what", "why"]);
    for (name, withheld) in rows().take(NODE_ROWS) {
        table.add_row([name, &withheld.what, &withheld.why]);
    }
    let _ = writeln!(text, "{table}");
    let more = rows().skip(NODE_ROWS).count();
    if more > 0 {
        let _ = writeln!(text, "and {more} more; --json has them all");
    }
}

fn queries(text: &mut String, report: &RunReport) {
    let _ = writeln!(text, "\nqueries");
    let mut table = grid(&["query", "", "answered", "declined", "bytes up", "bytes down"]);
    for query in &report.status.queries {
        let traffic =
            || report.nodes.iter().flat_map(|node| &node.traffic).filter(|t| t.query == query.query);
        let note = match query {
            QueryStatus { superseded: true, .. } => " (before a removal)".to_owned(),
            QueryStatus { withdrawn: true, .. } => " (withdrawn)".to_owned(),
            QueryStatus { reused: Some(from), .. } => format!(" (answered as {from})"),
            _ => String::new(),
        };
        let name = format!("{}{note}", query.name);
        table.add_row([
            query.query.to_string(),
            name,
            query.answered.len().to_string(),
            query.declined.len().to_string(),
            size(traffic().map(|t| t.up).sum()),
            size(traffic().map(|t| t.down).sum()),
        ]);
    }
    right(&mut table, &[2, 3, 4, 5]);
    let _ = writeln!(text, "{table}");
    let name = |id| report.nodes.iter().find(|node| node.node == id).map_or("?", |node| node.name.as_str());
    for query in &report.status.queries {
        for declined in query.declined.iter().take(3) {
            let _ = writeln!(text, "{}: {} declined: {}", query.query, name(declined.node), declined.reason);
        }
    }
    for late in report.late.iter().take(NODE_ROWS) {
        let _ = writeln!(
            text,
            "{}: {} answered after the query had closed; its answer is stored and not counted",
            late.query, late.name
        );
    }
    if !report.status.removed.is_empty() {
        let removed: Vec<&str> = report.status.removed.iter().map(|node| name(*node)).collect();
        let _ = writeln!(text, "without what was removed: {}", removed.join(", "));
    }
    let _ = writeln!(text, "digest of the merged tables: {}", report.digest);
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn signed(share: f64) -> String {
    format!("{:+.1} points", share * 100.0)
}

/// Milliseconds to three digits that matter.
pub(crate) fn ms(ms: f64) -> String {
    match ms {
        ms if ms.abs() >= 100.0 => format!("{ms:.0}"),
        ms if ms.abs() >= 1.0 => format!("{ms:.2}"),
        ms => format!("{ms:.4}"),
    }
}

fn known(value: Option<f64>, show: fn(f64) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

/// A tensor's sides.
pub(crate) fn shape(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}

/// Bytes in the unit that keeps them short.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// The run as a picture.
pub(crate) fn picture(report: &RunReport) -> Option<String> {
    let result = report.status.result.as_ref()?;
    let line = |points: &[CurvePoint]| points.iter().map(|point| (point.cost, point.accuracy)).collect();
    let mut series = vec![
        Series { name: "fleet".to_owned(), points: line(result.curve.points()), style: Style::Front },
        Series {
            name: "everyone stops at one exit".to_owned(),
            points: line(result.static_line.points()),
            style: Style::Static,
        },
        Series {
            name: "bare network".to_owned(),
            points: vec![(1.0, result.network_accuracy)],
            style: Style::Mark,
        },
    ];
    for node in &report.nodes {
        let points = node.curve.iter().map(|point| (point.cost, point.accuracy)).collect();
        series.push(Series { name: node.name.clone(), points, style: Style::Faint });
    }
    let axis = CostAxis { unit: Unit::Share, log: false };
    Some(svg::draw(&format!("Accuracy over cost, run {}", report.status.run), axis, &series))
}

/// Writes the picture where `--svg` says.
pub(crate) fn save_picture(report: &RunReport, path: &std::path::Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let picture = picture(report).context("--svg: the run has no curve yet")?;
    std::fs::write(path, picture).with_context(|| path.display().to_string())?;
    eprintln!("drew {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        assert_eq!([0, 999, 1_500, 2_340_000].map(size), ["0 B", "999 B", "1.5 kB", "2.3 MB"]);
    }
}
