//! What can go wrong on the way to another computer, told by layer and by what to do next.

use super::pin::HostKeyChanged;
use providers::Endpoint;
use std::io;

/// A failure to reach a machine, or to talk to it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// TCP: nobody answers there, or not yet.
    #[error("no connection to {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: Endpoint,
        /// What the network said.
        source: io::Error,
    },
    /// Key exchange: something answers, but no encrypted connection came about.
    #[error("{endpoint} answers, but SSH with it fails")]
    KeyExchange {
        /// Where.
        endpoint: Endpoint,
        /// What SSH said.
        source: Box<russh::Error>,
    },
    /// Key exchange: it isn't the machine that was there before. It must get nothing of ours.
    #[error(transparent)]
    HostKeyChanged(#[from] Box<HostKeyChanged>),
    /// Key exchange: it shows another host key than the one that its start script is to plant,
    /// which may not have run yet.
    #[error("{0} doesn't show the host key that was planted in it, or not yet")]
    HostKeyNotYet(Endpoint),
    /// Authentication: the machine doesn't know the run's key, or not yet.
    #[error("{0} rejects the run's key; the marketplace may not have put it there yet")]
    Rejected(Endpoint),
    /// The link broke, or went silent for too long.
    #[error("the connection to the machine is lost: {0}")]
    Lost(String),
    /// The machine takes no further command on this connection. `sshd` allows ten at a time.
    #[error("the machine refuses another command on this connection; wait for one to end")]
    Crowded,
    /// Shell: the machine lets us in, but runs no commands.
    #[error("the machine refuses to run commands; its image must allow `exec` over SSH")]
    NoShell,
    /// Our own folder: the host keys can't be read or written.
    #[error("the file of host keys can't be used; see to the run's folder")]
    Pins(#[source] io::Error),
}

impl RemoteError {
    /// Whether dialling again may help. What isn't temporary stays so on this instance.
    ///
    /// [`Rejected`](Self::Rejected) isn't, but a machine that has just started may change its
    /// mind: only the caller knows how old it is.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) | Self::Crowded | Self::HostKeyNotYet(_) => {
                true
            }
            Self::KeyExchange { source, .. } => !is_incompatible(source),
            Self::HostKeyChanged(_) | Self::Rejected(_) | Self::NoShell | Self::Pins(_) => false,
        }
    }
}

fn is_incompatible(error: &russh::Error) -> bool {
    use russh::Error;
    matches!(
        error,
        Error::NoCommonAlgo { .. } | Error::UnknownAlgo | Error::Version | Error::WrongServerSig
    )
}
