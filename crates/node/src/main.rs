//! `exeunt-node`: see [`exeunt_node::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    exeunt_node::cli::main_with(std::env::args_os())
}
