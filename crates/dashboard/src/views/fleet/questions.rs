//! What is asked before nodes are treated so that others notice.

use exeunt_protocol::NodeId;
use exeunt_protocol::operator::NodeRow;

use crate::command::Command;
use crate::format::plural;
use crate::state::State;
use crate::views::Question;

/// Names that are said in a question; of more nodes, the number.
const NAMED: usize = 5;

/// What a question calls these nodes: for its heading, and in a sentence.
fn called(rows: &[&NodeRow]) -> (String, String) {
    let names: Vec<&str> = rows.iter().map(|row| row.status.name.as_str()).collect();
    match names.as_slice() {
        [one] => ((*one).to_owned(), (*one).to_owned()),
        many => {
            let first = many.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = many.len().saturating_sub(NAMED);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            (plural(many.len(), "node"), format!("{first}{rest}"))
        }
    }
}

fn rows(state: &State, nodes: &[NodeId]) -> Vec<NodeRow> {
    nodes.iter().filter_map(|node| state.node(*node)).filter(|row| !row.revoked).cloned().collect()
}

fn question(
    state: &State,
    nodes: &[NodeId],
    ask: impl FnOnce(&[&NodeRow], (String, String), Vec<NodeId>) -> Question,
) -> Option<Question> {
    let rows = rows(state, nodes);
    let rows: Vec<&NodeRow> = rows.iter().collect();
    let nodes = rows.iter().map(|row| row.status.node).collect();
    (!rows.is_empty()).then(|| ask(&rows, called(&rows), nodes))
}

/// Before nodes are let in: whoever approves has compared the short ids.
pub(super) fn approve(state: &State, nodes: Vec<NodeId>) -> Option<Question> {
    question(state, &nodes, |rows, (who, _), nodes| {
        let ids = rows.iter().take(NAMED).map(|row| format!("{} shows {}", row.status.name, row.short));
        let ids = ids.collect::<Vec<_>>().join(", ");
        let more = rows.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        Question {
            heading: format!("Approve {who}?"),
            text: format!(
                "Compare the short id with what the device prints: {ids}{more}. Once approved, it is asked for its sums and counts and receives policies. Quarantine takes that back; what was counted by then stays until it is removed."
            ),
            verb: "Approve".to_owned(),
            irreversible: false,
            command: Command::Approve(nodes),
        }
    })
}

/// Before nodes are set apart.
pub(super) fn quarantine(state: &State, nodes: Vec<NodeId>) -> Option<Question> {
    question(state, &nodes, |_, (who, names), nodes| Question {
        heading: format!("Quarantine {who}?"),
        text: format!(
            "{names} stays connected and keeps its policy, but is asked nothing new, and no query waits for it. What it contributed stays counted. Release takes this back."
        ),
        verb: "Quarantine".to_owned(),
        irreversible: false,
        command: Command::Quarantine(nodes),
    })
}

/// Before nodes are shut out.
pub(super) fn revoke(state: &State, nodes: Vec<NodeId>) -> Option<Question> {
    question(state, &nodes, |rows, (who, names), nodes| {
        let certificates = if rows.len() == 1 { "The certificate" } else { "The certificates" };
        Question {
            heading: format!("Revoke {who}?"),
            text: format!(
                "{certificates} of {names} will never be accepted again; a live connection ends at once. What was contributed so far stays counted. This cannot be undone: to come back, a device must join anew with a token."
            ),
            verb: "Revoke".to_owned(),
            irreversible: true,
            command: Command::Revoke(nodes),
        }
    })
}

/// Before what a node gave is taken out of a run.
pub(super) fn remove(state: &State, node: NodeId) -> Option<Question> {
    let run = state.run()?.clone();
    let row = state.node(node)?;
    let name = &row.status.name;
    let samples = state.given_by(node).and_then(|given| given.samples);
    let samples = samples
        .map_or_else(String::new, |parts| format!(", {} samples,", crate::format::count(parts.iter().sum())));
    Some(Question {
        heading: format!("Remove what {name} gave to {run}?"),
        text: format!(
            "Its integers{samples} are subtracted from every sum of {run}, exactly, as if it had never taken part. A new snapshot follows: the other nodes are asked again for what was measured with the old one, and policies are measured anew. {name} takes no further part in this run. This cannot be undone."
        ),
        verb: "Remove contribution".to_owned(),
        irreversible: true,
        command: Command::Remove { run, node },
    })
}
