//! Why conversations end, and what that means for the instance.

use super::{INSTALL_LIMIT, SMOKE_LIMIT};
use crate::{
    leases::describe,
    ready::NotReady,
    remote::{InstallError, RemoteError},
    report::words,
    smoke,
};
use wire::{CodecError, Fault};

/// Why an instance is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The instance is at fault: another may do better.
    #[error("{0}")]
    Instance(String),
    /// The instance can't run the engine, and couldn't the next time: another may.
    #[error("{0}")]
    Unable(String),
    /// The marketplace has taken the instance back, which is nobody's fault.
    #[error("{0}")]
    Taken(String),
    /// The work is at fault: another would fail as well.
    #[error("{0}")]
    Work(String),
    /// Another program works on this run.
    #[error("another piecework process has taken over the run")]
    Fenced,
}

impl Loss {
    /// What it means that an engine can't do the work.
    pub(super) fn of(fault: Fault, reason: String) -> Self {
        match fault {
            Fault::Work => Self::Work(reason),
            Fault::Machine => Self::Unable(reason),
        }
    }
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("the worker can't be started: {0}")]
    Start(String),
    #[error("its watchdog isn't armed: {0}")]
    Unarmed(String),
    #[error("it failed its test: {0}")]
    Faulty(#[from] smoke::Fault),
    #[error("it failed its test: it hasn't said in {} what it is", words::time(SMOKE_LIMIT))]
    Mute,
    #[error("it didn't get the worker within {}", words::time(INSTALL_LIMIT))]
    Trickle,
    #[error("the worker hung up")]
    HungUp,
    #[error("the worker is silent")]
    Silent,
    #[error("nobody is left to tell")]
    Unheard,
    #[error("{0}")]
    Lost(Loss),
}

impl Broken {
    /// What it means for the instance; none if it is worth another try.
    pub(super) fn loss(&self) -> Option<Loss> {
        let instance = || Some(Loss::Instance(describe(self)));
        match self {
            Self::Lost(loss) => Some(loss.clone()),
            Self::Remote(error) | Self::Install(InstallError::Remote(error)) => {
                if error.is_temporary() || matches!(error, RemoteError::Rejected(_)) {
                    None
                } else {
                    instance()
                }
            }
            Self::Install(InstallError::Local { .. }) => Some(Loss::Work(describe(self))),
            Self::Install(InstallError::Checksum)
            | Self::Codec(_)
            | Self::Unarmed(_)
            | Self::HungUp
            | Self::Silent
            | Self::Unheard => None,
            Self::NotReady(NotReady::Lost(_) | NotReady::Gone) => Some(Loss::Taken(describe(self))),
            Self::NotReady(NotReady::TooSlow(_))
            | Self::Start(_)
            | Self::Install(_)
            | Self::Faulty(_)
            | Self::Mute
            | Self::Trickle => instance(),
        }
    }
}
