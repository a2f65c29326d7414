//! An inference server: how it is started, asked and understood.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An inference server that speaks `OpenAI`'s protocol over HTTP.
///
/// The texts of `command`, `options` and `environment` may hold placeholders: `{model}` the path
/// of the model, `{name}` what responses call it, `{port}` where to listen on 127.0.0.1, `{key}`
/// the API key that requests come with, `{parallel}` prompts at once, `{context}` tokens of a
/// prompt and its answer, `{context_all}` the same times `{parallel}`, `{gpus}` the number of GPUs,
/// `{threads}`, `{precision}` as `float32`, `float16` or `bfloat16`, and `{seed}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its name, for people.
    pub name: String,
    /// The program, looked up where its name has no slash, and arguments. Every placeholder in
    /// here must have a value.
    pub command: Vec<String>,
    /// Further arguments, in groups. A group with a placeholder that has no value, because the job
    /// leaves it to the engine or the machine has no GPU, is left out.
    #[serde(default)]
    pub options: Vec<Vec<String>>,
    /// Variables of its environment, besides the worker's own.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Folders in which the program is looked for after those of `PATH`: a shell over SSH often
    /// lacks those that the machine's image has put it in.
    #[serde(default)]
    pub places: Vec<String>,
    /// The path that answers 200 when it can take prompts, and while it lives.
    pub ready: String,
    /// The page that tells of its progress.
    #[serde(default)]
    pub metrics: Option<Metrics>,
    /// Parts of log lines and error messages that mean that the GPU's memory is exhausted.
    #[serde(default)]
    pub out_of_memory: Vec<String>,
    /// Prompts at once.
    pub parallel: Parallel,
    /// What to wait for, and how long.
    #[serde(default)]
    pub patience: Patience,
}

/// A page of metrics in Prometheus's text format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Its path.
    pub path: String,
    /// The metrics that change as long as the server gets anywhere.
    pub names: Vec<String>,
}

/// How many prompts a server is given at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parallel {
    /// The number that the search for the best begins with.
    pub start: u32,
    /// The most.
    pub most: u32,
    /// Whether the server sets memory aside for a whole context of each, so that the machine's
    /// memory bounds them.
    #[serde(default)]
    pub reserved: bool,
}

/// How long a server may take for things, in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patience {
    /// To load the model and answer.
    pub load: u32,
    /// To get anywhere, when it doesn't say that it lives either.
    pub silent: u32,
    /// To get anywhere, though it says that it lives. Also the least that one prompt may take.
    pub stalled: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { load: 1800, silent: 60, stalled: 900 }
    }
}
