//! The worker's command line. The controller is its only user.

use clap::{Parser, Subcommand};
use std::{error::Error, ffi::OsString, path::PathBuf, process::ExitCode};

/// Answers prompts on a machine that piecework has rented.
#[derive(Debug, Parser)]
#[command(name = "piecework-worker", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a worker in a folder, unless one runs there.
    Start {
        /// Where the worker keeps its spool, its log and its socket.
        #[arg(long)]
        folder: PathBuf,
    },
    /// Connects standard input and output with the worker of a folder.
    Attach {
        /// The folder that the worker was started in.
        #[arg(long)]
        folder: PathBuf,
    },
    /// Runs a program that ends when this worker does.
    #[command(hide = true)]
    Keep {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
    /// Is the worker of a folder.
    #[command(hide = true)]
    Serve {
        /// The folder.
        #[arg(long)]
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let Err(error) = run(Cli::parse().command) else {
        return ExitCode::SUCCESS;
    };
    complain(error.as_ref());
    ExitCode::FAILURE
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Start { folder } => worker::daemon::start(&folder)?,
        Command::Attach { folder } => worker::daemon::attach(&folder)?,
        Command::Serve { folder } => worker::daemon::run(&folder)?,
        Command::Keep { command } => worker::server::keep(&command)?,
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the controller reads the reason from standard error")]
fn complain(error: &dyn Error) {
    eprint!("piecework-worker: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
}
