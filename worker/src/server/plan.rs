//! What is the same for every server of a job: how it is started, what it is asked, what it may use.

use super::{
    command::{self, CommandLine, Values},
    gpus::Gpu,
    model::Outline,
    request::Common,
};
use crate::{
    engine::EngineError,
    native::{available_memory, parse_defaults},
};
use std::path::{Path, PathBuf};
use wire::{Job, Server};

/// Tokens of a prompt and its answer, where memory is set aside for each and the job doesn't say.
const CONTEXT: u32 = 4096;

/// The part of the free memory that the KV cache may take without a GPU: one in this.
const MEMORY_SHARE: u64 = 4;

/// The part of GPUs' memory that a server may take, in tenths.
const GPU_TENTHS: u64 = 9;

/// Bytes of a GPU's memory that are neither weights nor KV cache: a step's own numbers, and graphs.
const WORKING_BYTES: u64 = 2 << 30;

/// What is the same for every server.
#[derive(Debug)]
pub(super) struct Plan {
    /// The server's description.
    pub(super) server: Server,
    /// What requests have in common.
    pub(super) common: Common,
    /// The model, from outside.
    pub(super) outline: Outline,
    /// Tokens of a prompt and its answer, where that is bounded.
    pub(super) context: Option<u32>,
    /// Bytes that the KV caches of one server take, where it sets them aside.
    pub(super) kv_bytes: u64,
    /// Prompts at once that one server is started for.
    pub(super) parallel: u32,
    /// Where its program is.
    pub(super) program: PathBuf,
    /// The program that keeps servers.
    pub(super) keeper: PathBuf,
    model: PathBuf,
    job: Job,
}

impl Plan {
    /// A plan for servers that have `gpus` each.
    pub(super) fn new(
        server: &Server,
        model: &Path,
        outline: Outline,
        job: &Job,
        gpus: &[Gpu],
    ) -> Result<Self, EngineError> {
        let program = server.command.first().map_or("", String::as_str);
        let program = command::find(program, &server.places).ok_or_else(|| {
            EngineError::work(format!(
                "this machine has no program `{program}`, which the engine {} is: install it, choose \
                 an image that has it, or say where it is with `--server-bin`",
                server.name
            ))
        })?;
        let keeper = crate::own::program().map_err(|error| {
            EngineError::work(format!("the worker's own program can't be found: {error}"))
        })?;
        let trained = outline.context;
        let reserved = server.parallel.reserved;
        let context = match job.limits.context {
            None if reserved => Some(CONTEXT.min(trained.unwrap_or(CONTEXT))),
            None => room(&outline, gpus),
            Some(context) => Some(context.min(trained.unwrap_or(context))),
        };
        let slot_bytes = context
            .filter(|_| reserved)
            .and_then(|context| Some(u64::from(context) * outline.token_bytes?));
        let free = match gpus {
            [] => available_memory().map(|bytes| bytes / MEMORY_SHARE),
            gpus => {
                let all: u64 = gpus.iter().map(|gpu| gpu.bytes).sum();
                Some((all / 10 * GPU_TENTHS).saturating_sub(outline.weight_bytes))
            }
        };
        let parallel = job.limits.batch.unwrap_or(server.parallel.most);
        let parallel = slots(parallel, job.limits.kv_bytes.or(free), slot_bytes);
        Ok(Self {
            common: Common {
                model: job.model.name.clone(),
                defaults: parse_defaults(&job.defaults)?,
                seed: job.seed,
                has_template: outline.has_template,
            },
            kv_bytes: slot_bytes.unwrap_or(0) * u64::from(parallel),
            server: server.clone(),
            outline,
            context,
            parallel,
            program,
            keeper,
            model: model.to_owned(),
            job: job.clone(),
        })
    }

    /// How a server is started on `port` for `parallel` prompts at once.
    pub(super) fn command_line(
        &self,
        port: u16,
        key: &str,
        parallel: u32,
        gpus: &[Gpu],
    ) -> Result<CommandLine, String> {
        let Job { model, limits, precision, seed, .. } = &self.job;
        let values = Values {
            model: &self.model,
            name: &model.name,
            port,
            key,
            parallel,
            context: self.context,
            gpus: Some(gpus.len()).filter(|count| 0 < *count),
            threads: limits.threads,
            precision: *precision,
            seed: *seed,
        };
        command::command_line(&self.server, &values)
    }
}

/// Tokens of one prompt and its answer for which a server's GPUs have memory, where that is less than
/// the model was trained for: some servers don't start then, unless they are told of less.
fn room(outline: &Outline, gpus: &[Gpu]) -> Option<u32> {
    let (trained, token_bytes) = (outline.context?, outline.token_bytes?.max(1));
    if gpus.is_empty() || outline.is_windowed {
        return None;
    }
    let all: u64 = gpus.iter().map(|gpu| gpu.bytes / 10 * GPU_TENTHS).sum();
    let taken = outline.weight_bytes + WORKING_BYTES * gpus.len() as u64;
    let tokens = all.saturating_sub(taken) / token_bytes;
    // With less than that the server says better what is wrong.
    let tokens = (tokens / 1024 * 1024).max(1024);
    u32::try_from(tokens).ok().filter(|tokens| *tokens < trained)
}

/// Prompts at once, of `most`, for which there is memory.
fn slots(most: u32, bytes: Option<u64>, slot_bytes: Option<u64>) -> u32 {
    let (Some(bytes), Some(slot @ 1..)) = (bytes, slot_bytes) else { return most.max(1) };
    u32::try_from(bytes / slot).unwrap_or(u32::MAX).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_that_the_memory_has_no_room_for_is_shortened() {
        // Llama 3.1 8B in 16 bits.
        let outline = Outline {
            weight_bytes: 16_060_000_000,
            context: Some(131_072),
            token_bytes: Some(131_072),
            ..Outline::default()
        };
        let gpus = |count: u32, gibibytes: u64| -> Vec<Gpu> {
            (0..count).map(|id| Gpu { id: id.to_string(), bytes: gibibytes << 30 }).collect()
        };
        assert_eq!(room(&outline, &gpus(1, 24)), Some(37 * 1024));
        assert_eq!(room(&outline, &gpus(1, 80)), None, "all of it fits");
        assert_eq!(room(&outline, &gpus(2, 24)), None, "each keeps a half");
        assert_eq!(room(&outline, &gpus(1, 16)), Some(1024));
        assert_eq!(room(&outline, &[]), None);
        assert_eq!(room(&Outline { is_windowed: true, ..outline }, &gpus(1, 24)), None);
    }

    #[test]
    fn there_are_as_many_prompts_at_once_as_there_is_memory_for() {
        assert_eq!(slots(32, Some(1000), Some(100)), 10);
        assert_eq!(slots(32, Some(100_000), Some(100)), 32);
        assert_eq!(slots(32, Some(1), Some(100)), 1);
        assert_eq!(slots(32, None, Some(100)), 32);
        assert_eq!(slots(32, Some(1), None), 32);
    }
}
