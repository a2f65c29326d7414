//! One verb a file: settings → core → exit code.

mod access;
mod cleanup;
mod consent;
mod elsewhere;
mod forget;
mod login;
mod logout;
mod look;
mod markets;
mod offers;
mod out;
mod plan;
mod prepare;
mod providers;
mod ps;
mod report;
mod resume;
mod run;

use crate::{
    cli::{Cli, Command},
    event::Events,
    exit::Exit,
    report::{Style, error, tell},
    run::{FolderError, GRACE, Home, RunFolder, stand},
    settings::{self, SettingsError},
};
use clap::CommandFactory;
use markets::{markets, markets_for_a_moment};
use std::{
    env, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::mpsc::unbounded_channel;

/// Why a command could not do what it was to do.
#[derive(Debug)]
pub struct CommandError {
    exit: Exit,
    error: Box<dyn std::error::Error + Send + Sync>,
    hint: Option<String>,
}

impl CommandError {
    /// An error that ends the program with this code.
    pub fn new(exit: Exit, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says what went wrong, and how the program is to end for it.
    fn tell(&self) -> Exit {
        error(&*self.error, self.hint.as_deref());
        self.exit
    }
}

impl From<SettingsError> for CommandError {
    fn from(error: SettingsError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl From<FolderError> for CommandError {
    fn from(error: FolderError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

/// Does what was typed.
pub async fn dispatch(cli: Cli) -> Exit {
    let home = cli.home.as_deref();
    let result = match cli.command {
        Command::ProvisionAndRun(args) if args.dry_run => plan::plan(*args, home).await,
        Command::ProvisionAndRun(args) => Box::pin(run::run(*args, home)).await,
        Command::Resume(args) => resume::resume(args, home).await,
        Command::Offers(args) => offers::offers(&args, home).await,
        Command::Login(args) => login::login(&args, home).await,
        Command::Logout(args) => logout::logout(&args, home).await,
        Command::Providers(args) => providers::providers(&args, home).await,
        Command::Ps(args) => ps::ps(&args, home).await,
        Command::Report(args) => report::report(args, home).await,
        Command::Cleanup(args) => cleanup::cleanup(&args, home).await,
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "piecework", &mut io::stdout());
            Ok(Exit::Done)
        }
        Command::Guard { folder, grace } => guard(folder, grace).await,
        Command::LocalInstance { folder } => {
            let served = ::providers::serve_local_instance(&folder).await;
            served.map(|()| Exit::Done).map_err(|error| CommandError::new(Exit::Failed, error))
        }
    };
    result.unwrap_or_else(|failed| failed.tell())
}

async fn guard(folder: PathBuf, grace: Option<u64>) -> Result<Exit, CommandError> {
    // A run's folder lies in the folder of runs, and that one at home.
    let home = open_home(folder.ancestors().nth(2))?;
    let markets = markets_for_a_moment(&home).await?;
    let grace = grace.map_or(GRACE, Duration::from_secs);
    let (sender, receiver) = unbounded_channel();
    let telling = tokio::spawn(tell(Style::Human, receiver));
    let (folder, events) = (RunFolder::at(folder), Events::to(sender));
    let stood = match home.owner() {
        Ok(owner) => stand(&folder, &owner, &markets, grace, &events).await,
        Err(error) => Err(std::io::Error::other(error)),
    };
    drop(events);
    // A reporter that crashed has nothing to add.
    drop(telling.await);
    stood.map(|()| Exit::Done).map_err(|error| CommandError::new(Exit::MayBeBilled, error))
}

fn program() -> Result<PathBuf, CommandError> {
    env::current_exe().map_err(|error| CommandError::new(Exit::Failed, error))
}

fn open_home(named: Option<&Path>) -> Result<Home, CommandError> {
    Ok(Home::open(&settings::home(named)?)?)
}
