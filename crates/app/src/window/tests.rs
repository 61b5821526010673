//! The window against a real coordinator with real nodes, all in this process.

use std::path::Path;
use std::time::{Duration, Instant};

use egui::{Key, Modifiers};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use exeunt_coordinator::{Home, ServeOptions, Service};
use exeunt_dashboard::{Dashboard, Link, Page, Settings, State};
use exeunt_protocol::message::Membership;

use super::demo::NodesAs;
use super::frame::Frame;
use super::log::Tap;
use super::worker::{Begin, Worker};

/// Longer than anything here takes on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

fn window(home: &Path, begin: Begin) -> Harness<'static, Frame> {
    let (_, lines) = Tap::new();
    let settings = home.join("window.json");
    let worker =
        Worker::start(Home::new(home.join("home")), begin, settings, NodesAs::Tasks, lines, || {}).unwrap();
    let frame = Frame::new(Dashboard::new(Settings::default()), worker, None);
    let mut harness = Harness::builder()
        .with_size([1280.0, 820.0])
        .build_ui_state(|ui, frame: &mut Frame| frame.draw(ui), frame);
    harness.run_steps(3);
    harness
}

/// Draws until the state is as wanted.
fn until(harness: &mut Harness<'_, Frame>, what: &str, wanted: impl Fn(&State) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        harness.run_steps(1);
        let state = harness.state().worker().state();
        if wanted(&state) {
            break;
        }
        let notices: Vec<&str> = state.notices.iter().map(|notice| notice.text.as_str()).collect();
        assert!(Instant::now() < deadline, "waited too long for {what}; {:?}, {notices:?}", state.link);
        std::thread::sleep(Duration::from_millis(20));
    }
    harness.run_steps(3);
}

fn click(harness: &mut Harness<'_, Frame>, label: &str) {
    harness.get_by_label(label).click();
    harness.run_steps(3);
}

fn press(harness: &mut Harness<'_, Frame>, modifiers: Modifiers, key: Key) {
    harness.key_press_modifiers(modifiers, key);
    harness.run_steps(3);
}

/// A device joins with a token, as `exeunt-node join` does it.
fn join(token: &str, name: &str, folder: &Path) {
    let token: exeunt_link::Token = token.parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(exeunt_link::join(&token, name, folder)).unwrap();
}

fn go(harness: &mut Harness<'_, Frame>, page: Page) {
    harness.state_mut().dashboard().go(page);
    harness.run_steps(4);
}

#[test]
fn a_federation_is_created_and_lets_nodes_join_by_token_and_approval() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(folder.path(), Begin::Home(Home::new(folder.path().join("home"))));
    until(&mut harness, "the first page", |state| matches!(state.link, Link::Empty { .. }));
    click(&mut harness, "Create federation");
    until(&mut harness, "the coordinator", State::is_up);
    go(&mut harness, Page::Fleet);
    click(&mut harness, "Make a join token");
    until(&mut harness, "the token", |state| state.token.is_some());
    let token = harness.state().worker().state().token.clone().unwrap();
    harness.get_by_label("Join token as a QR code");

    // One node joins with it, another with a token that makes it wait for approval.
    join(&token.text, "attic", &folder.path().join("attic"));
    click(&mut harness, "Wait for my approval");
    click(&mut harness, "Make another token");
    until(&mut harness, "another token", |state| {
        state.token.as_ref().is_some_and(|another| another.text != token.text)
    });
    let another = harness.state().worker().state().token.clone().unwrap();
    join(&another.text, "porch", &folder.path().join("porch"));
    click(&mut harness, "Done");
    until(&mut harness, "both nodes", |state| state.nodes.len() == 2 && state.token.is_none());
    harness.get_by_label("1 to approve");

    // Sorted and filtered, found and approved by the keyboard alone.
    let top = |harness: &Harness<'_, Frame>, name: &str| {
        harness.get_by_label_contains(&format!("Node {name},")).rect().top()
    };
    assert!(top(&harness, "attic") < top(&harness, "porch"));
    click(&mut harness, "Sort by Node");
    assert!(top(&harness, "porch") < top(&harness, "attic"));
    press(&mut harness, Modifiers::NONE, Key::Slash);
    harness.get_by_label("Filter nodes").type_text("porch");
    harness.run_steps(3);
    harness.get_by_label("1 of 2");
    assert!(harness.query_by_label_contains("Node attic,").is_none());
    for key in [Key::Escape, Key::ArrowDown, Key::Enter] {
        press(&mut harness, Modifiers::NONE, key);
    }
    harness.get_by_label("Approve…").focus();
    harness.run_steps(2);
    press(&mut harness, Modifiers::NONE, Key::Enter);
    let short = harness
        .state()
        .worker()
        .state()
        .nodes
        .iter()
        .find(|row| row.status.name == "porch")
        .unwrap()
        .short
        .clone();
    harness.get_by_label_contains(&format!("porch shows {short}"));
    harness.get_by_label("Approve").focus();
    harness.run_steps(2);
    press(&mut harness, Modifiers::NONE, Key::Enter);
    until(&mut harness, "the approval", |state| {
        state.nodes.iter().all(|row| row.status.membership == Membership::Active)
    });

    // A theme that was chosen is kept on disk.
    press(&mut harness, Modifiers::COMMAND, Key::T);
    let chosen = harness.state_mut().dashboard().settings().clone();
    assert_ne!(chosen.scheme, Settings::default().scheme);
    let file = folder.path().join("window.json");
    until(&mut harness, "the settings on disk", |_| {
        let kept = super::keep::load(&file).0;
        kept.scheme == chosen.scheme && kept.sort == chosen.sort
    });
}

#[test]
fn the_demo_is_measured_and_its_policy_is_drafted_tried_applied_and_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(folder.path(), Begin::Home(Home::new(folder.path().join("home"))));
    until(&mut harness, "the first page", |state| matches!(state.link, Link::Empty { .. }));
    click(&mut harness, "Start demo");
    until(&mut harness, "eight nodes", |state| {
        state.nodes.iter().filter(|row| row.status.connected).count() == 8
    });
    until(&mut harness, "the curve", |state| state.margins.is_some() && state.coverage.is_some());

    // A point of the front becomes the draft, and goes into force.
    harness.key_press(Key::ArrowRight);
    harness.run_steps(3);
    let first = harness.state_mut().dashboard().draft().policy().cloned().expect("a draft");
    press(&mut harness, Modifiers::COMMAND, Key::Z);
    assert_eq!(harness.state_mut().dashboard().draft().policy(), None);
    press(&mut harness, Modifiers::COMMAND | Modifiers::SHIFT, Key::Z);
    assert_eq!(harness.state_mut().dashboard().draft().policy(), Some(&first));
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    until(&mut harness, "policy 1", |state| {
        state
            .in_force()
            .is_some_and(|force| force.version.0 == 1 && force.cost.is_some() && force.policy == first)
    });
    let state = harness.state().worker().state();
    let report = state.report.clone().unwrap();
    assert!(
        report.nodes.iter().all(|node| node.policies.len() == 1),
        "it is known what it does on every node"
    );

    // The draft is edited; the nodes say what it would do before it is in force.
    go(&mut harness, Page::Thresholds);
    let used = first.exits.iter().position(Option::is_some).expect("an exit in use");
    click(&mut harness, &format!("Exit {}", used + 1));
    let draft = harness.state_mut().dashboard().draft().policy().cloned().expect("a draft");
    assert_ne!(draft, first);
    let tried = draft.clone();
    until(&mut harness, "the draft's figures", move |state| {
        let policies = state.report.as_ref().map_or(&[][..], |report| &report.status.policies);
        policies.iter().any(|known| known.policy == tried && known.cost.is_some())
    });
    assert_eq!(
        harness.state().worker().state().in_force().unwrap().policy,
        first,
        "trying puts nothing in force"
    );
    click(&mut harness, "Apply draft");
    let applied = draft.clone();
    until(&mut harness, "the draft in force", move |state| {
        state.in_force().is_some_and(|force| force.policy == applied && force.cost.is_some())
    });
    click(&mut harness, "Roll back");
    until(&mut harness, "the first policy again", |state| {
        state.in_force().is_some_and(|force| force.policy == first && force.version.0 > 2)
    });

    // A node is shut out, after a question.
    go(&mut harness, Page::Fleet);
    harness.get_by_label_contains("Node node-5,").click();
    harness.run_steps(4);
    click(&mut harness, "More");
    click(&mut harness, "Revoke node…");
    click(&mut harness, "Revoke");
    until(&mut harness, "the revocation", |state| {
        state.nodes.iter().any(|row| row.status.name == "node-5" && row.revoked)
    });
    harness.get_by_label("Node node-5, revoked");
    assert!(!harness.state().worker().state().audit.is_empty(), "the coordinator's notes arrive");
}

#[test]
fn a_coordinator_that_dies_is_called_again_until_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path().join("elsewhere"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = || {
        let options =
            ServeOptions { listen: "127.0.0.1:0".parse().unwrap(), advertise: Vec::new(), approve: false };
        let service = runtime.block_on(Service::start(&home, &options)).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = runtime.spawn(service.run(async {
            let _ = stopped.await;
        }));
        (stop, served)
    };
    let (stop, served) = start();
    let mut harness = window(folder.path(), Begin::Connect(home.clone()));
    until(&mut harness, "the coordinator", State::is_up);
    drop(stop);
    runtime.block_on(served).unwrap().unwrap();
    until(&mut harness, "its end", |state| matches!(state.link, Link::Down { .. }));
    // In the bar, and in place of a page that never had anything to show.
    assert_eq!(harness.get_all_by_label("elsewhere does not answer").count(), 2);
    go(&mut harness, Page::Settings);
    harness.get_by_label("Back to the defaults");
    // Nobody asks for it: the window calls by itself until there is an answer.
    let (_stop, _served) = start();
    until(&mut harness, "the coordinator again", State::is_up);
    harness.get_by_label_contains("elsewhere answers again");
}
