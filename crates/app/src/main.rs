//! `exeunt`: the coordinator, its commands, simulations and the demo.

mod ask;
mod backup;
mod bench;
mod cli;
mod demo;
mod doctor;
mod export;
mod failure;
mod faults;
mod inspect;
mod out;
mod place;
mod remote;
mod serve;
mod show;
mod simulate;
mod snapshot;
mod summary;
mod window;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use exeunt_coordinator::Home;

use crate::cli::{Cli, Command, Common};

fn main() -> ExitCode {
    // Before anything is parsed: both programs have a `--home`, and this one is meant for the node.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == cli::NODE_PROCESS) {
        let arguments = arguments.skip_while(|argument| argument == "--");
        return exeunt_node::cli::main_with(std::iter::once("exeunt-node".into()).chain(arguments));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { failure::BAD_INPUT } else { 0 };
            // Nothing is left to do when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let lines = start_logging(&cli.common);
    let home = Home::new(cli.common.home.clone().unwrap_or_else(default_home));
    let Cli { connect, screenshot, command, .. } = cli;
    let elsewhere = connect.clone();
    let window = |demo| {
        window::open(window::Options { home: home.clone(), connect, demo, pictures: screenshot, lines })
    };
    let result = match command {
        None => window(false),
        Some(Command::Demo(arguments)) if arguments.wants_window() && window::has_display() => window(true),
        Some(command) => match &elsewhere {
            Some(named) => run_elsewhere(named, command),
            None => run(home.clone(), command),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", failure::describe(&error));
            ExitCode::from(failure::code(&error))
        }
    }
}

fn run(home: Home, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { listen, advertise, approve } => {
            exeunt_node::allocator::one_heap();
            serve::serve(&home, listen, &advertise, approve)
        }
        Command::Inspect(arguments) => inspect::inspect(&home, &arguments),
        Command::Bench(command) => bench::bench(&command),
        Command::Operator { name, out } => ask::operator(&home, &name, &out),
        Command::Doctor { engine, output } => doctor::doctor(&home, &engine, output.json),
        Command::Backup { to, output } => backup::backup(&home, to.as_deref(), output.json),
        Command::Restore { from, replace, output } => backup::restore(&home, &from, replace, output.json),
        Command::Simulate(arguments) => simulate::simulate(&arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        command => remote::run(&home, command),
    }
}

/// Runs a command that asks a coordinator, against one on another machine.
fn run_elsewhere(named: &str, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { .. }
        | Command::Operator { .. }
        | Command::Inspect(_)
        | Command::Bench(_)
        | Command::Restore { .. }
        | Command::Simulate(_)
        | Command::Demo(_) => {
            let why = "--connect is for commands that ask a coordinator; this one runs here".to_owned();
            Err(failure::BadInput(why).into())
        }
        Command::Backup { to, output } => {
            backup::backup_elsewhere(&window::folder_of(named)?, to.as_deref(), output.json)
        }
        command => remote::run(&window::folder_of(named)?, command),
    }
}

fn default_home() -> PathBuf {
    directories::ProjectDirs::from("", "", "exeunt")
        .map_or_else(|| PathBuf::from("exeunt"), |dirs| dirs.data_dir().to_owned())
}

/// Log lines to stderr; `EXEUNT_LOG` before `-v`.
///
/// The window gets them too; what it may want to show is never less than "info".
fn start_logging(common: &Common) -> window::Lines {
    use std::io::IsTerminal as _;

    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, fmt};
    let level = match common.verbose {
        // It warns of every operator set that it has no tests for, at every load.
        0 => "warn,tract_onnx=error",
        1 => "info,exeunt_coordinator=debug,exeunt_link=debug",
        _ => "debug,exeunt_coordinator=trace,exeunt_link=trace",
    };
    let filter = EnvFilter::try_from_env("EXEUNT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let layer = if common.log_json { layer.json().boxed() } else { layer.boxed() };
    let (tap, lines) = window::Tap::new();
    let tap = tap.with_filter(EnvFilter::new("warn,exeunt=info"));
    tracing_subscriber::registry().with(layer.with_filter(filter)).with(tap).init();
    lines
}

/// The runtime that commands wait on.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}
