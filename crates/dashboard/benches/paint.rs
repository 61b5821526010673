//! Whole frames in a real window, painting included: 1,000 nodes that report once a second, 200 curves drawn. Without a
//! graphics card this is software GL, which is what the figures are about (`scripts/frames.sh` sets that up).
//!
//! Prints median and 99th percentile of the time from one frame's beginning to the next, with nothing to wait for between
//! them: views, layout, tessellation, painting and the swap. Says so and ends where there is no display.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a bench measures time")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{World, fleet};
use exeunt_dashboard::{Page, Settings};

const NODES: usize = 1000;
const CURVES: usize = 200;
/// Frames that are not counted: fonts and charts settle.
const WARM: usize = 20;
const FRAMES: usize = 400;
/// Frames are drawn no longer than this per page.
const PATIENCE: Duration = Duration::from_secs(15);

struct Painted {
    world: World,
    pages: Vec<Page>,
    /// When the frame before began.
    before: Option<Instant>,
    reported: Instant,
    began: Instant,
    took: Vec<Duration>,
    own: Vec<Duration>,
    frame: usize,
}

impl Painted {
    fn new() -> Self {
        let mut state = fleet(NODES);
        let mut report = (**state.report.as_ref().unwrap()).clone();
        for node in report.nodes.iter_mut().skip(CURVES) {
            node.curve.clear();
        }
        state.report = Some(Arc::new(report));
        let pages = vec![Page::TradeOff, Page::Fleet, Page::Thresholds, Page::Run, Page::Live];
        let world = World::new(state, Settings { page: pages[0], ..Settings::default() });
        let now = Instant::now();
        Self {
            world,
            pages,
            before: None,
            reported: now,
            began: now,
            took: Vec::new(),
            own: Vec::new(),
            frame: 0,
        }
    }

    /// Every node was seen again, and the report is another.
    fn news(&mut self) {
        let state = &mut self.world.state;
        let mut nodes = state.nodes.to_vec();
        nodes
            .iter_mut()
            .for_each(|row| row.status.last_seen_ms = row.status.last_seen_ms.map(|ms| ms + 1000));
        state.nodes = nodes.into();
        state.report = state.report.as_ref().map(|report| Arc::new((**report).clone()));
    }

    fn tell(&mut self, size: egui::Vec2) {
        let page = self.pages.remove(0);
        let quantile = |list: &mut Vec<Duration>, at: f64| {
            list.sort();
            list.get(((list.len() as f64 - 1.0) * at) as usize).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
        };
        println!(
            "{:<11} {:.0}x{:.0}: a whole frame median {:.2} ms, p99 {:.2} ms; the views' part median {:.2} ms, p99 {:.2} ms; {} frames",
            page.name(),
            size.x,
            size.y,
            quantile(&mut self.took, 0.5),
            quantile(&mut self.took, 0.99),
            quantile(&mut self.own, 0.5),
            quantile(&mut self.own, 0.99),
            self.took.len(),
        );
        (self.frame, self.before, self.began) = (0, None, Instant::now());
        self.took.clear();
        self.own.clear();
    }
}

impl eframe::App for Painted {
    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        let now = Instant::now();
        if let Some(before) = self.before.replace(now)
            && self.frame > WARM
        {
            self.took.push(now - before);
        }
        self.frame += 1;
        if self.took.len() >= FRAMES || self.began.elapsed() > PATIENCE {
            self.tell(ui.ctx().content_rect().size());
            match self.pages.first() {
                Some(page) => self.world.dashboard.go(*page),
                None => return ui.ctx().send_viewport_cmd(egui::ViewportCommand::Close),
            }
        }
        if self.reported.elapsed() >= Duration::from_secs(1) {
            self.reported = now;
            self.news();
        }
        let start = Instant::now();
        self.world.ui(ui);
        if self.frame > WARM {
            self.own.push(start.elapsed());
        }
        ui.ctx().request_repaint();
    }

    fn raw_input_hook(&mut self, _: &egui::Context, input: &mut egui::RawInput) {
        // The pointer moves over the page, as it does when somebody works.
        let at = egui::pos2(500.0 + 60.0 * (self.frame as f32 * 0.05).sin(), 380.0);
        input.events.push(egui::Event::PointerMoved(at));
    }
}

fn main() {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if cfg!(all(unix, not(target_os = "macos"))) && !set("DISPLAY") && !set("WAYLAND_DISPLAY") {
        println!("skipped: no display (scripts/frames.sh brings one)");
        return;
    }
    let size = std::env::var("EXEUNT_SIZE").ok().and_then(|text| {
        let (width, height) = text.split_once('x')?;
        Some([width.parse().ok()?, height.parse().ok()?])
    });
    let mut native = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title("exeunt")
            .with_inner_size(size.unwrap_or([1280.0, 820.0])),
        ..Default::default()
    };
    native.glow_options.vsync = false;
    println!("whole frames with {NODES} nodes that report once a second, {CURVES} curves:");
    eframe::run_native("exeunt", native, Box::new(|_| Ok(Box::new(Painted::new())))).expect("a window");
}
