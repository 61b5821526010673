//! The window as a whole: bars, the page that is open, what lies over it.

use std::collections::{BTreeMap, BTreeSet};

use egui::{Frame, Margin, Ui};
use exeunt_protocol::{NodeId, RunId};

use crate::actions::{Action, pressed};
use crate::bars::{self, Clicked};
use crate::command::{Command, Commands};
use crate::dialogs::{self, RunFileDialog, TokenDialog};
use crate::draft::Draft;
use crate::palette::{self, Choice, Palette};
use crate::settings::Settings;
use crate::state::{Link, PlaceKind, State};
use crate::theme::{self, SCALES, Scheme};
use crate::views::{
    Fleet, Live, Log, Page, Question, Run, Scene, Start, Thresholds, TradeOff, settings, unreachable_ui,
};

/// How long a new notice stays in the corner.
const TOAST_S: f64 = 6.0;
/// How often times such as "3 min ago" are brought up when nothing else happens.
const REFRESH: std::time::Duration = std::time::Duration::from_secs(60);

/// Everything the window remembers by itself. It is drawn from a [`State`], and answers with commands.
#[derive(Debug, Default)]
pub struct Dashboard {
    settings: Settings,
    kept: Settings,
    draft: Draft,
    /// The run that the draft belongs to.
    run: Option<RunId>,
    /// What was being worked on in other runs, to be gone on with when they are looked at again.
    drafts: BTreeMap<RunId, Draft>,
    /// The run that the shell was asked to stay with, for its draft.
    held: Option<RunId>,
    picked: BTreeSet<NodeId>,
    trade_off: TradeOff,
    thresholds: Thresholds,
    fleet: Fleet,
    run_view: Run,
    live: Live,
    log: Log,
    start: Start,
    palette: Option<Palette>,
    shortcuts: bool,
    token: Option<TokenDialog>,
    run_file: Option<RunFileDialog>,
    question: Option<Question>,
    /// Notices up to this number were seen.
    read: u64,
    /// The notice in the corner, and when it came up.
    toast: Option<(u64, f64)>,
    dressed: bool,
}

impl Dashboard {
    /// With settings from an earlier time.
    pub fn new(settings: Settings) -> Self {
        Self { kept: settings.clone(), settings, ..Self::default() }
    }

    /// The settings as they are.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Opens a page.
    pub fn go(&mut self, page: Page) {
        self.settings.page = page;
    }

    /// Chooses a theme.
    pub fn dress(&mut self, scheme: Scheme) {
        self.settings.scheme = scheme;
    }

    /// The draft that is being worked on.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The draft, to be changed from outside: a file that was opened, a test.
    pub fn draft_mut(&mut self) -> &mut Draft {
        &mut self.draft
    }

    /// Opens the page of a node.
    pub fn open_node(&mut self, node: NodeId) {
        self.settings.page = Page::Fleet;
        self.fleet.open(node);
    }

    /// Opens the dialog for a join token.
    pub fn open_token(&mut self) {
        self.token = Some(TokenDialog::default());
    }

    /// Puts away what lies over the page, and the node that is open. Notices that are there count as read.
    pub fn put_away(&mut self, state: &State) {
        self.read = state.notices.last().map_or(self.read, |notice| notice.number);
        self.palette = None;
        self.shortcuts = false;
        self.token = None;
        self.run_file = None;
        self.question = None;
        self.fleet.close();
    }

    /// Opens the command palette.
    pub fn open_palette(&mut self) {
        self.palette = Some(Palette::default());
    }

    /// Draws one frame. `now_ms` is the time, in milliseconds since 1970; wishes are added to `commands`.
    pub fn ui(&mut self, ui: &mut Ui, state: &State, now_ms: u64, commands: &mut Commands) {
        let ctx = ui.ctx().clone();
        if !std::mem::replace(&mut self.dressed, true) {
            theme::install(&ctx);
            ctx.set_theme(self.settings.scheme.preference());
            // Fonts are there from the next frame on.
            ctx.request_repaint();
            return;
        }
        ctx.set_theme(self.settings.scheme.preference());
        let scale = self.settings.scale.clamp(*SCALES.start(), *SCALES.end());
        if (ctx.zoom_factor() - scale).abs() > 1e-3 {
            ctx.set_zoom_factor(scale);
        }
        self.follow_run(state, commands);
        self.picked.retain(|node| state.node(*node).is_some());
        let over = self.is_covered();
        if !over {
            for action in pressed(&ctx) {
                self.perform(action, &ctx, state, commands);
            }
        }
        self.page_ui(ui, state, now_ms, commands);
        self.overlays_ui(&ctx, state, now_ms, commands);
        self.toasts_ui(&ctx, state);
        if self.settings != self.kept {
            self.kept = self.settings.clone();
            commands.push(Command::Keep(Box::new(self.settings.clone())));
        }
        ctx.request_repaint_after(REFRESH);
    }

    /// Every run has a draft of its own. While one is worked on, the shell stays with its run, whichever starts next.
    fn follow_run(&mut self, state: &State, commands: &mut Commands) {
        if self.run.as_ref() != state.run() {
            let draft = std::mem::take(&mut self.draft);
            if let Some(before) = self.run.take() {
                self.drafts.insert(before, draft);
            }
            self.run = state.run().cloned();
            self.draft = self.run.as_ref().and_then(|run| self.drafts.remove(run)).unwrap_or_default();
            self.held = None;
        }
        if self.draft.policy().is_some() && self.held != self.run {
            self.held = self.run.clone();
            commands.extend(self.run.clone().map(Command::ShowRun));
        }
    }

    /// Whether something lies over the page and has the keyboard.
    fn is_covered(&self) -> bool {
        self.palette.is_some()
            || self.shortcuts
            || self.token.is_some()
            || self.run_file.is_some()
            || self.question.is_some()
    }

    fn page_ui(&mut self, ui: &mut Ui, state: &State, now_ms: u64, commands: &mut Commands) {
        let p = theme::Palette::get(ui);
        let mut page = self.settings.page;
        let mut wide = self.settings.wide;
        let federation = state.has_federation();
        if federation {
            egui::Panel::left("navigation")
                .exact_size(if wide { 168.0 } else { 52.0 })
                .resizable(false)
                .show_separator_line(false)
                .frame(Frame::new().fill(p.frame).inner_margin(Margin::symmetric(8, 8)))
                .show(ui, |ui| bars::side_ui(ui, state, &mut page, &mut wide));
        }
        self.settings.page = page;
        self.settings.wide = wide;
        let unread = state.notices.iter().filter(|notice| notice.number > self.read).count();
        let mut question = self.question.take();
        let mut token = false;
        let mut scene = Scene {
            state,
            now_ms,
            settings: &mut self.settings,
            draft: &mut self.draft,
            picked: &mut self.picked,
            commands,
            ask: &mut question,
            token: &mut token,
        };
        let mut bell = false;
        let clicked = egui::Panel::top("bar")
            .exact_size(48.0)
            .resizable(false)
            .show_separator_line(false)
            .frame(Frame::new().fill(p.frame).inner_margin(Margin::symmetric(14, 0)))
            .show(ui, |ui| {
                ui.allocate_ui_with_layout(
                    ui.available_size(),
                    egui::Layout::left_to_right(egui::Align::Center),
                    |ui| bars::top_ui(ui, &mut scene, unread, &mut bell),
                )
                .inner
            })
            .inner;
        let mut go = None;
        egui::CentralPanel::default().frame(Frame::new().fill(p.ground).inner_margin(Margin::same(12))).show(
            ui,
            |ui| {
                if !federation {
                    return self.start.ui(ui, &mut scene);
                }
                if unreachable_ui(ui, &mut scene, page) {
                    return;
                }
                match page {
                    Page::TradeOff => self.trade_off.ui(ui, &mut scene, &mut go),
                    Page::Thresholds => self.thresholds.ui(ui, &mut scene),
                    Page::Fleet => self.fleet.ui(ui, &mut scene),
                    Page::Run => self.run_view.ui(ui, &mut scene),
                    Page::Live => self.live.ui(ui, &mut scene),
                    Page::Log => self.log.ui(ui, &mut scene),
                    Page::Settings => settings(ui, &mut scene),
                }
            },
        );
        self.question = question;
        if bell {
            self.read = state.notices.last().map_or(self.read, |notice| notice.number);
        }
        if let Some(page) = go {
            self.settings.page = page;
        }
        if token {
            self.token = Some(TokenDialog::default());
        }
        let ctx = ui.ctx().clone();
        match clicked {
            Some(Clicked::Palette) => self.perform(Action::Palette, &ctx, state, commands),
            Some(Clicked::Token) => self.perform(Action::Token, &ctx, state, commands),
            Some(Clicked::RunFile) => self.perform(Action::OpenRunFile, &ctx, state, commands),
            Some(Clicked::Theme) => self.perform(Action::Theme, &ctx, state, commands),
            None => {}
        }
    }

    fn overlays_ui(&mut self, ctx: &egui::Context, state: &State, now_ms: u64, commands: &mut Commands) {
        if let Some(palette) = &mut self.palette {
            let (chosen, close) =
                palette.ui(ctx, state, |action| action.fits(state, &self.draft, &self.picked));
            if close {
                self.palette = None;
            }
            match chosen {
                Some(Choice::Action(action)) => self.perform(action, ctx, state, commands),
                Some(Choice::Node(node)) => self.open_node(node),
                Some(Choice::Run(run)) => commands.push(Command::ShowRun(run)),
                None => {}
            }
        }
        if self.shortcuts && palette::shortcuts_ui(ctx) {
            self.shortcuts = false;
        }
        if let Some(dialog) = &mut self.token
            && dialog.ui(ctx, state, now_ms, commands)
        {
            self.token = None;
        }
        if let Some(dialog) = &mut self.run_file
            && dialog.ui(ctx, commands)
        {
            self.run_file = None;
        }
        if let Some(question) = &self.question
            && let Some(yes) = dialogs::question_ui(ctx, question)
        {
            if yes {
                commands.push(question.command.clone());
            }
            self.question = None;
        }
    }

    /// Shows the newest unread notice for a while.
    fn toasts_ui(&mut self, ctx: &egui::Context, state: &State) {
        let Some(newest) = state.notices.last().filter(|notice| notice.number > self.read) else { return };
        let time = ctx.time();
        let since = match self.toast {
            Some((number, since)) if number == newest.number => since,
            _ => {
                self.toast = Some((newest.number, time));
                time
            }
        };
        let left = TOAST_S - (time - since);
        if left <= 0.0 {
            return;
        }
        if dialogs::toast_ui(ctx, newest) {
            self.read = newest.number;
        }
        ctx.request_repaint_after(std::time::Duration::from_secs_f64(left));
    }

    fn perform(&mut self, action: Action, ctx: &egui::Context, state: &State, commands: &mut Commands) {
        if !action.fits(state, &self.draft, &self.picked) {
            return;
        }
        match action {
            Action::Go(page) => self.settings.page = page,
            Action::Palette => self.palette = Some(Palette::default()),
            Action::Shortcuts => self.shortcuts = true,
            Action::Undo => self.draft.undo(),
            Action::Redo => self.draft.redo(),
            Action::Apply => commands.extend(self.draft.application(state, &self.picked)),
            Action::Discard => self.draft.discard(),
            Action::Token => self.token = Some(TokenDialog::default()),
            Action::OpenRunFile => self.run_file = Some(RunFileDialog::default()),
            Action::Demo => match &state.link {
                Link::Up(place) | Link::Down { place, .. } => {
                    let federation = match place.kind {
                        PlaceKind::Here => "The federation’s coordinator ends with that: open exeunt anew, and its nodes find it again.".to_owned(),
                        PlaceKind::Demo | PlaceKind::Elsewhere => format!("{} goes on without this window.", place.name),
                    };
                    self.question = Some(Question {
                        heading: "Start the demo?".to_owned(),
                        text: format!(
                            "This window then shows eight nodes on this machine, in a folder that goes away with them. {federation}"
                        ),
                        verb: "Start demo".to_owned(),
                        irreversible: false,
                        command: Command::StartDemo,
                    });
                }
                _ => commands.push(Command::StartDemo),
            },
            Action::Create => commands.push(Command::CreateFederation),
            Action::Filter => {
                self.settings.page = Page::Fleet;
                self.fleet.focus_filter();
            }
            Action::Theme => {
                self.settings.scheme =
                    if ctx.theme() == egui::Theme::Dark { Scheme::Light } else { Scheme::Dark };
            }
            Action::Larger => self.scale_by(0.1),
            Action::Smaller => self.scale_by(-0.1),
            Action::UsualSize => self.settings.scale = 1.0,
            Action::Notices => {
                // They open in the corner again, one after the other.
                self.read =
                    self.read.min(state.notices.last().map_or(0, |notice| notice.number.saturating_sub(1)));
                self.toast = None;
            }
            Action::Navigation => self.settings.wide = !self.settings.wide,
            Action::Reconnect => commands.push(Command::Reconnect),
        }
    }

    fn scale_by(&mut self, step: f32) {
        let scale = self.settings.scale + step;
        self.settings.scale = ((scale * 20.0).round() / 20.0).clamp(*SCALES.start(), *SCALES.end());
    }
}
