//! The ladder of stopping: it only rises.

use rustix::process::Signal;
use std::{fs, io};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How far a run was told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    #[default]
    No,
    /// Begin no more prompts, finish those begun, give everything back.
    Drain,
    /// Hang up, and give everything back.
    Kill,
    /// End at once, and say what is owed.
    Leave,
}

impl Stop {
    /// One rung higher.
    #[must_use]
    pub const fn harder(self) -> Self {
        match self {
            Self::No => Self::Drain,
            Self::Drain => Self::Kill,
            Self::Kill | Self::Leave => Self::Leave,
        }
    }
}

/// Where somebody says stop, and somebody else listens.
#[derive(Clone, Debug)]
pub struct Ladder(watch::Sender<Stop>);

impl Default for Ladder {
    fn default() -> Self {
        Self(watch::Sender::new(Stop::No))
    }
}

impl Ladder {
    /// How far it has risen.
    pub fn level(&self) -> Stop {
        *self.0.borrow()
    }

    /// Raises it to at least `level`.
    pub fn raise(&self, level: Stop) {
        self.0.send_modify(|stop| *stop = (*stop).max(level));
    }

    /// Waits until it is at least at `level`. Cancel-safe.
    pub async fn at_least(&self, level: Stop) {
        let mut ear = self.0.subscribe();
        // The sender lives in `self`, so it can't be gone.
        drop(ear.wait_for(|stop| level <= *stop).await);
    }

    /// Lets the terminal and the system raise it: ^C by one rung each time, SIGHUP (the terminal is
    /// gone) and SIGTERM (whoever sends it kills what is left a few seconds later) to
    /// [`Stop::Kill`], for nobody waits for a drain. SIGXFSZ, which comes with a write beyond the
    /// limit on a file's size and would end the process, is heard and ignored: the write fails as
    /// well, and is told as any other.
    ///
    /// What whoever began this program has it ignore stays ignored: SIGHUP under `nohup`, and ^C in
    /// what a script leaves in the background. SIGTERM is heard all the same: it is never
    /// meant to be ignored, and what follows on it is SIGKILL.
    pub fn obey_signals(&self) -> io::Result<()> {
        // Once it was listened for it does no harm, whether anybody listens or not.
        drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?);
        // Read first: what is listened for isn't ignored any more.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (kind, rung) in [
            (SignalKind::interrupt(), None),
            (SignalKind::terminate(), Some(Stop::Kill)),
            (SignalKind::hangup(), Some(Stop::Kill)),
        ] {
            if kind != SignalKind::terminate() && is_ignored(&status, kind) {
                continue;
            }
            let mut signals = signal(kind)?;
            let ladder = self.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    ladder.raise(rung.unwrap_or(ladder.level().harder()));
                }
            });
        }
        Ok(())
    }
}

/// Whether the process with this status, as Linux shows it in `/proc`, ignores a signal. Other
/// systems show none, and there nothing is taken for ignored.
fn is_ignored(status: &str, signal: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    // The first signal is number 1.
    mask & (1 << (signal.as_raw_value() - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_seen_in_the_status_of_a_process() {
        let ignored = |status| {
            let all = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()];
            all.map(|signal| is_ignored(status, signal))
        };
        let status =
            "SigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\nSigCgt:\t0000000000004000\n";
        assert_eq!(ignored(status), [true, true, false]);
        assert_eq!(ignored("SigIgn:\t0000000000004001"), [true, false, true]);
        for unknown in ["", "SigIgn:\tnone\n", "Name:\tpiecework\n"] {
            assert_eq!(ignored(unknown), [false; 3], "{unknown:?}");
        }
    }

    #[tokio::test]
    async fn the_ladder_only_rises() {
        let ladder = Ladder::default();
        ladder.raise(Stop::Kill);
        ladder.raise(Stop::Drain);
        assert_eq!(ladder.level(), Stop::Kill);
        ladder.at_least(Stop::Drain).await;
        assert_eq!(ladder.level().harder(), Stop::Leave);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_rung_hears_of_it_and_not_before() {
        let ladder = Ladder::default();
        let mut waiting = std::pin::pin!(ladder.at_least(Stop::Kill));
        let heard = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(heard, &mut waiting).await.is_err(), "nobody has raised it");
        ladder.raise(Stop::Drain);
        assert!(tokio::time::timeout(heard, &mut waiting).await.is_err(), "not so far");
        ladder.raise(Stop::Kill);
        waiting.await;
    }

    #[tokio::test]
    async fn an_interrupt_raises_it_by_a_rung_and_a_terminal_or_service_that_ends_to_the_second() {
        let kill = |signal| {
            rustix::process::kill_process(rustix::process::getpid(), signal).expect("it is we");
        };
        // Tests may be begun in the background of a script. What was heard once isn't ignored.
        for ignored in [SignalKind::interrupt(), SignalKind::hangup()] {
            drop(signal(ignored).expect("signals can be heard"));
        }
        let asked = Ladder::default();
        asked.obey_signals().expect("signals can be heard");
        kill(Signal::XFSZ);
        assert_eq!(asked.level(), Stop::No);
        kill(Signal::INT);
        asked.at_least(Stop::Drain).await;
        assert_eq!(asked.level(), Stop::Drain);
        kill(Signal::INT);
        asked.at_least(Stop::Kill).await;
        assert_eq!(asked.level(), Stop::Kill);
        for signal in [Signal::HUP, Signal::TERM] {
            let told = Ladder::default();
            told.obey_signals().expect("signals can be heard");
            kill(signal);
            told.at_least(Stop::Kill).await;
            assert_eq!((told.level(), asked.level()), (Stop::Kill, Stop::Kill), "{signal:?}");
        }
    }
}
