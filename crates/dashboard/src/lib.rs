//! The window's views.
//!
//! [`Dashboard::ui`] draws one frame from an immutable [`State`] and adds a person's wishes to [`Commands`]. That is
//! all that goes in and out: no socket, no file, no clock, no lock. So the same views serve a coordinator in this
//! process and one elsewhere, and tests drive them without a window.
//!
//! A page is a type in `views` that remembers only what it must (how a table is sorted, what is open). What is costly
//! to work out of a state, such as the order of ten thousand rows, is kept and worked out again only when the state
//! was replaced.

mod actions;
mod axis;
mod bars;
mod command;
mod dashboard;
mod dialogs;
mod draft;
mod format;
mod measure;
mod palette;
mod settings;
mod state;
pub mod svg;
mod theme;
mod views;
mod widgets;

pub use axis::{CostAxis, Unit};
pub use command::{Command, Commands, Content, File};
pub use dashboard::Dashboard;
pub use draft::Draft;
pub use settings::{NamedPolicy, Settings};
pub use state::{Level, Link, LogLine, Notice, Place, PlaceKind, State, Token};
pub use theme::{Palette, Scheme};
pub use views::{Column, Page, Series};
