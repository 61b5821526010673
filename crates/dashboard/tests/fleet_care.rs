//! Looking after nodes in the window, by the names that a screen reader would say: who may take part, what they are
//! called, what is taken out of a run, which policy they have.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::operator::{live, member, named, overridden, snapshots, timed};
use common::{World, fleet, node_id};
use egui::{Key, Modifiers};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use exeunt_dashboard::{Column, Command, Page, Settings, State, Unit};
use exeunt_protocol::PolicyVersion;
use exeunt_protocol::message::Membership;

fn window(state: State, page: Page) -> Harness<'static, World> {
    let settings = Settings { page, ..Settings::default() };
    let world = World::new(state, settings);
    let mut harness = Harness::builder()
        .with_size([1280.0, 820.0])
        .with_max_steps(40)
        .build_ui_state(|ui, world: &mut World| world.ui(ui), world);
    harness.run_steps(4);
    harness
}

fn click(harness: &mut Harness<'_, World>, label: &str) {
    harness.get_by_label(label).click();
    harness.run_steps(3);
}

fn open(harness: &mut Harness<'_, World>, i: usize) {
    harness.state_mut().dashboard.open_node(node_id(i));
    harness.run_steps(4);
}

fn last(harness: &Harness<'_, World>) -> Option<Command> {
    harness.state().last_wish().cloned()
}

#[test]
fn a_node_is_approved_after_its_short_id_was_shown() {
    let mut state = fleet(8);
    member(&mut state, 3, Membership::Pending);
    let short = state.nodes[3].short.clone();
    let mut harness = window(state, Page::Fleet);
    harness.get_by_label("Node node-3, to approve");
    harness.get_by_label("1 to approve");
    open(&mut harness, 3);
    click(&mut harness, "Approve…");
    harness.get_by_label_contains(&format!("node-3 shows {short}"));
    click(&mut harness, "Approve");
    assert_eq!(last(&harness), Some(Command::Approve(vec![node_id(3)])));
}

#[test]
fn a_node_is_set_apart_and_released() {
    let mut harness = window(fleet(8), Page::Fleet);
    open(&mut harness, 1);
    // What is painted is named, too.
    for label in ["Where samples leave: exit 1", "Chart: its accuracy over cost", "Samples per class"] {
        harness.get_by_label_contains(label);
    }
    click(&mut harness, "Quarantine…");
    harness.get_by_label_contains("keeps its policy, but is asked nothing new");
    click(&mut harness, "Quarantine");
    assert_eq!(last(&harness), Some(Command::Quarantine(vec![node_id(1)])));
    member(&mut harness.state_mut().state, 1, Membership::Quarantined);
    harness.run_steps(3);
    harness.get_by_label("Node node-1, quarantined");
    click(&mut harness, "Release");
    assert_eq!(last(&harness), Some(Command::Release(vec![node_id(1)])));
}

#[test]
fn a_node_is_renamed() {
    let mut harness = window(fleet(8), Page::Fleet);
    open(&mut harness, 2);
    click(&mut harness, "Rename");
    harness.run_steps(3);
    harness.get_by_label("New name of the node").type_text("-kitchen");
    harness.run_steps(3);
    click(&mut harness, "Save name");
    let Some(Command::Rename { node, name }) = last(&harness) else { panic!("{:?}", last(&harness)) };
    assert_eq!(node, node_id(2));
    assert!(name.contains("-kitchen"), "{name}");
    assert!(harness.query_by_label("New name of the node").is_none());
}

#[test]
fn removing_a_contribution_says_what_follows_and_can_be_called_off() {
    let mut harness = window(fleet(8), Page::Fleet);
    open(&mut harness, 2);
    click(&mut harness, "More");
    click(&mut harness, "Remove contribution…");
    harness.get_by_label("Remove what node-2 gave to digits-1?");
    harness.get_by_label_contains("as if it had never taken part. A new snapshot follows");
    click(&mut harness, "Cancel");
    assert_eq!(last(&harness), None);
    click(&mut harness, "More");
    click(&mut harness, "Remove contribution…");
    click(&mut harness, "Remove contribution");
    let run = harness.state().state.run().unwrap().clone();
    assert_eq!(last(&harness), Some(Command::Remove { run, node: node_id(2) }));
}

#[test]
fn columns_are_pinned_and_kept() {
    let mut harness = window(fleet(8), Page::Fleet);
    click(&mut harness, "Columns");
    click(&mut harness, "Pin State");
    assert!(harness.state().dashboard.settings().pinned.contains(&Column::Standing));
    click(&mut harness, "Certificate");
    assert!(harness.state().dashboard.settings().columns.contains(&Column::Expires));
    click(&mut harness, "Usual columns");
    assert!(harness.state().dashboard.settings().pinned.is_empty());
    let kept =
        harness.state().wished.iter().any(
            |wish| matches!(wish, Command::Keep(settings) if settings.pinned.contains(&Column::Standing)),
        );
    assert!(kept, "a pinned column survives a restart");
    // The pinned column stands at the left, before all that scroll.
    let settings = Settings { page: Page::Fleet, pinned: [Column::Sent].into(), ..Settings::default() };
    let mut harness = Harness::builder()
        .with_size([1024.0, 700.0])
        .build_ui_state(|ui, world: &mut World| world.ui(ui), World::new(fleet(8), settings));
    harness.run_steps(4);
    let at = |label: &str| harness.get_by_label(label).rect().left();
    assert!(at("Sort by Node") < at("Sort by Sent") && at("Sort by Sent") < at("Sort by Short id"));
}

#[test]
fn a_policy_is_given_to_one_node_and_taken_back() {
    let mut harness = window(fleet(8), Page::TradeOff);
    harness.key_press(Key::ArrowRight);
    harness.run_steps(3);
    let policy = harness.state().dashboard.draft().policy().cloned().unwrap();
    open(&mut harness, 5);
    click(&mut harness, "Apply draft here");
    let run = harness.state().state.run().unwrap().clone();
    let wanted = Command::Apply { run: run.clone(), policy: policy.clone(), nodes: vec![node_id(5)] };
    assert_eq!(last(&harness), Some(wanted.clone()));
    // The same from the page Thresholds, for the nodes that are picked.
    click(&mut harness, "Draw on the trade-off");
    click(&mut harness, "Thresholds");
    click(&mut harness, "node-5 alone");
    harness.state_mut().wished.clear();
    click(&mut harness, "Apply draft");
    assert_eq!(last(&harness), Some(wanted));
    overridden(&mut harness.state_mut().state, 5);
    harness.run_steps(3);
    open(&mut harness, 5);
    harness.get_by_label_contains("its own, version 3");
    click(&mut harness, "Follow the fleet again");
    assert_eq!(last(&harness), Some(Command::FollowFleet { run: run.clone(), node: node_id(5) }));
    // What was taken back is not lost.
    let mut report = (**harness.state().state.report.as_ref().unwrap()).clone();
    let first = report.status.policies[0].policy.clone();
    let own = report.status.policies.last_mut().unwrap();
    own.cleared = true;
    own.policy = first;
    let policy = own.policy.clone();
    harness.state_mut().state.report = Some(std::sync::Arc::new(report));
    click(&mut harness, "Thresholds");
    click(&mut harness, "Set again");
    assert_eq!(last(&harness), Some(Command::Apply { run, policy, nodes: vec![node_id(5)] }));
}

#[test]
fn policies_with_a_name_are_kept_at_the_coordinator_and_taken_up_again() {
    let mut state = fleet(8);
    named(&mut state, "thrifty");
    let mut harness = window(state, Page::Thresholds);
    click(&mut harness, "thrifty");
    let run = harness.state().state.run().unwrap().clone();
    let force = harness.state().state.in_force().unwrap().clone();
    assert_eq!(harness.state().dashboard.draft().policy(), Some(&force.policy));
    harness.get_by_label("Name of the draft").focus();
    harness.run_steps(2);
    harness.get_by_label("Name of the draft").type_text("spare");
    harness.run_steps(2);
    click(&mut harness, "Keep draft");
    let version = PolicyVersion(force.version.0);
    assert_eq!(
        last(&harness),
        Some(Command::KeepPolicy { run: run.clone(), name: "spare".to_owned(), version })
    );
    click(&mut harness, "Forget thrifty");
    let forget = Command::ForgetPolicy { run: run.clone(), name: "thrifty".to_owned() };
    assert_eq!(last(&harness), Some(forget));
    click(&mut harness, "Bring it back");
    assert_eq!(last(&harness), Some(Command::KeepPolicy { run, name: "thrifty".to_owned(), version }));
}

#[test]
fn an_earlier_policy_is_rolled_back_to() {
    let mut harness = window(fleet(8), Page::Thresholds);
    let first = harness.state().state.report.as_ref().unwrap().status.policies[0].policy.clone();
    click(&mut harness, "Roll back");
    let run = harness.state().state.run().unwrap().clone();
    assert_eq!(last(&harness), Some(Command::Apply { run, policy: first, nodes: Vec::new() }));
}

#[test]
fn the_axis_of_cost_counts_milliseconds_where_nodes_have_measured_them() {
    let mut state = fleet(8);
    timed(&mut state);
    let mut harness = window(state, Page::TradeOff);
    harness.get_by_value("MACs").click();
    harness.run_steps(3);
    click(&mut harness, "Milliseconds");
    assert_eq!(harness.state().dashboard.settings().cost_axis.unit, Unit::Milliseconds);
    // Without times the chart falls back to shares, and says why.
    harness.state_mut().state = fleet(8);
    harness.run_steps(4);
    harness.get_by_value("MACs");
}

#[test]
fn the_live_page_is_honest_where_nobody_reports_and_marks_what_drifts() {
    let mut harness = window(fleet(8), Page::Live);
    harness.get_by_label_contains("No node has reported inference yet");
    harness.get_by_label("What to expect");
    live(&mut harness.state_mut().state);
    harness.run_steps(3);
    harness.get_by_label("8 of 8 nodes report");
    harness.get_by_label("1 node drifted");
    let drifted = harness.get_by_label("Inference of node-4").rect();
    let steady = harness.get_by_label("Inference of node-0").rect();
    assert!(drifted.top() < steady.top(), "what drifted comes first");
    click(&mut harness, "Inference of node-4");
    click(&mut harness, "Show the fleet");
}

#[test]
fn snapshots_are_compared_and_queries_are_looked_at() {
    let mut state = fleet(8);
    snapshots(&mut state);
    let settings = Settings { page: Page::Run, ..Settings::default() };
    let mut harness = Harness::builder()
        .with_size([1280.0, 1300.0])
        .build_ui_state(|ui, world: &mut World| world.ui(ui), World::new(state, settings));
    harness.run_steps(4);
    click(&mut harness, "Query q2 moments");
    harness.get_by_label_contains("8 nodes answered, 0 declined");
    harness.get_by_label("contribution of node-0 removed");
    click(&mut harness, "Compare");
    let run = harness.state().state.run().unwrap().clone();
    assert_eq!(last(&harness), Some(Command::Compare { run, from: 1, to: 2 }));
    harness.get_by_label_contains("0 nodes in, 1 node out");
}

#[test]
fn a_node_is_found_opened_and_quarantined_without_a_mouse() {
    let mut harness = window(fleet(40), Page::TradeOff);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Num3);
    harness.run_steps(3);
    harness.key_press(Key::Slash);
    harness.run_steps(3);
    harness.get_by_label("Filter nodes").type_text("node-17");
    harness.run_steps(3);
    harness.key_press(Key::Escape);
    harness.run_steps(2);
    harness.key_press(Key::ArrowDown);
    harness.run_steps(2);
    harness.key_press(Key::Enter);
    harness.run_steps(3);
    harness.get_by_label("Close this node");
    harness.get_by_label("Quarantine…").focus();
    harness.run_steps(2);
    harness.key_press(Key::Enter);
    harness.run_steps(3);
    harness.get_by_label("Quarantine node-17?");
    // The safe answer has the keyboard first.
    harness.key_press(Key::Enter);
    harness.run_steps(3);
    assert!(harness.query_by_label("Quarantine node-17?").is_none());
    assert_eq!(last(&harness), None);
}
