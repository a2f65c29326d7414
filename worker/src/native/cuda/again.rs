//! Steps that are done again: recorded once, then replayed at one word of the host.

use super::{device::Recording, model::Gpu, plan::Sizes, told::Told};
use crate::engine::EngineError;
use std::collections::HashMap;

/// Recordings at a time. There may be twice as many sizes, and each recording takes memory of the GPU, some
/// megabytes for a large model.
const MOST: usize = 64;

/// What is known of steps that come again.
#[derive(Debug)]
pub(super) struct Again {
    /// Recordings by their sizes; None where such a step was seen once.
    pub(super) known: HashMap<Sizes, Option<Recording>>,
    /// How many recordings there are at a time.
    pub(super) most: usize,
}

impl Default for Again {
    fn default() -> Self {
        Self { known: HashMap::new(), most: MOST }
    }
}

impl Gpu {
    /// Goes through the model, from tokens to tokens, by replaying a step of the same sizes where there is one.
    ///
    /// A step is recorded once two of its sizes were seen, while the GPU is at the second: then nobody waits for
    /// the recording, and all its products and kernels have been used.
    pub(super) fn step_again(&mut self, told: &Told) -> Result<(), EngineError> {
        let Some(sizes) = told.sizes.filter(|_| 0 < self.again.most) else {
            return self.step(told);
        };
        let seen = self.again.known.get(&sizes).copied();
        if let Some(Some(recording)) = seen {
            let Err(error) = self.device.replay(recording) else { return Ok(()) };
            self.give_up(&error)?;
            return self.step(told);
        }
        self.step(told)?;
        let mut recording = None;
        if seen.is_some() {
            if self.again.known.values().flatten().count() == self.again.most {
                self.forget()?;
            }
            match self.record(told) {
                Ok(recorded) => recording = Some(recorded),
                Err(error) => return self.give_up(&error),
            }
        }
        self.again.known.insert(sizes, recording);
        Ok(())
    }

    fn record(&mut self, told: &Told) -> Result<Recording, EngineError> {
        self.device.record()?;
        let step = self.step(told);
        let recording = self.device.recorded()?;
        step.map(|()| recording)
    }

    /// Forgets all recordings.
    pub(super) fn forget(&mut self) -> Result<(), EngineError> {
        self.again.known.clear();
        self.device.forget()
    }

    /// Records no more. It costs time only: whatever else is wrong is found with the next thing that the GPU
    /// is told.
    #[expect(clippy::print_stderr, reason = "the worker's own log, which is shown where it fails")]
    fn give_up(&mut self, error: &EngineError) -> Result<(), EngineError> {
        eprintln!("the GPU works on, and is told its steps one by one, which is slower: {error}");
        self.again.most = 0;
        self.forget()
    }
}
