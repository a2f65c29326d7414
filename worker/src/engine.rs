//! What every engine is: something that answers prompts, several at once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::mpsc::{Receiver, UnboundedSender, error::TryRecvError};
use wire::{Completion, EngineFacts, Fault, Prompt};

/// Tokens of an answer where neither the prompt nor the job says anything.
pub(crate) const ANSWER_TOKENS: usize = 256;

/// Why an engine can't be brought up, or broke beyond repair.
///
/// The reason says what is wrong and what would mend it, as a sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct EngineError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What is wrong.
    pub reason: String,
}

impl EngineError {
    /// It would be so on any machine.
    pub fn work(reason: impl Into<String>) -> Self {
        Self { fault: Fault::Work, reason: reason.into() }
    }

    /// It is this machine's fault; on another all may be well.
    pub fn machine(reason: impl Into<String>) -> Self {
        Self { fault: Fault::Machine, reason: reason.into() }
    }
}

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
pub struct Prompts {
    waiting: Receiver<Prompt>,
    gauge: Arc<Gauge>,
    /// Since when there was none when the engine looked.
    hungry: Option<Instant>,
}

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
        Self { waiting: receiver, gauge: Arc::default(), hungry: None }
    }

    /// The same, with the time that the engine is hungry counted by `gauge`.
    #[must_use]
    pub fn gauged(self, gauge: Arc<Gauge>) -> Self {
        Self { gauge, ..self }
    }

    /// The next prompt, without waiting for one.
    pub fn look(&mut self) -> Next {
        match self.waiting.try_recv() {
            Ok(prompt) => {
                self.fed();
                Next::Prompt(prompt)
            }
            Err(TryRecvError::Empty) => {
                self.hungry.get_or_insert_with(Instant::now);
                Next::NotYet
            }
            Err(TryRecvError::Disconnected) => Next::Over,
        }
    }

    /// The next prompt, however long it takes. None when there are no more.
    pub fn wait(&mut self) -> Option<Prompt> {
        self.hungry.get_or_insert_with(Instant::now);
        let prompt = self.waiting.blocking_recv()?;
        self.fed();
        Some(prompt)
    }

    /// The next prompt, for an engine that doesn't block. None when there are no more.
    pub async fn next(&mut self) -> Option<Prompt> {
        // Counts when it is dropped: an engine may give up waiting, and wait again later.
        let _hunger = Hunger { gauge: &self.gauge, since: Instant::now() };
        self.waiting.recv().await
    }

    fn fed(&mut self) {
        if let Some(since) = self.hungry.take() {
            drop(Hunger { gauge: &self.gauge, since });
        }
    }
}

/// An engine that could begin a prompt and has none, until this is dropped.
struct Hunger<'a> {
    gauge: &'a Gauge,
    since: Instant,
}

impl Drop for Hunger<'_> {
    fn drop(&mut self) {
        let micros = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.gauge.hungry_micros.fetch_add(micros, Relaxed);
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
    /// Millionths of seconds in which the engine could have begun a prompt and there was none, up to
    /// when it began the last one.
    pub hungry_micros: AtomicU64,
    /// Since when the engine waits for a device, if it does.
    waiting: Mutex<Option<Instant>>,
}

impl Gauge {
    /// Since when the engine waits for a device, if it does.
    pub fn waiting_since(&self) -> Option<Instant> {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, since: Option<Instant>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// An engine that waits for a device, until this is dropped.
#[derive(Debug)]
pub struct Wait<'a>(&'a Gauge);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.wait(None);
    }
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

    /// Says that the engine is about to wait for a device, whose driver may hang. One that waits for long
    /// is given up, so this is for what never takes long while all is well.
    pub fn wait(&self) -> Wait<'_> {
        self.gauge.wait(Some(Instant::now()));
        Wait(&self.gauge)
    }

    /// Counts tokens as they are processed.
    pub fn count(&self, tokens_in: u64, tokens_out: u64) {
        self.gauge.tokens_in.fetch_add(tokens_in, Relaxed);
        self.gauge.tokens_out.fetch_add(tokens_out, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::mpsc::channel;
    use wire::Form;

    const WHILE: Duration = Duration::from_millis(20);

    fn prompt() -> Prompt {
        Prompt { index: 0, form: Form::Auto, body: String::new() }
    }

    fn hungry(gauge: &Gauge) -> Duration {
        Duration::from_micros(gauge.hungry_micros.load(Relaxed))
    }

    #[test]
    fn hungry_is_an_engine_from_when_it_looked_in_vain_until_it_is_fed() {
        let (gauge, (sender, receiver)) = (Arc::new(Gauge::default()), channel(4));
        let mut prompts = Prompts::new(receiver).gauged(gauge.clone());
        sender.try_send(prompt()).expect("there is room");
        std::thread::sleep(WHILE);
        assert!(matches!(prompts.look(), Next::Prompt(_)));
        assert_eq!(hungry(&gauge), Duration::ZERO, "there was one all the time");
        assert!(matches!(prompts.look(), Next::NotYet));
        std::thread::sleep(WHILE);
        assert!(matches!(prompts.look(), Next::NotYet));
        assert_eq!(hungry(&gauge), Duration::ZERO, "as yet nobody knows how long");
        sender.try_send(prompt()).expect("there is room");
        assert!(matches!(prompts.look(), Next::Prompt(_)));
        let looked = hungry(&gauge);
        assert!(WHILE <= looked, "{looked:?}");
        assert!(matches!(prompts.look(), Next::NotYet));
        let feeding = std::thread::spawn(move || {
            std::thread::sleep(WHILE);
            sender.blocking_send(prompt()).expect("somebody waits");
        });
        assert!(prompts.wait().is_some());
        assert!(looked + WHILE <= hungry(&gauge), "{:?}", hungry(&gauge));
        feeding.join().expect("it ends");
        let before = hungry(&gauge);
        assert!(prompts.wait().is_none() && matches!(prompts.look(), Next::Over));
        assert_eq!(hungry(&gauge), before, "that there are no more is no hunger");
    }

    #[tokio::test]
    async fn an_engine_that_gives_up_waiting_was_hungry_until_then() {
        let (gauge, (_sender, receiver)) = (Arc::new(Gauge::default()), channel::<Prompt>(4));
        let mut prompts = Prompts::new(receiver).gauged(gauge.clone());
        tokio::time::timeout(WHILE, prompts.next()).await.expect_err("there is none");
        assert!(WHILE <= hungry(&gauge), "{:?}", hungry(&gauge));
    }
}
