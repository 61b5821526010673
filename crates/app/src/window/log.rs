//! Log lines of this process, on their way to the window.

use std::fmt::Write as _;
use std::time::SystemTime;

use exeunt_dashboard::{Level, LogLine};
use exeunt_protocol::moment::unix_ms;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that wait for the window; more are dropped, for logging must never wait.
const WAITING: usize = 4096;

/// Where the lines arrive.
pub(crate) type Lines = Receiver<LogLine>;

/// Takes every event and passes it on.
#[derive(Debug)]
pub(crate) struct Tap {
    lines: Sender<LogLine>,
}

impl Tap {
    /// A layer, and where its lines arrive.
    pub(crate) fn new() -> (Self, Lines) {
        let (lines, arriving) = channel(WAITING);
        (Self { lines }, arriving)
    }
}

impl<S: tracing::Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let mut text = Text::default();
        event.record(&mut text);
        let line = LogLine { at_ms: now_ms(), level, text: text.0 };
        // Full, or the window is gone: either way the line is lost to the window only.
        let _ = self.lines.try_send(line);
    }
}

/// The message first, then the fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}{}", self.0);
        } else {
            // Writing into a string cannot fail.
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

/// The time, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}
