//! The prompts, looked through before anything is rented, and how long they are.

use super::{CommandError, elsewhere};
use crate::{
    cli::RunArgs,
    exit::Exit,
    lengths::Lengths,
    model::{NoTokenizer, find_tokenizer},
    prompts::{self, Input, Survey},
    settings::Settings,
};
use futures_util::future::try_join;
use std::path::PathBuf;

/// What is known of the prompts.
pub(super) struct Looked {
    pub(super) input: Input,
    pub(super) survey: Survey,
    /// How long they and their answers are.
    pub(super) lengths: Lengths,
}

/// Looks through the prompts. Where `is_measured`, it fetches the model's tokenizer meanwhile, and a
/// sample of them is counted. `fetched` is where a file from elsewhere goes, and `spooled` one that
/// can be read only once.
pub(super) async fn look_through(
    args: &RunArgs,
    settings: &Settings,
    is_measured: bool,
    fetched: impl Fn(usize) -> PathBuf,
    spooled: impl Fn(usize) -> PathBuf + Send + 'static,
) -> Result<Looked, CommandError> {
    let looked = async {
        let typed = elsewhere::bring(&args.prompts, fetched).await?;
        let options = settings.prompts.clone();
        let looked = blocking(move || {
            let sources = prompts::gather(&typed, spooled)?;
            let input = Input { sources, options };
            prompts::survey(&input, |_| {}).map(|survey| (input, survey))
        });
        looked.await?.map_err(|error| CommandError::new(Exit::Failed, error))
    };
    let tokenizer = async {
        let unwanted = Err(NoTokenizer::Unwanted);
        Ok(if is_measured { find_tokenizer(&settings.job.model).await } else { unwanted })
    };
    let ((input, mut survey), tokenizer) = try_join(looked, tokenizer).await?;
    let limit = default_limit(&settings.job.defaults);
    let counted = blocking(move || {
        let lengths = Lengths::of(&survey, limit, &tokenizer);
        // A run keeps what it knows of its prompts, and their texts are no longer needed.
        survey.samples = Vec::new();
        Looked { input, survey, lengths }
    });
    counted.await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|crash| CommandError::new(Exit::Failed, crash.to_string()))
}

/// The most tokens of an answer, where a prompt doesn't say.
fn default_limit(defaults: &str) -> Option<u32> {
    let defaults: serde_json::Value = serde_json::from_str(defaults).ok()?;
    u32::try_from(defaults.get("max_tokens")?.as_u64()?).ok()
}
