//! What survives a restart: how the window looks, what is shown, policies with a name.

use std::collections::{BTreeMap, BTreeSet};

use exeunt_exits::Policy;
use serde::{Deserialize, Serialize};

use crate::axis::CostAxis;
use crate::state::Level;
use crate::theme::Scheme;
use crate::views::{Column, Page, Series};

/// What the window remembers. Unknown and missing keys are fine, so that versions can be mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Dark, light or as the system has it.
    pub scheme: Scheme,
    /// Scale of everything, 1 is usual.
    pub scale: f32,
    /// The page that is open.
    pub page: Page,
    /// Whether the navigation shows words.
    pub wide: bool,
    /// Columns of the fleet's table that are shown.
    pub columns: BTreeSet<Column>,
    /// Those of them that stay at the left when the table scrolls; the name always does.
    pub pinned: BTreeSet<Column>,
    /// Widths that a person chose, in points.
    pub widths: BTreeMap<Column, f32>,
    /// What the fleet's table is sorted by, and whether upwards.
    pub sort: (Column, bool),
    /// The trade-off's axis of cost.
    pub cost_axis: CostAxis,
    /// What the trade-off leaves out.
    pub hidden: BTreeSet<Series>,
    /// Whether a draft is measured whenever it was changed.
    pub measure_at_once: bool,
    /// Least important level that the log shows.
    pub log_level: Level,
    /// Policies with a name.
    pub named: Vec<NamedPolicy>,
    /// Size of the window when it was closed, in points.
    pub size: Option<[f32; 2]>,
}

/// A policy with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedPolicy {
    /// The name.
    pub name: String,
    /// The policy.
    pub policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheme: Scheme::System,
            scale: 1.0,
            page: Page::TradeOff,
            wide: true,
            columns: Column::USUAL.into_iter().collect(),
            pinned: BTreeSet::new(),
            widths: BTreeMap::new(),
            sort: (Column::Name, true),
            cost_axis: CostAxis::default(),
            hidden: BTreeSet::new(),
            measure_at_once: true,
            log_level: Level::Info,
            named: Vec::new(),
            size: None,
        }
    }
}
