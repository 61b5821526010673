//! A frame's own work, without a screen: views, layout and tessellation, with 1,000 nodes and 200 curves drawn, and a
//! new state before every frame, as when the whole fleet reports; and the table of 10,000 nodes, filtered and sorted, at
//! rest and with a new state before every frame. What painting takes on top is measured by `paint`, on a screen.
//!
//! Criterion reports the mean by the clock; the program also prints the median and the 99th percentile of 600 frames per
//! page, in processor time where the system tells it (Linux), so that other programs do not count.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a bench measures time")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{World, fleet, node_id};
use criterion::Criterion;
use exeunt_dashboard::{Page, Settings};

const NODES: usize = 1000;
const MANY: usize = 10_000;
const CURVES: usize = 200;
const FRAMES: usize = 600;

/// How long this thread was on a processor; by the clock where the system does not say.
fn worked(start: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// A window without a screen.
struct Window {
    ctx: egui::Context,
    world: World,
    time: f64,
    start: Instant,
    events: Vec<egui::Event>,
}

impl Window {
    fn new(page: Page, nodes: usize) -> Self {
        let mut state = fleet(nodes);
        // All nodes report; the curves of 200 are drawn.
        let mut report = (**state.report.as_ref().unwrap()).clone();
        for node in report.nodes.iter_mut().skip(CURVES) {
            node.curve.clear();
        }
        state.report = Some(Arc::new(report));
        let world = World::new(state, Settings { page, ..Settings::default() });
        let mut window = Self {
            ctx: egui::Context::default(),
            world,
            time: 0.0,
            start: Instant::now(),
            events: Vec::new(),
        };
        (0..5).for_each(|_| {
            window.frame();
        });
        window
    }

    /// What the fleet says anew: every node was seen, the report is another allocation.
    fn news(&mut self) {
        let state = &mut self.world.state;
        let mut nodes = state.nodes.to_vec();
        nodes
            .iter_mut()
            .for_each(|row| row.status.last_seen_ms = row.status.last_seen_ms.map(|ms| ms + 1000));
        state.nodes = nodes.into();
        state.report = state.report.as_ref().map(|report| Arc::new((**report).clone()));
    }

    /// Types into the fleet's filter, as a person would.
    fn filter(&mut self, text: &str) {
        let key = egui::Key::Slash;
        let press = |pressed| egui::Event::Key {
            key,
            physical_key: None,
            pressed,
            repeat: false,
            modifiers: egui::Modifiers::NONE,
        };
        for events in [vec![press(true), press(false)], Vec::new(), vec![egui::Event::Text(text.to_owned())]]
        {
            self.events.extend(events);
            self.frame();
        }
    }

    fn frame(&mut self) -> Duration {
        self.time += 1.0 / 60.0;
        let pointer = egui::pos2(600.0 + 40.0 * (self.time * 3.0).sin() as f32, 400.0);
        let input = egui::RawInput {
            screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(1920.0, 1080.0))),
            time: Some(self.time),
            events: self.events.drain(..).chain([egui::Event::PointerMoved(pointer)]).collect(),
            ..Default::default()
        };
        let before = worked(self.start);
        let mut output = self.ctx.run_ui(input, |ui| self.world.ui(ui));
        let shapes = self.ctx.tessellate(std::mem::take(&mut output.shapes), output.pixels_per_point);
        let took = worked(self.start).saturating_sub(before);
        // There is no graphics card to hand them to.
        output.textures_delta.clear();
        // The very first frame only brings the fonts in.
        assert!(!shapes.is_empty() || self.time < 0.1);
        took
    }
}

/// Whether the state is replaced before every frame.
#[derive(Clone, Copy, PartialEq)]
enum News {
    Always,
    Never,
}

fn quantiles(name: &str, mut window: Window, news: News) {
    let nodes = window.world.state.nodes.len();
    let mut took: Vec<Duration> = (0..FRAMES)
        .map(|_| {
            if news == News::Always {
                window.news();
            }
            window.frame()
        })
        .collect();
    took.sort();
    let ms = |at: usize| took[at].as_secs_f64() * 1e3;
    // Some systems count in ticks of milliseconds: then only the mean is fine.
    let mean = took.iter().sum::<Duration>().as_secs_f64() * 1e3 / FRAMES as f64;
    println!(
        "{name:<34} mean {mean:.2} ms, median {:.2} ms, p99 {:.2} ms",
        ms(FRAMES / 2),
        ms(FRAMES * 99 / 100)
    );
    assert!(window.world.state.nodes.iter().any(|row| row.status.node == node_id(nodes - 1)));
}

fn main() {
    println!("a frame's own work with {NODES} nodes, {CURVES} curves, a new state before every frame:");
    Page::ALL.into_iter().for_each(|page| quantiles(page.name(), Window::new(page, NODES), News::Always));
    println!("with {MANY} nodes:");
    quantiles("Fleet, at rest", Window::new(Page::Fleet, MANY), News::Never);
    quantiles("Fleet, a new state every frame", Window::new(Page::Fleet, MANY), News::Always);
    for news in [News::Never, News::Always] {
        let mut window = Window::new(Page::Fleet, MANY);
        window.filter("node-7");
        let name =
            if news == News::Never { "Fleet, filtered, at rest" } else { "Fleet, filtered, a new state" };
        quantiles(name, window, news);
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    for page in [Page::TradeOff, Page::Fleet] {
        let mut window = Window::new(page, NODES);
        criterion.bench_function(page.name(), |bencher| bencher.iter(|| window.frame()));
    }
    criterion.final_summary();
}
