//! Where all servers of a machine take prompts from.

use crate::engine::Prompts;
use std::{collections::VecDeque, sync};
use tokio::sync::{Mutex, Notify};
use wire::Prompt;

/// Prompts for whoever asks first.
#[derive(Debug)]
pub(super) struct Source {
    prompts: Mutex<Prompts>,
    /// What a server left that can't go on.
    left: sync::Mutex<VecDeque<Prompt>>,
    /// Says that something was left.
    more: Notify,
}

impl Source {
    /// Shares `prompts`.
    pub(super) fn new(prompts: Prompts) -> Self {
        Self { prompts: Mutex::new(prompts), left: sync::Mutex::default(), more: Notify::new() }
    }

    /// The next prompt. None when there are no more, unless a server leaves some later. Nothing is
    /// lost when the wait is given up.
    pub(super) async fn next(&self) -> Option<Prompt> {
        loop {
            // Before the look: what is left after it wakes this.
            let more = self.more.notified();
            if let Some(prompt) = self.take_left() {
                return Some(prompt);
            }
            tokio::select! {
                biased;
                prompt = async { self.prompts.lock().await.next().await } => {
                    return prompt.or_else(|| self.take_left());
                }
                () = more => {}
            }
        }
    }

    /// Takes back what a server leaves that can't go on.
    pub(super) fn leave(&self, prompts: impl IntoIterator<Item = Prompt>) {
        self.left().extend(prompts);
        self.more.notify_waiters();
    }

    /// Whether something was left that nobody has taken.
    pub(super) fn has_left(&self) -> bool {
        !self.left().is_empty()
    }

    fn take_left(&self) -> Option<Prompt> {
        self.left().pop_front()
    }

    fn left(&self) -> sync::MutexGuard<'_, VecDeque<Prompt>> {
        self.left.lock().expect("nothing that holds it panics")
    }
}
