//! What a person does with the window, by the names that a screen reader would say.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{World, asking, fleet, fresh, node_id};
use egui::{Key, Modifiers};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use exeunt_dashboard::{Column, Command, Content, Level, Link, Page, Scheme, Settings, State};
use exeunt_protocol::PolicyVersion;
use exeunt_protocol::coordinator::{PolicyStatus, Purpose};

/// A window of the smallest size that must work.
fn window(state: State, page: Page) -> Harness<'static, World> {
    let settings = Settings { page, ..Settings::default() };
    let world = World::new(state, settings);
    let mut harness = Harness::builder()
        .with_size([1024.0, 700.0])
        .with_max_steps(40)
        .build_ui_state(|ui, world: &mut World| world.ui(ui), world);
    harness.run_steps(4);
    harness
}

fn click(harness: &mut Harness<'_, World>, label: &str) {
    harness.get_by_label(label).click();
    harness.run_steps(3);
}

fn press(harness: &mut Harness<'_, World>, modifiers: Modifiers, key: Key) {
    harness.key_press_modifiers(modifiers, key);
    harness.run_steps(3);
}

/// The coordinator measured a policy that was tried or set.
fn measured(world: &mut World, purpose: Purpose, policy: &exeunt_exits::Policy) {
    let mut report = (**world.state.report.as_ref().unwrap()).clone();
    let version = PolicyVersion(report.status.policies.len() as u32 + 1);
    report.status.policies.push(PolicyStatus {
        version,
        purpose,
        node: None,
        cleared: false,
        superseded: false,
        set_at_ms: world.now_ms,
        asked: "thresholds".to_owned(),
        policy: policy.clone(),
        cost: Some(0.4321),
        accuracy: Some(0.9321),
        left: vec![0.3, 0.2, 0.2, 0.1, 0.2],
        mean_ms: None,
    });
    world.state.report = Some(Arc::new(report));
}

#[test]
fn the_first_start_offers_what_to_do() {
    let state = State { link: Link::Empty { home: "/home/me/exeunt".to_owned() }, ..State::default() };
    let mut harness = window(state, Page::TradeOff);
    click(&mut harness, "Create federation");
    assert_eq!(harness.state().last_wish(), Some(&Command::CreateFederation));
    click(&mut harness, "Start demo");
    assert_eq!(harness.state().last_wish(), Some(&Command::StartDemo));
}

#[test]
fn a_federation_without_a_run_says_what_comes_next() {
    let mut harness = window(fresh(), Page::TradeOff);
    for page in [Page::Thresholds, Page::Run, Page::Live, Page::TradeOff] {
        click(&mut harness, page.name());
        harness.get_by_label("No run yet");
        harness.get_by_label("none has joined yet");
    }
    click(&mut harness, "Open a run file…");
    assert_eq!(harness.state().last_wish(), Some(&Command::OpenRunFile { path: None }));
    click(&mut harness, "Make a join token");
    assert!(matches!(harness.state().last_wish(), Some(Command::MakeToken { .. })));
    harness.get_by_label("Add a node");
}

#[test]
fn a_coordinator_that_never_answered_is_no_empty_federation() {
    let Link::Up(place) = fresh().link else { panic!("it is up") };
    let why = "no answer from 10.0.0.7:4711 after 10 s".to_owned();
    let state = State { link: Link::Down { place, why, since_ms: common::NOW_MS }, ..State::default() };
    let mut harness = window(state, Page::Fleet);
    harness.get_by_label_contains("no answer from 10.0.0.7:4711 after 10 s");
    assert!(harness.query_by_label("No nodes yet").is_none());
    click(&mut harness, "Call it now");
    assert_eq!(harness.state().last_wish(), Some(&Command::Reconnect));
    click(&mut harness, "Settings");
    harness.get_by_label("Back to the defaults");
}

#[test]
fn leaving_a_federation_for_the_demo_asks_first() {
    let mut harness = window(fleet(8), Page::TradeOff);
    for yes in [false, true] {
        press(&mut harness, Modifiers::COMMAND, Key::K);
        harness.get_by_label("Search commands").type_text("start the demo");
        harness.run_steps(3);
        press(&mut harness, Modifiers::NONE, Key::Enter);
        harness.get_by_label_contains("The federation’s coordinator ends with that");
        click(&mut harness, if yes { "Start demo" } else { "Cancel" });
        assert_eq!(harness.state().last_wish(), yes.then_some(&Command::StartDemo));
    }
}

#[test]
fn a_token_is_made_shown_and_counts_down() {
    let mut harness = window(fresh(), Page::Fleet);
    click(&mut harness, "Make a join token");
    let made = harness.state().last_wish().cloned();
    assert_eq!(made, Some(Command::MakeToken { valid_s: 3600, label: String::new(), approve: None }));
    harness.state_mut().token(3543);
    harness.run_steps(3);
    harness.get_by_label("Join token as a QR code");
    harness.get_by_label("59:03");
    harness.state_mut().now_ms += 3000;
    harness.run_steps(2);
    harness.get_by_label("59:00");
    harness.state_mut().now_ms += 4_000_000;
    harness.run_steps(2);
    harness.get_by_label("expired");
    click(&mut harness, "Done");
    assert_eq!(harness.state().last_wish(), Some(&Command::ForgetToken));
}

#[test]
fn a_point_becomes_the_draft_and_is_applied_by_keyboard_only() {
    let mut harness = window(fleet(8), Page::TradeOff);
    press(&mut harness, Modifiers::NONE, Key::ArrowRight);
    let draft = harness.state().dashboard.draft().policy().cloned().expect("a draft");
    let curve = harness.state().state.report.as_ref().unwrap().status.result.as_ref().unwrap().curve.clone();
    assert_eq!(draft, curve.points()[19].policy, "one step dearer than what is in force");
    press(&mut harness, Modifiers::COMMAND, Key::Enter);
    let run = harness.state().state.run().cloned().unwrap();
    assert_eq!(harness.state().last_wish(), Some(&Command::Apply { run, policy: draft, nodes: Vec::new() }));
    press(&mut harness, Modifiers::COMMAND, Key::Z);
    assert_eq!(harness.state().dashboard.draft().policy(), None);
    press(&mut harness, Modifiers::COMMAND | Modifiers::SHIFT, Key::Z);
    assert!(harness.state().dashboard.draft().policy().is_some());
}

#[test]
fn a_draft_for_one_node_is_applied_there_alone_whichever_way_it_is_applied() {
    for by_key in [true, false] {
        let mut harness = window(fleet(8), Page::Thresholds);
        click(&mut harness, "Exit 2");
        let draft = harness.state().dashboard.draft().policy().cloned().expect("a draft");
        let run = harness.state().state.run().cloned().unwrap();
        click(&mut harness, Page::Fleet.name());
        press(&mut harness, Modifiers::NONE, Key::ArrowDown);
        press(&mut harness, Modifiers::NONE, Key::Space);
        harness.get_by_label("1 picked");
        click(&mut harness, Page::Thresholds.name());
        click(&mut harness, "node-0 alone");
        if by_key {
            // From another page, where nothing shows whom the draft is for.
            click(&mut harness, Page::Log.name());
            press(&mut harness, Modifiers::COMMAND, Key::Enter);
        } else {
            click(&mut harness, Page::TradeOff.name());
            click(&mut harness, "Apply draft");
        }
        let nodes = vec![node_id(0)];
        assert_eq!(harness.state().last_wish(), Some(&Command::Apply { run, policy: draft, nodes }));
    }
}

#[test]
fn a_draft_stays_with_its_run_when_another_starts() {
    let mut harness = window(fleet(8), Page::TradeOff);
    let first = harness.state().state.run().cloned().unwrap();
    assert!(!harness.state().wished.contains(&Command::ShowRun(first.clone())));
    press(&mut harness, Modifiers::NONE, Key::ArrowRight);
    let draft = harness.state().dashboard.draft().policy().cloned().expect("a draft");
    // The shell is asked to stay with the run, whichever starts next.
    let held = |harness: &Harness<'_, World>| {
        let stay = Command::ShowRun(first.clone());
        harness.state().wished.iter().filter(|wish| **wish == stay).count()
    };
    assert_eq!(held(&harness), 1);
    // A person looks at another run, and comes back.
    let report = harness.state().state.report.clone().unwrap();
    let mut other = (*report).clone();
    other.status.run = "digits-2".parse().unwrap();
    harness.state_mut().state.report = Some(Arc::new(other));
    harness.run_steps(2);
    assert_eq!(harness.state().dashboard.draft().policy(), None, "another run, another draft");
    harness.state_mut().state.report = Some(report);
    harness.run_steps(2);
    assert_eq!(harness.state().dashboard.draft().policy(), Some(&draft));
    press(&mut harness, Modifiers::COMMAND, Key::Z);
    assert_eq!(harness.state().dashboard.draft().policy(), None, "with every step that led to it");
}

#[test]
fn what_cannot_be_done_with_the_draft_is_not_offered() {
    let mut harness = window(fleet(8), Page::TradeOff);
    for draft in [false, true] {
        if draft {
            press(&mut harness, Modifiers::NONE, Key::ArrowRight);
        }
        press(&mut harness, Modifiers::COMMAND, Key::K);
        harness.get_by_label("Search commands").type_text("draft");
        harness.run_steps(3);
        for offer in ["Discard the draft", "Undo a change of the draft"] {
            assert_eq!(harness.query_by_label_contains(offer).is_some(), draft, "{offer}");
        }
        assert!(harness.query_by_label_contains("Redo a change of the draft").is_none());
        press(&mut harness, Modifiers::NONE, Key::Escape);
    }
}

#[test]
fn a_point_of_the_curve_can_be_measured_at_every_node() {
    let mut harness = window(fleet(8), Page::TradeOff);
    press(&mut harness, Modifiers::NONE, Key::ArrowRight);
    let draft = harness.state().dashboard.draft().policy().cloned().expect("a draft");
    click(&mut harness, Page::Thresholds.name());
    assert!(harness.query_by_label("Difference").is_none());
    click(&mut harness, "Measure");
    let run = harness.state().state.run().cloned().unwrap();
    assert_eq!(harness.state().last_wish(), Some(&Command::Try { run, policy: draft.clone() }));
    measured(harness.state_mut(), Purpose::Trial, &draft);
    harness.run_steps(3);
    harness.get_by_label("Difference");
}

#[test]
fn the_keyboard_stays_with_a_node_when_its_row_moves() {
    let mut harness = window(fleet(40), Page::Fleet);
    press(&mut harness, Modifiers::NONE, Key::ArrowDown);
    press(&mut harness, Modifiers::NONE, Key::ArrowDown);
    click(&mut harness, "Sort by Node");
    press(&mut harness, Modifiers::NONE, Key::Space);
    press(&mut harness, Modifiers::NONE, Key::Enter);
    harness.get_by_label("Close this node");
    // Its row is far below by now; its page is open, and it is the one that is picked.
    assert!(harness.query_all_by_label("node-1").count() > 0);
    harness.get_by_label("1 picked");
    click(&mut harness, Page::Thresholds.name());
    click(&mut harness, "Exit 2");
    harness.get_by_label("node-1 alone");
}

#[test]
fn a_click_on_the_chart_takes_the_point() {
    let mut harness = window(fleet(8), Page::TradeOff);
    let chart = harness.get_by_label_contains("Chart: accuracy over cost").rect();
    // Somewhere along the front: sweep until a point is under the pointer.
    for step in 0..60 {
        let x = chart.left() + chart.width() * (0.3 + 0.01 * step as f32);
        for row in 0..40 {
            let pos = egui::pos2(x, chart.top() + chart.height() * (0.04 + 0.02 * row as f32));
            harness.hover_at(pos);
            harness.run_steps(1);
            harness.drag_at(pos);
            harness.drop_at(pos);
            harness.run_steps(2);
            if harness.state().dashboard.draft().policy().is_some() {
                return;
            }
        }
    }
    panic!("no point of the front can be clicked");
}

#[test]
fn a_target_leads_the_draft() {
    let mut harness = window(fleet(8), Page::TradeOff);
    click(&mut harness, "Accuracy at least");
    let draft = harness.state().dashboard.draft().policy().cloned().expect("a draft");
    let result = harness.state().state.report.as_ref().unwrap().status.result.clone().unwrap();
    let expected = result.calibration.cheapest(result.network_accuracy - 0.01).unwrap();
    assert_eq!(draft, expected.policy);
    click(&mut harness, "Cost at most");
    let draft = harness.state().dashboard.draft().policy().cloned().unwrap();
    let point = result.calibration.points().iter().find(|point| point.policy == draft).unwrap();
    // It begins in the middle of the chart: between the cheapest policy and the bare network, on the axis as it is.
    let cheapest = result.calibration.points()[0].cost;
    let ceiling = cheapest.sqrt();
    assert!(point.cost <= ceiling && result.calibration.at_cost(ceiling).unwrap() - point.accuracy < 0.02);
}

#[test]
fn a_target_is_dragged_on_the_chart_and_the_draft_follows() {
    let mut harness = window(fleet(8), Page::TradeOff);
    click(&mut harness, "Accuracy at least");
    let before = harness.state().dashboard.draft().policy().cloned().expect("a draft");
    let chart = harness.get_by_label_contains("Chart: accuracy over cost").rect();
    // The line lies somewhere in the upper half: pull at every height until something gives way.
    let x = chart.left() + chart.width() * 0.9;
    for row in 0..80 {
        let from = egui::pos2(x, chart.top() + chart.height() * 0.01 * row as f32);
        let to = from + egui::vec2(0.0, 0.25 * chart.height());
        harness.hover_at(from);
        harness.run_steps(1);
        harness.drag_at(from);
        harness.run_steps(1);
        for at in [from.lerp(to, 0.5), to] {
            harness.hover_at(at);
            harness.run_steps(1);
        }
        harness.drop_at(to);
        harness.run_steps(2);
        let draft = harness.state().dashboard.draft().policy().cloned().expect("a draft");
        if draft != before {
            let cost = |policy| {
                let result = harness.state().state.report.as_ref().unwrap().status.result.clone().unwrap();
                result.calibration.points().iter().find(|point| point.policy == policy).unwrap().cost
            };
            assert!(cost(draft) < cost(before), "a lower floor is cheaper");
            return;
        }
        // A box was drawn instead, and zoomed in: back to all of it.
        click(&mut harness, "Reset");
    }
    panic!("the target's line cannot be dragged");
}

#[test]
fn the_legend_hides_and_the_choice_is_kept() {
    let mut harness = window(fleet(8), Page::TradeOff);
    click(&mut harness, "Show Static line");
    let kept = harness.state().wished.iter().rev().find_map(|wish| match wish {
        Command::Keep(settings) => Some(settings.hidden.len()),
        _ => None,
    });
    assert_eq!(kept, Some(1));
}

#[test]
fn numbers_are_exported_as_csv() {
    let mut harness = window(fleet(8), Page::TradeOff);
    click(&mut harness, "Export");
    click(&mut harness, "Numbers (CSV)");
    let Some(Command::Save(file)) = harness.state().last_wish() else { panic!("nothing to save") };
    let Content::Text(text) = &file.content else { panic!("not text") };
    assert_eq!(file.name, "digits-1-trade-off.csv");
    assert!(text.starts_with("series,cost,milliseconds,accuracy"));
    assert_eq!(text.lines().filter(|line| line.starts_with("fleet,")).count(), 60);
    assert!(text.contains("\"node-3\","), "lines of nodes are shown, so they are exported");
}

#[test]
fn thresholds_are_edited_measured_applied_undone_and_rolled_back() {
    let mut harness = window(fleet(8), Page::Thresholds);
    let before = harness.state().state.in_force().unwrap().policy.clone();
    // Switching an exit off begins a draft, and asks the nodes at once.
    click(&mut harness, "Exit 2");
    let draft = harness.state().dashboard.draft().policy().cloned().expect("a draft");
    assert_eq!(draft.exits[1], None);
    assert_eq!(draft.exits[0], before.exits[0]);
    let run = harness.state().state.run().cloned().unwrap();
    let tried = Command::Try { run: run.clone(), policy: draft.clone() };
    assert_eq!(harness.state().last_wish(), Some(&tried));
    harness.run_steps(5);
    assert_eq!(harness.state().wished.iter().filter(|wish| **wish == tried).count(), 1, "asked once");

    measured(harness.state_mut(), Purpose::Trial, &draft);
    harness.run_steps(3);
    harness.get_by_label("93.2 %");
    harness.get_by_label_contains("Margins at exit 1:");
    click(&mut harness, "Apply draft");
    assert_eq!(
        harness.state().last_wish(),
        Some(&Command::Apply { run: run.clone(), policy: draft.clone(), nodes: Vec::new() })
    );

    measured(harness.state_mut(), Purpose::Force, &draft);
    harness.run_steps(3);
    assert_eq!(harness.state().state.in_force().unwrap().policy, draft);
    harness.get_all_by_label("Roll back").next().unwrap().click();
    harness.run_steps(3);
    assert_eq!(harness.state().last_wish(), Some(&Command::Apply { run, policy: before, nodes: Vec::new() }));
    click(&mut harness, "Undo");
    assert_eq!(harness.state().dashboard.draft().policy(), None);
    click(&mut harness, "Redo");
    assert_eq!(harness.state().dashboard.draft().policy(), Some(&draft));
}

#[test]
fn a_draft_is_kept_by_name() {
    let mut harness = window(fleet(8), Page::Thresholds);
    click(&mut harness, "Exit 1");
    harness.get_by_label("Name of the draft").focus();
    harness.run_steps(2);
    harness.get_by_label("Name of the draft").type_text("thrifty");
    harness.run_steps(2);
    click(&mut harness, "Keep draft");
    assert_eq!(harness.state().dashboard.settings().named[0].name, "thrifty");
    click(&mut harness, "Discard");
    assert_eq!(harness.state().dashboard.draft().policy(), None);
    click(&mut harness, "thrifty");
    assert!(harness.state().dashboard.draft().policy().is_some());
    let kept = harness.state().dashboard.settings().named.clone();
    click(&mut harness, "Forget thrifty");
    assert!(harness.state().dashboard.settings().named.is_empty());
    click(&mut harness, "Bring it back");
    assert_eq!(harness.state().dashboard.settings().named, kept);
    assert!(harness.query_by_label("Bring it back").is_none());
}

#[test]
fn the_fleet_is_filtered_sorted_and_picked_by_keyboard() {
    let mut harness = window(fleet(40), Page::Fleet);
    harness.get_by_label_contains("Node node-0,");
    harness.get_by_label("Filter nodes").focus();
    harness.run_steps(2);
    harness.get_by_label("Filter nodes").type_text("node-3");
    harness.run_steps(3);
    assert!(harness.query_by_label_contains("Node node-0,").is_none());
    harness.get_by_label_contains("Node node-33,");
    harness.get_by_label("11 of 40");
    // The keyboard leaves the field, and walks the rows.
    press(&mut harness, Modifiers::NONE, Key::Escape);
    press(&mut harness, Modifiers::NONE, Key::ArrowDown);
    press(&mut harness, Modifiers::NONE, Key::Space);
    press(&mut harness, Modifiers::NONE, Key::ArrowDown);
    press(&mut harness, Modifiers::NONE, Key::Space);
    harness.get_by_label("2 picked");
    click(&mut harness, "Sort by Node");
    let first = harness.get_by_label_contains("Node node-39,").rect();
    let other = harness.get_by_label_contains("Node node-3,").rect();
    assert!(first.top() < other.top(), "the other way round");
    let kept = harness
        .state()
        .wished
        .iter()
        .any(|wish| matches!(wish, Command::Keep(settings) if settings.sort == (Column::Name, false)));
    assert!(kept, "the order survives a restart");
}

#[test]
fn revoking_says_what_will_happen_and_can_be_called_off() {
    let mut harness = window(fleet(8), Page::Fleet);
    harness.get_by_label_contains("Node node-2,").click();
    harness.run_steps(4);
    click(&mut harness, "More");
    click(&mut harness, "Revoke node…");
    harness.get_by_label("Revoke node-2?");
    harness.get_by_label_contains("will never be accepted again");
    click(&mut harness, "Cancel");
    assert_eq!(harness.state().last_wish(), None);
    click(&mut harness, "More");
    click(&mut harness, "Revoke node…");
    click(&mut harness, "Revoke");
    assert_eq!(harness.state().last_wish(), Some(&Command::Revoke(vec![node_id(2)])));
}

#[test]
fn columns_are_chosen() {
    let mut harness = window(fleet(8), Page::Fleet);
    assert!(harness.query_by_label("Sort by Engine").is_none());
    click(&mut harness, "Columns");
    click(&mut harness, "Engine");
    harness.get_by_label("Sort by Engine");
    assert!(harness.state().dashboard.settings().columns.contains(&Column::Engine));
}

#[test]
fn a_run_says_whom_it_waits_for_and_why() {
    let mut harness = window(asking(8), Page::Run);
    harness.get_by_label_contains("4 of 8 nodes have answered");
    assert!(harness.query_all_by_label("node-2").count() > 0);
    harness.get_by_label("computing q2: 24 of 600 samples");
    click(&mut harness, "Stop run…");
    harness.get_by_label_contains("A stopped run cannot be taken up again");
    click(&mut harness, "Stop run");
    assert!(matches!(harness.state().last_wish(), Some(Command::StopRun(_))));
}

#[test]
fn the_palette_finds_commands_and_nodes() {
    let mut harness = window(fleet(40), Page::TradeOff);
    press(&mut harness, Modifiers::COMMAND, Key::K);
    harness.get_by_label("Search commands").type_text("node-17");
    harness.run_steps(3);
    press(&mut harness, Modifiers::NONE, Key::Enter);
    assert_eq!(harness.state().dashboard.settings().page, Page::Fleet);
    harness.get_by_label("Close this node");
    press(&mut harness, Modifiers::COMMAND, Key::K);
    harness.get_by_label("Search commands").type_text("log");
    harness.run_steps(3);
    press(&mut harness, Modifiers::NONE, Key::Enter);
    assert_eq!(harness.state().dashboard.settings().page, Page::Log);
}

#[test]
fn the_sheet_of_shortcuts_opens_by_a_question_mark() {
    let mut harness = window(fleet(8), Page::Live);
    press(&mut harness, Modifiers::SHIFT, Key::Questionmark);
    harness.get_by_label("Keyboard shortcuts");
    click(&mut harness, "Close");
    assert!(harness.query_by_label("Keyboard shortcuts").is_none());
}

#[test]
fn the_theme_is_switched_and_kept() {
    let mut harness = window(fleet(8), Page::Settings);
    click(&mut harness, "Dark");
    let kept = harness.state().wished.iter().rev().find_map(|wish| match wish {
        Command::Keep(settings) => Some(settings.scheme),
        _ => None,
    });
    assert!(matches!(kept, Some(Scheme::Dark | Scheme::Light)), "{kept:?}");
    press(&mut harness, Modifiers::COMMAND, Key::T);
    assert_ne!(Some(harness.state().dashboard.settings().scheme), kept);
}

#[test]
fn a_coordinator_that_does_not_answer_shows_and_the_window_stays_usable() {
    let mut state = fleet(8);
    let Link::Up(place) = state.link.clone() else { panic!("it is up") };
    state.link = Link::Down { place, why: "connection timed out".to_owned(), since_ms: common::NOW_MS };
    let mut harness = window(state, Page::TradeOff);
    harness.get_by_label("This window does not answer");
    press(&mut harness, Modifiers::NONE, Key::ArrowRight);
    assert!(harness.state().dashboard.draft().policy().is_some(), "the curve is still there");
    click(&mut harness, "Call again");
    assert_eq!(harness.state().last_wish(), Some(&Command::Reconnect));
}

#[test]
fn a_coordinator_that_is_slow_shows_as_such() {
    let mut harness = window(State { slow_since_ms: Some(common::NOW_MS), ..fleet(8) }, Page::TradeOff);
    harness.get_by_label("This window is slow to answer");
    press(&mut harness, Modifiers::NONE, Key::ArrowRight);
    assert!(harness.state().dashboard.draft().policy().is_some(), "the window stays usable");
}

#[test]
fn notices_come_up_and_can_be_read_again() {
    let mut harness = window(fleet(8), Page::Live);
    harness.state_mut().notice(Level::Info, "Policy 3 of digits-1 is in force");
    harness.run_steps(3);
    harness.get_by_label("Policy 3 of digits-1 is in force");
    click(&mut harness, "Put this notification away");
    assert!(harness.query_by_label("Policy 3 of digits-1 is in force").is_none());
    click(&mut harness, "Notifications");
    harness.get_by_label("Policy 3 of digits-1 is in force");
}

#[test]
fn every_page_is_named_for_a_screen_reader_and_rests() {
    for state in [fresh(), asking(8), fleet(8), fleet(1000)] {
        let mut harness = window(state, Page::TradeOff);
        for page in Page::ALL {
            click(&mut harness, page.name());
            assert_eq!(harness.state().dashboard.settings().page, page);
            // Checks the names of all widgets, and fails where something asks to be drawn again for ever.
            harness.run();
        }
    }
}
