//! Pictures of every page, taken in the real window (`--screenshot DIR`; scripts/screenshots.sh).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context as _;
use exeunt_dashboard::{Command, Commands, Dashboard, Link, Page, Scheme, State};

use super::worker::png_of;

/// Frames after which a page has settled: sizes of tables and charts need two.
const SETTLED: u32 = 8;

/// See the [module](self). Starts the demo, sets a policy, visits every page in both themes, and closes the window.
#[derive(Debug)]
pub(crate) struct Tour {
    folder: PathBuf,
    stops: Vec<Stop>,
    at: usize,
    frames: u32,
    asked: bool,
    begun: bool,
    taken: (Sender<()>, Receiver<()>),
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
    pub(crate) fn new(folder: PathBuf) -> anyhow::Result<Self> {
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
        Ok(Self { folder, stops, at: 0, frames: 0, asked: false, begun: false, taken: channel() })
    }

    /// Prepares the page that comes next.
    pub(crate) fn before(&mut self, dashboard: &mut Dashboard, state: &State, commands: &mut Commands) {
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
            dashboard.put_away();
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
        if !std::mem::replace(&mut self.begun, true) {
            commands.push(Command::StartDemo);
        }
        let Some(report) = &state.report else { return false };
        let Some(result) = &report.status.result else { return false };
        match state.in_force() {
            None => {
                let middle = result.calibration.cheapest(result.network_accuracy - 0.01);
                if dashboard.draft().policy().is_none()
                    && let Some(point) = middle
                {
                    dashboard.draft_mut().set(point.policy.clone());
                    commands.push(Command::Apply {
                        run: report.status.run.clone(),
                        policy: point.policy.clone(),
                    });
                    let cheaper = result.calibration.cheapest(result.network_accuracy - 0.03);
                    if let Some(point) = cheaper {
                        dashboard.draft_mut().set(point.policy.clone());
                    }
                }
                false
            }
            Some(force) => force.cost.is_some() && state.margins.is_some(),
        }
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

fn write(path: &Path, image: &egui::ColorImage) -> anyhow::Result<()> {
    Ok(std::fs::write(path, png_of(image)?)?)
}
