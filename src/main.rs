//! Parses, runs, and ends the process: the only place that does.

use clap::Parser;
use piecework::{cli::Cli, commands, exit::Exit};

fn main() -> Exit {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("the system has room for a few threads");
    let exit = runtime.block_on(commands::dispatch(cli));
    // Whatever still waits, waits for nothing.
    runtime.shutdown_background();
    exit
}
