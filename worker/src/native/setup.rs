//! Bringing the engine up.

use super::{
    kv_cache::{BLOCK, Cache, HalfBits},
    matrix::Kept,
    memory,
    model::Model,
    model_files::ModelFiles,
    request::Defaults,
    run,
    template::Template,
    vocabulary::Vocabulary,
};
use crate::engine::{Engine, EngineError, Outlet, Prompts};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::{Map, Value};
use std::path::Path;
use wire::{EngineFacts, Job, Precision};

/// Prompts decoded at once where the job doesn't say.
const BATCH: usize = 64;

/// Tokens in a step: enough to keep the products busy, and few enough that answers under way
/// don't wait long.
const STEP_TOKENS: usize = 512;

/// The part of the free memory that the KV cache may take where the job doesn't say: one in this.
const KV_SHARE: u64 = 2;

/// Bytes of the KV cache where neither the job nor the system says anything.
const KV_BYTES: u64 = 1 << 30;

/// The engine, loaded.
#[derive(Debug)]
pub(super) struct Native {
    pub(super) model: Model,
    pub(super) vocabulary: Vocabulary,
    pub(super) template: Option<Template>,
    pub(super) defaults: Defaults,
    /// The model's name in responses.
    pub(super) name: String,
    /// Tokens that a prompt and its answer may have together.
    pub(super) context: usize,
    /// Prompts decoded at once.
    pub(super) batch: usize,
    /// Tokens in a step.
    pub(super) step_tokens: usize,
    /// Blocks of the KV cache.
    pub(super) blocks: usize,
    /// Whether keys and values are kept as 32 bits and not as 16.
    wide_kv: bool,
    /// Whether prompts that begin alike share their blocks.
    pub(super) sharing: bool,
    pool: ThreadPool,
    facts: EngineFacts,
}

/// Loads a model from a folder in Hugging Face's layout or from a GGUF file.
///
/// `progress` is told the bytes read so far and in all. Weights that a GGUF file has in 8 or
/// 4 bits stay so and multiply activations of 8 bits, unless the job says what it wants; others are
/// kept as 32-bit floats. Keys and values are kept as 16-bit floats, unless the job wants 32. Without bounds in the job, 64 prompts
/// are decoded at once, by all processors, and the KV cache takes at most half of the memory that
/// is free once the weights are in it, and never more than those prompts can fill.
pub fn load(
    path: &Path,
    job: &Job,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(Native::load(path, job, progress)?))
}

impl Native {
    fn load(
        path: &Path,
        job: &Job,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let threads = job.limits.threads.map_or(0, |threads| threads as usize);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("native-{index}"))
            .build()
            .map_err(|error| EngineError(format!("no threads can be started: {error}")))?;
        let kept = match job.precision {
            None => Kept::Stored,
            Some(Precision::F32) => Kept::F32,
            Some(Precision::F16) => Kept::F16,
            Some(Precision::Bf16) => Kept::Bf16,
        };
        let job_defaults = parse_defaults(&job.defaults)?;
        let ModelFiles { config, tensors, vocabulary, template, generation } =
            ModelFiles::open(path)?;
        let model =
            load_on(&pool, progress, |progress| Model::load(config, &tensors, kept, progress))?;
        drop(tensors);
        let config = model.config();
        let context = job.limits.context.map_or(config.context, |context| context as usize);
        let context = context.min(config.context);
        let batch = job.limits.batch.map_or(BATCH, |batch| batch as usize).max(1);
        // Who asks for 32 bits wants them throughout.
        let wide_kv = kept == Kept::F32;
        let block_bytes = if wide_kv {
            Cache::<f32>::block_bytes(config)
        } else {
            Cache::<HalfBits>::block_bytes(config)
        };
        let useful = (batch * (context.div_ceil(BLOCK) + 1)) as u64;
        let kv_bytes = job
            .limits
            .kv_bytes
            .or_else(|| memory::available().map(|bytes| bytes / KV_SHARE))
            .unwrap_or(KV_BYTES);
        let blocks = usize::try_from((kv_bytes / block_bytes).min(useful)).unwrap_or(usize::MAX);
        if blocks == 0 {
            return Err(EngineError(format!(
                "the KV cache may take {kv_bytes} bytes, and its least part takes {block_bytes}: \
                 allow more, or choose a smaller model"
            )));
        }
        // One that fills the whole cache can still be answered alone.
        let context = context.min(blocks * BLOCK);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let kind = model.kind();
        let threads = pool.current_num_threads();
        let plural = if threads == 1 { "" } else { "s" };
        let facts = EngineFacts {
            name: format!("native, CPU, {threads} thread{plural}, {kind}"),
            context: number(context),
            batch: number(batch),
            weight_bytes: model.bytes(),
            kv_bytes: blocks as u64 * block_bytes,
        };
        let has_template = template.is_some();
        Ok(Self {
            model,
            vocabulary,
            template,
            defaults: Defaults {
                job: job_defaults,
                model: generation,
                seed: job.seed,
                has_template,
            },
            name: job.model.name.clone(),
            context,
            batch,
            step_tokens: STEP_TOKENS.max(2 * batch),
            blocks,
            wide_kv,
            sharing: true,
            pool,
            facts,
        })
    }
}

/// Runs `load` on the pool's threads, its progress on this one.
fn load_on<R: Send>(
    pool: &ThreadPool,
    progress: &mut dyn FnMut(u64, u64),
    load: impl FnOnce(&mut dyn FnMut(u64, u64)) -> R + Send,
) -> R {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let loading = scope.spawn(move || {
            pool.install(|| {
                load(&mut |done, total| {
                    // With nobody listening there is nobody to tell.
                    sender.send((done, total)).unwrap_or_default();
                })
            })
        });
        for (done, total) in receiver {
            progress(done, total);
        }
        loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Engine for Native {
    fn facts(&self) -> EngineFacts {
        self.facts.clone()
    }

    fn run(self: Box<Self>, prompts: Prompts, outlet: Outlet) -> Result<(), EngineError> {
        self.pool.install(|| {
            if self.wide_kv {
                run::run::<f32>(&self, prompts, &outlet);
            } else {
                run::run::<HalfBits>(&self, prompts, &outlet);
            }
        });
        Ok(())
    }
}

/// The job's default parameters.
pub(crate) fn parse_defaults(text: &str) -> Result<Map<String, Value>, EngineError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|error| {
        EngineError(format!("the default parameters of the run are no JSON object: {error}"))
    })
}
