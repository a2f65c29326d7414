//! Bringing the engine up.

use super::{
    cuda,
    executor::Executor,
    kv_cache::{BLOCK, HalfBits},
    matrix::Kept,
    model::Model,
    model_files::ModelFiles,
    processor::Processor,
    request::Defaults,
    run,
    scheduler::Bounds,
    template::Template,
    vocabulary::Vocabulary,
};
use crate::engine::{Engine, EngineError, Outlet, Prompts};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::{Map, Value};
use std::path::Path;
use wire::{Device, EngineFacts, Fault, Job, Precision};

/// How much is done at once where the job doesn't say.
#[derive(Clone, Copy, Debug)]
struct Usual {
    /// Prompts decoded.
    batch: usize,
    /// Tokens in a step: enough to keep the products busy, and few enough that answers under way don't
    /// wait long.
    step_tokens: usize,
}

const ON_CPU: Usual = Usual { batch: 64, step_tokens: 512 };

/// A step has room for a prompt's 1,000 tokens and more beside the answers.
const ON_GPU: Usual = Usual { batch: 512, step_tokens: 4096 };

/// Bytes of the KV cache where neither the job nor the system says anything.
const KV_BYTES: u64 = 1 << 30;

/// What answering goes by.
#[derive(Debug)]
pub(super) struct Native {
    pub(super) vocabulary: Vocabulary,
    /// Tokens that the model knows.
    pub(super) vocabulary_size: usize,
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
    /// Whether prompts that begin alike share their blocks.
    pub(super) sharing: bool,
    /// Whether a step begins before the tokens of the one before it are known.
    pub(super) ahead: bool,
}

/// The engine, loaded.
#[derive(Debug)]
pub(super) struct Loaded {
    /// What answering goes by.
    pub(super) native: Native,
    /// What computes.
    pub(super) executor: Box<dyn Executor>,
    pool: ThreadPool,
    facts: EngineFacts,
}

/// Opens what a job is to be computed by, whatever its model: a machine that is of no use is found out before
/// a model is fetched for it. What is returned is kept until the model is loaded.
pub fn open(job: &Job) -> Result<impl Sized + use<>, EngineError> {
    let is_on_gpu = job.limits.device == Some(Device::Cuda);
    is_on_gpu.then(|| cuda::find(job.precision)).transpose()
}

/// Loads a model from a folder in Hugging Face's layout or from a GGUF file.
///
/// `progress` is told the bytes read so far and in all. Weights that a GGUF file has in 8 or
/// 4 bits stay so and multiply activations of 8 bits, unless the job says what it wants; others are
/// kept as 32-bit floats. Keys and values are kept as 16-bit floats, unless the job wants 32. Without bounds in the job, 64 prompts
/// are decoded at once, by all processors, and the KV cache takes at most half of the memory that
/// is free once the weights are in it, and never more than those prompts can fill. Where the job asks
/// for CUDA, the machine's first GPU computes in 16 bits; 512 prompts are decoded at once, and the KV
/// cache may take nearly all of the GPU's memory that is left.
pub fn load(
    path: &Path,
    job: &Job,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(Loaded::load(path, job, &cuda::open, progress)?))
}

impl Loaded {
    /// `open` opens the GPU, where the job asks for one.
    pub(super) fn load(
        path: &Path,
        job: &Job,
        open: cuda::Open<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let threads = job.limits.threads.map_or(0, |threads| threads as usize);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("native-{index}"))
            .build()
            .map_err(|error| EngineError::work(format!("no threads can be started: {error}")))?;
        let kept = match job.precision {
            None => Kept::Stored,
            Some(Precision::F32) => Kept::F32,
            Some(Precision::F16) => Kept::F16,
            Some(Precision::Bf16) => Kept::Bf16,
        };
        let job_defaults = parse_defaults(&job.defaults)?;
        let ModelFiles { config, tensors, vocabulary, template, generation } =
            ModelFiles::open(path)?;
        let (threads, on_gpu) =
            (pool.current_num_threads(), job.limits.device == Some(Device::Cuda));
        let usual = if on_gpu { ON_GPU } else { ON_CPU };
        let batch = job.limits.batch.map_or(usual.batch, |batch| batch as usize).max(1);
        let step_tokens = usual.step_tokens.max(2 * batch);
        let mut executor: Box<dyn Executor> = load_on(&pool, progress, |progress| {
            if on_gpu {
                let bounds = Bounds { sequences: batch, tokens: step_tokens };
                let gpu = cuda::load(config, &tensors, job.precision, bounds, open, progress)?;
                return Ok(Box::new(gpu) as Box<dyn Executor>);
            }
            let model = Model::load(config, &tensors, kept, progress)?;
            // Who asks for 32 bits wants them throughout.
            Ok(if kept == Kept::F32 {
                Box::new(Processor::<f32>::new(model, threads))
            } else {
                Box::new(Processor::<HalfBits>::new(model, threads))
            })
        })?;
        drop(tensors);
        let config = executor.config();
        let vocabulary_size = config.vocabulary;
        let context = job.limits.context.map_or(config.context, |context| context as usize);
        let context = context.min(config.context);
        let block_bytes = executor.block_bytes();
        let useful = (batch * (context.div_ceil(BLOCK) + 1)) as u64;
        let kv_bytes = job.limits.kv_bytes.or(executor.room()?).unwrap_or(KV_BYTES);
        let blocks = usize::try_from((kv_bytes / block_bytes).min(useful)).unwrap_or(usize::MAX);
        if blocks == 0 {
            // What a GPU has no room for another may have; what the job allows is the same anywhere.
            let is_machines = on_gpu && job.limits.kv_bytes.is_none();
            let fault = if is_machines { Fault::Machine } else { Fault::Work };
            let reason = format!(
                "the KV cache may take {kv_bytes} bytes, and its least part takes {block_bytes}: \
                 allow more, or choose a smaller model"
            );
            return Err(EngineError { fault, reason });
        }
        // One that fills the whole cache can still be answered alone.
        let context = context.min(blocks * BLOCK);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        pool.install(|| executor.keep(blocks))?;
        let facts = EngineFacts {
            name: format!("native, {}", executor.kind()),
            context: number(context),
            batch: number(batch),
            weight_bytes: executor.weight_bytes(),
            kv_bytes: blocks as u64 * block_bytes,
        };
        let has_template = template.is_some();
        let native = Native {
            vocabulary,
            vocabulary_size,
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
            step_tokens,
            blocks,
            sharing: true,
            ahead: executor.runs_ahead(),
        };
        Ok(Self { native, executor, pool, facts })
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

impl Engine for Loaded {
    fn facts(&self) -> EngineFacts {
        self.facts.clone()
    }

    fn run(self: Box<Self>, prompts: Prompts, outlet: Outlet) -> Result<(), EngineError> {
        let Self { native, mut executor, pool, .. } = *self;
        pool.install(|| run::run(&native, &mut *executor, prompts, &outlet))
    }
}

/// The job's default parameters.
pub(crate) fn parse_defaults(text: &str) -> Result<Map<String, Value>, EngineError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|error| {
        EngineError::work(format!("the default parameters of the run are no JSON object: {error}"))
    })
}
