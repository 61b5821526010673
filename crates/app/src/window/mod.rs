//! The window: a thread that draws, a thread that does everything else.
//!
//! ```text
//! frame (the main thread)      draws `exeunt_dashboard` from the newest state, sends wishes; no lock, file or socket
//!    │ bounded channel           ▲ newest state, and a nudge to draw it
//!    ▼                           │
//! worker (a thread of its own)  owns the runtime, the coordinator in this process if there is one, and the
//!                               operator's connection
//! ```

mod attend;
mod demo;
mod frame;
mod keep;
mod log;
mod run_file;
#[cfg(test)]
mod tests;
mod tour;
mod worker;

use std::path::PathBuf;

use anyhow::Context as _;
use exeunt_coordinator::Home;
use exeunt_dashboard::Dashboard;

use self::demo::NodesAs;
pub(crate) use self::log::{Lines, Tap};
use self::worker::{Begin, Worker};
use crate::failure::BadInput;

/// How the window is opened.
#[derive(Debug)]
pub(crate) struct Options {
    /// The coordinator's folder on this machine.
    pub(crate) home: Home,
    /// A coordinator elsewhere: the folder of an operator's identity, or its name below the configuration.
    pub(crate) connect: Option<String>,
    /// Begin with the demo.
    pub(crate) demo: bool,
    /// Save pictures of every page here, and end.
    pub(crate) pictures: Option<PathBuf>,
    /// Log lines of this process.
    pub(crate) lines: Lines,
}

/// What to do where there is no display.
const WITHOUT: &str = "run `exeunt serve` for a coordinator without a window, or `exeunt demo --headless`";

/// Opens the window, and returns when it is closed.
pub(crate) fn open(options: Options) -> anyhow::Result<()> {
    if !has_display() {
        return Err(BadInput(format!("there is no display to open a window on; {WITHOUT}")).into());
    }
    let begin = match (&options.connect, options.demo) {
        (Some(named), _) => Begin::Connect(folder_of(named)?),
        (None, true) => Begin::Demo,
        (None, false) => Begin::Home(options.home.clone()),
    };
    let file = keep::file();
    let (settings, unreadable) = keep::load(&file);
    if let Some(why) = unreadable {
        tracing::warn!("settings start anew: {why}");
    }
    let size = settings.size.unwrap_or([1280.0, 820.0]);
    let native = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title("exeunt")
            .with_app_id("exeunt")
            .with_inner_size(size)
            .with_min_inner_size([900.0, 620.0]),
        ..Default::default()
    };
    let (tour, outcome) = options.pictures.map(tour::Tour::new).transpose()?.unzip();
    let (home, lines) = (options.home, options.lines);
    let create = move |cc: &eframe::CreationContext<'_>| -> Result<Box<dyn eframe::App>, Box<dyn std::error::Error + Send + Sync>> {
        let ctx = cc.egui_ctx.clone();
        let worker = Worker::start(home, begin, file, NodesAs::Processes, lines, move || ctx.request_repaint())?;
        Ok(Box::new(frame::Frame::new(Dashboard::new(settings), worker, tour)))
    };
    eframe::run_native("exeunt", native, Box::new(create))
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("the window cannot be opened; {WITHOUT}"))?;
    let Some(outcome) = outcome else { return Ok(()) };
    match outcome.get() {
        Some(Ok(nodes)) => {
            println!("a policy was applied in the window and arrived at {nodes} nodes");
            Ok(())
        }
        Some(Err(why)) => anyhow::bail!("{why}"),
        None => anyhow::bail!("the window was closed before the policy had arrived at the nodes"),
    }
}

/// Other systems always have one.
pub(crate) fn has_display() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !cfg!(all(unix, not(target_os = "macos")))
        || ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"].into_iter().any(set)
}

/// The folder that `--connect` means.
pub(crate) fn folder_of(named: &str) -> anyhow::Result<Home> {
    let as_is = PathBuf::from(named);
    let below = keep::config().join("coordinators").join(named);
    for folder in [&as_is, &below] {
        if folder.join("coordinator.json").exists() {
            return Ok(Home::new(folder));
        }
    }
    Err(BadInput(format!(
        "--connect {named}: found no coordinator.json in {} or {}; `exeunt operator` makes a folder to copy there",
        as_is.display(),
        below.display()
    ))
    .into())
}
