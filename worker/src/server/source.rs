//! Where all servers of a machine take prompts from.

use crate::engine::Prompts;
use tokio::sync::Mutex;
use wire::Prompt;

/// Prompts for whoever asks first.
#[derive(Debug)]
pub(super) struct Source(Mutex<Prompts>);

impl Source {
    /// Shares `prompts`.
    pub(super) fn new(prompts: Prompts) -> Self {
        Self(Mutex::new(prompts))
    }

    /// The next prompt. None when there are no more. Nothing is lost when the wait is given up.
    pub(super) async fn next(&self) -> Option<Prompt> {
        self.0.lock().await.next().await
    }
}
