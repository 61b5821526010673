//! A walk through the real window (`--screenshot DIR`; scripts/screenshots.sh): pictures of every page, and a proof that
//! a policy that is applied at this end arrives at the other.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use egui::{Event, Key, Modifiers};
use exeunt_dashboard::{Command, Commands, Dashboard, Link, Page, Scheme, State};

use super::worker::png_of;

/// Frames after which a page has settled: sizes of tables and charts need two.
const SETTLED: u32 = 8;

/// Longer than a slow machine takes for the demo and all pictures.
const PATIENCE: Duration = Duration::from_secs(240);
/// Steps along the front from the policy in force to the draft of the pictures.
const CHEAPER: usize = 4;

/// What came of a tour: how many nodes said that they infer with the policy, or why it ended early.
pub(crate) type Outcome = Arc<OnceLock<Result<usize, String>>>;

/// See the [module](self). Starts the demo, takes a point of the curve and applies it by the keyboard, visits every page
/// in both themes once the nodes have said that they infer with it, and closes the window.
#[derive(Debug)]
pub(crate) struct Tour {
    folder: PathBuf,
    stops: Vec<Stop>,
    at: usize,
    frames: u32,
    asked: bool,
    begun: Option<Instant>,
    /// Keys that are still to be pressed, one in a frame.
    keys: VecDeque<(Modifiers, Key)>,
    /// Whether the keys that apply a policy, and those that make the draft of the pictures, were pressed.
    applied: bool,
    drafted: bool,
    taken: (Sender<()>, Receiver<()>),
    outcome: Outcome,
}

/// A picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stop {
    name: &'static str,
    page: Page,
    over: Over,
    scheme: Scheme,
}

/// What lies over the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Nothing,
    Palette,
    Node,
    /// Nothing, and no federation yet.
    Start,
}

impl Tour {
    /// A tour whose pictures go to the folder.
    pub(crate) fn new(folder: PathBuf) -> anyhow::Result<(Self, Outcome)> {
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut stops = Vec::new();
        for scheme in [Scheme::Dark, Scheme::Light] {
            let stop = |name, page, over| Stop { name, page, over, scheme };
            stops.push(stop("start", Page::TradeOff, Over::Start));
        }
        for scheme in [Scheme::Dark, Scheme::Light] {
            let stop = |name, page, over| Stop { name, page, over, scheme };
            stops.extend([
                stop("trade-off", Page::TradeOff, Over::Nothing),
                stop("thresholds", Page::Thresholds, Over::Nothing),
                stop("fleet", Page::Fleet, Over::Nothing),
                stop("run", Page::Run, Over::Nothing),
                stop("live", Page::Live, Over::Nothing),
                stop("log", Page::Log, Over::Nothing),
                stop("settings", Page::Settings, Over::Nothing),
                stop("node", Page::Fleet, Over::Node),
                stop("palette", Page::TradeOff, Over::Palette),
            ]);
        }
        let outcome = Outcome::default();
        let tour = Self {
            folder,
            stops,
            at: 0,
            frames: 0,
            asked: false,
            begun: None,
            keys: VecDeque::new(),
            applied: false,
            drafted: false,
            taken: channel(),
            outcome: Arc::clone(&outcome),
        };
        Ok((tour, outcome))
    }

    /// Prepares the page that comes next.
    pub(crate) fn before(&mut self, dashboard: &mut Dashboard, state: &State, commands: &mut Commands) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if begun.elapsed() > PATIENCE {
            let notices: Vec<&str> = state.notices.iter().map(|notice| notice.text.as_str()).collect();
            let why = format!(
                "after {} s the tour stands at picture {} of {}: {:?}, {} of {} nodes have the policy, {notices:?}",
                PATIENCE.as_secs(),
                self.at + 1,
                self.stops.len(),
                state.link,
                arrived(state),
                state.nodes.len(),
            );
            // The first word stands.
            let _ = self.outcome.set(Err(why));
            self.at = self.stops.len();
        }
        let Some(stop) = self.stops.get(self.at).copied() else { return };
        if self.taken.1.try_recv().is_ok() {
            self.at += 1;
            (self.frames, self.asked) = (0, false);
            return;
        }
        if !self.is_ready(stop, state, commands, dashboard) {
            self.frames = 0;
            return;
        }
        if self.frames == 0 {
            dashboard.put_away(state);
            dashboard.dress(stop.scheme);
            dashboard.go(stop.page);
            match stop.over {
                Over::Palette => dashboard.open_palette(),
                Over::Node => {
                    if let Some(row) = state.nodes.get(3) {
                        dashboard.open_node(row.status.node);
                    }
                }
                Over::Nothing | Over::Start => {}
            }
        }
        self.frames += 1;
    }

    /// Whether the fleet is where the picture wants it; leads it there.
    fn is_ready(
        &mut self,
        stop: Stop,
        state: &State,
        commands: &mut Commands,
        dashboard: &mut Dashboard,
    ) -> bool {
        if stop.over == Over::Start {
            return matches!(state.link, Link::Empty { .. });
        }
        if matches!(state.link, Link::Empty { .. }) {
            commands.push(Command::StartDemo);
            return false;
        }
        let measured = state.report.as_ref().is_some_and(|report| report.status.result.is_some());
        if !measured || state.margins.is_none() || state.coverage.is_none() || !self.keys.is_empty() {
            return false;
        }
        if !std::mem::replace(&mut self.applied, true) {
            dashboard.go(Page::TradeOff);
            self.keys.extend([(Modifiers::NONE, Key::ArrowRight), (Modifiers::COMMAND, Key::Enter)]);
            return false;
        }
        let arrived = arrived(state);
        if state.in_force().is_none_or(|force| force.cost.is_none()) || arrived < state.nodes.len() {
            return false;
        }
        // The first word stands.
        let _ = self.outcome.set(Ok(arrived));
        if !std::mem::replace(&mut self.drafted, true) {
            self.keys.extend(std::iter::repeat_n((Modifiers::NONE, Key::ArrowLeft), CHEAPER));
            return false;
        }
        true
    }

    /// Presses the next key, as a person would.
    pub(crate) fn press(&mut self, input: &mut egui::RawInput) {
        let Some((modifiers, key)) = self.keys.pop_front() else { return };
        let event = |pressed| Event::Key { key, physical_key: None, pressed, repeat: false, modifiers };
        input.events.extend([event(true), event(false)]);
    }

    /// Takes the picture when the page has settled; closes the window after the last.
    pub(crate) fn after(&mut self, ctx: &egui::Context) {
        let Some(stop) = self.stops.get(self.at) else {
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
            return;
        };
        if self.frames >= SETTLED && !std::mem::replace(&mut self.asked, true) {
            let path = self.folder.join(format!("{}-{}.png", stop.name, stop.scheme.name().to_lowercase()));
            let taken = self.taken.0.clone();
            ctx.request_screenshot(move |image: Arc<egui::ColorImage>| {
                if let Err(error) = write(&path, &image) {
                    tracing::error!("{}: {error}", path.display());
                }
                // The window may be closing.
                let _ = taken.send(());
            });
        }
        ctx.request_repaint();
    }
}

/// Nodes that have said they infer with the policy in force.
fn arrived(state: &State) -> usize {
    let (Some(force), Some(report)) = (state.in_force(), &state.report) else { return 0 };
    report.nodes.iter().filter(|node| node.policy.using == Some(force.version)).count()
}

fn write(path: &Path, image: &egui::ColorImage) -> anyhow::Result<()> {
    Ok(std::fs::write(path, png_of(image)?)?)
}
