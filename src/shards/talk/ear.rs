//! The receiving half of a conversation: what the worker says, in the runner's words.

use super::{Broken, Loss, SILENCE, Said};
use crate::{event::SlotPhase, remote::Stdout, shards::WorkerId};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::{sync::mpsc::Sender, time::timeout};
use wire::{FrameReader, Phase, Status, ToController};

/// The receiving half of a conversation.
pub(super) struct Ear {
    pub(super) id: WorkerId,
    pub(super) conversation: u64,
    pub(super) said: Sender<(WorkerId, Said)>,
    /// Whether it has heard an answer.
    pub(super) answered: Arc<AtomicBool>,
}

impl Ear {
    pub(super) async fn listen(self, mut reader: FrameReader<Stdout>) -> Result<(), Broken> {
        let conversation = self.conversation;
        loop {
            let heard = timeout(SILENCE, reader.next()).await.map_err(|_| Broken::Silent)??;
            let Some((_, message)) = heard else {
                return Err(Broken::HungUp);
            };
            let said = match message {
                ToController::Completions { through, completions } => {
                    self.answered.store(true, Relaxed);
                    Said::Completions { conversation, through, completions }
                }
                ToController::Status(status) => match phase(&status) {
                    Some(phase) => Said::Phase(phase),
                    None => Said::Status(status),
                },
                ToController::Ready(facts) => Said::Ready(facts),
                ToController::GivenUp(indices) => Said::GivenUp(indices),
                ToController::Broken { fault, reason } => {
                    return Err(Broken::Lost(Loss::of(fault, reason)));
                }
                ToController::Fenced { .. } => return Err(Broken::Lost(Loss::Fenced)),
                ToController::Hello { .. } => continue,
            };
            self.said.send((self.id, said)).await.map_err(|_| Broken::Unheard)?;
        }
    }
}

/// What a worker is at before it answers prompts.
fn phase(status: &Status) -> Option<SlotPhase> {
    match status.phase.clone() {
        Phase::Fetching { source, done, total } => {
            Some(SlotPhase::Fetching { source, done, total })
        }
        Phase::Loading { done, total } => Some(SlotPhase::Loading { done, total }),
        Phase::Idle | Phase::Working | Phase::Broken { .. } => None,
    }
}
