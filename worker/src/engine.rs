//! What every engine is: something that answers prompts, several at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::sync::mpsc::{Receiver, UnboundedSender, error::TryRecvError};
use wire::{Completion, EngineFacts, Prompt};

/// Tokens of an answer where neither the prompt nor the job says anything.
pub(crate) const ANSWER_TOKENS: usize = 256;

/// Why an engine can't be brought up, or broke beyond repair.
///
/// The message says what is wrong and what would mend it, as a sentence without a full stop.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// Something that answers prompts. It has a thread of its own, and may block it.
pub trait Engine: Send {
    /// What it is. Never changes.
    fn facts(&self) -> EngineFacts;

    /// Answers prompts until there are no more.
    ///
    /// Each prompt taken from `prompts` ends as exactly one completion in `outlet`; a prompt that
    /// can't be answered ends as a failed one and harms no other. The engine takes a prompt when
    /// it can begin it soon: those not taken can still be given to somebody else. An error means
    /// that the engine is of no more use; prompts without a completion go to another.
    fn run(self: Box<Self>, prompts: Prompts, outlet: Outlet) -> Result<(), EngineError>;
}

/// Where an engine takes prompts from.
#[derive(Debug)]
pub struct Prompts(Receiver<Prompt>);

/// What a look at the waiting prompts finds.
#[derive(Debug)]
pub enum Next {
    /// A prompt to answer.
    Prompt(Prompt),
    /// None at the moment.
    NotYet,
    /// None ever again.
    Over,
}

impl Prompts {
    /// Prompts that come through `receiver`.
    pub fn new(receiver: Receiver<Prompt>) -> Self {
        Self(receiver)
    }

    /// The next prompt, without waiting for one.
    pub fn look(&mut self) -> Next {
        match self.0.try_recv() {
            Ok(prompt) => Next::Prompt(prompt),
            Err(TryRecvError::Empty) => Next::NotYet,
            Err(TryRecvError::Disconnected) => Next::Over,
        }
    }

    /// The next prompt, however long it takes. None when there are no more.
    pub fn wait(&mut self) -> Option<Prompt> {
        self.0.blocking_recv()
    }

    /// The next prompt, for an engine that doesn't block. None when there are no more.
    pub async fn next(&mut self) -> Option<Prompt> {
        self.0.recv().await
    }
}

/// Where an engine puts completions and counts tokens.
#[derive(Clone, Debug)]
pub struct Outlet {
    completions: UnboundedSender<Completion>,
    gauge: Arc<Gauge>,
}

/// Counters that the engine raises and the worker reads.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Prompt tokens taken in.
    pub tokens_in: AtomicU64,
    /// Tokens generated.
    pub tokens_out: AtomicU64,
}

impl Outlet {
    /// Completions go to `completions`, counts to `gauge`.
    pub fn new(completions: UnboundedSender<Completion>, gauge: Arc<Gauge>) -> Self {
        Self { completions, gauge }
    }

    /// Ends a prompt.
    pub fn finish(&self, completion: Completion) {
        // With nobody listening the worker is ending, and the prompt goes to another.
        drop(self.completions.send(completion));
    }

    /// Counts tokens as they are processed.
    pub fn count(&self, tokens_in: u64, tokens_out: u64) {
        self.gauge.tokens_in.fetch_add(tokens_in, Relaxed);
        self.gauge.tokens_out.fetch_add(tokens_out, Relaxed);
    }
}
