//! What is typed. What it means is in [`settings`](crate::settings).

use crate::{exit::Exit, model::Weights, plan::Rank, wish::Order};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::ArgPredicate};
use clap_complete::Shell;
use std::{fmt::Write as _, path::PathBuf, sync::LazyLock};

static EXIT_CODES: LazyLock<String> = LazyLock::new(|| {
    let mut text = "Exit codes:\n".to_owned();
    for (_, number, meaning) in Exit::TABLE {
        writeln!(text, "  {number:>3}  {meaning}").expect("a string takes any text");
    }
    text.push_str(
        "\nSettings come from flags, then the environment, then piecework.toml in this folder, \
         then piecework.toml in the user's configuration folder.",
    );
    text
});

/// Makes rented GPUs do work that others sell by the token.
#[derive(Debug, Parser)]
#[command(name = "piecework", version, after_help = EXIT_CODES.as_str(), max_term_width = 100)]
pub struct Cli {
    /// The folder where runs are kept.
    #[arg(long, global = true, env = "PIECEWORK_HOME", value_name = "FOLDER")]
    pub home: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Rents instances, answers all prompts, and gives the instances back.
    #[command(alias = "run")]
    ProvisionAndRun(Box<RunArgs>),
    /// Goes on where a run stopped.
    Resume(ResumeArgs),
    /// Shows what is for rent now, the cheapest first.
    Offers(Box<OffersArgs>),
    /// Shows what runs and what it costs, on every marketplace.
    Ps(PsArgs),
    /// Shows what a run did and cost, and what it would have cost elsewhere.
    Report(ReportArgs),
    /// Finds instances that dead runs have left, shows them, and ends them.
    Cleanup(CleanupArgs),
    /// Keeps the API key of a marketplace, once the marketplace has accepted it.
    Login(LoginArgs),
    /// Forgets the API key of a marketplace.
    Logout(LogoutArgs),
    /// Shows the marketplaces, where their API keys are kept, and what the accounts have left.
    Providers(ProvidersArgs),
    /// Prints a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Watches over a run, and gives back what it has rented should its program die.
    #[command(hide = true)]
    Guard {
        /// The run's folder.
        folder: PathBuf,
        /// Seconds that a dead run is left alone, so that it can be resumed.
        #[arg(long, env = "PIECEWORK_GUARD_GRACE", value_name = "SECONDS")]
        grace: Option<u64>,
    },
    /// Is an instance of the local marketplace.
    #[command(hide = true)]
    LocalInstance {
        /// The instance's folder.
        folder: PathBuf,
    },
}

/// What `provision-and-run` takes.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The prompts: files of JSON lines, plain lines, CSV or Parquet, also packed with gzip or
    /// zstd; patterns such as `'data/*.jsonl'`; the same in an object store, such as
    /// `s3://bucket/data.jsonl`; or `-` for standard input.
    #[arg(
        required = false,
        required_unless_present = "prompt_count",
        default_value_if("prompt_count", ArgPredicate::IsPresent, "-")
    )]
    pub prompts: Vec<PathBuf>,
    /// The model: a known name, `owner/name` on a hub, or a path.
    #[arg(long, short, env = "PIECEWORK_MODEL", value_name = "MODEL")]
    pub model: Option<String>,
    /// Where the completions go: a file, an object such as `s3://bucket/out.jsonl`, or `-` for
    /// standard output. The run's own folder, if it isn't given.
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How the completions are written: as `--out`'s name ends (`.csv`, `.parquet`, and `.gz` or
    /// `.zst` after another ending), or else in `OpenAI`'s batch format.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub out_format: Option<OutFormatName>,
    /// Overwrites what is there already.
    #[arg(long)]
    pub force: bool,
    /// What answers the prompts.
    #[arg(long, env = "PIECEWORK_ENGINE", value_enum)]
    pub engine: Option<EngineName>,
    /// A file that describes the inference server to answer with, in place of `--engine`.
    #[arg(long, env = "PIECEWORK_SERVER", value_name = "FILE", conflicts_with = "engine")]
    pub server: Option<PathBuf>,
    /// The inference server's program on the machine, where it isn't found by its name.
    #[arg(long, env = "PIECEWORK_SERVER_BIN", value_name = "PATH")]
    pub server_bin: Option<String>,
    /// How many instances to rent.
    #[arg(long, env = "PIECEWORK_MACHINES", value_name = "N")]
    pub machines: Option<u32>,
    /// What the run may cost, in dollars.
    #[arg(long, env = "PIECEWORK_BUDGET", value_name = "USD")]
    pub budget: Option<String>,
    /// When to stop at the latest, such as `90m` or `6h`. Without it that is after a day, or after as
    /// long as the run may need, which is a week at most.
    #[arg(long, env = "PIECEWORK_DEADLINE", value_name = "TIME")]
    pub deadline: Option<String>,
    /// How the prompts are written, where that can't be told by looking.
    #[arg(long, value_enum)]
    pub format: Option<FormatName>,
    /// The column, or the field of a JSON line, that is the prompt.
    #[arg(long, value_name = "NAME", conflicts_with = "template")]
    pub prompt_column: Option<String>,
    /// The column, or the field of a JSON line, that is the prompt's id.
    #[arg(long, value_name = "NAME")]
    pub id_column: Option<String>,
    /// Makes the prompt of a row's fields, such as `'Summarise: {{text}}'`, in the language of
    /// Jinja. A plain line is the field `text`.
    #[arg(long, value_name = "TEXT")]
    pub template: Option<String>,
    /// Gives `prompt`s to the model as they are, without its chat template.
    #[arg(long)]
    pub raw: bool,
    /// The most tokens of an answer, where a prompt doesn't say.
    #[arg(long, env = "PIECEWORK_MAX_TOKENS", value_name = "N")]
    pub max_tokens: Option<u32>,
    /// The temperature of sampling, where a prompt doesn't say. 0 always takes the likeliest token.
    #[arg(long, env = "PIECEWORK_TEMPERATURE", value_name = "T")]
    pub temperature: Option<f64>,
    /// The share of likely tokens to sample from, where a prompt doesn't say.
    #[arg(long, env = "PIECEWORK_TOP_P", value_name = "P")]
    pub top_p: Option<f64>,
    /// The seed of sampling, where a prompt doesn't say. Each prompt gets its own from it.
    #[arg(long, env = "PIECEWORK_SEED", value_name = "N")]
    pub seed: Option<u64>,
    /// Numbers to compute with, where the engine leaves a choice.
    #[arg(long, env = "PIECEWORK_PRECISION", value_enum)]
    pub precision: Option<PrecisionName>,
    /// What the native engine computes on; the processor where nothing is said.
    #[arg(long, env = "PIECEWORK_DEVICE", value_enum)]
    pub device: Option<DeviceName>,
    /// How many prompts the engine answers at once, at most.
    #[arg(long, env = "PIECEWORK_BATCH", value_name = "N")]
    pub batch: Option<u32>,
    /// How many tokens a prompt and its answer may have, at most.
    #[arg(long, env = "PIECEWORK_CONTEXT", value_name = "N")]
    pub context: Option<u32>,
    /// How many threads the engine computes with.
    #[arg(long, env = "PIECEWORK_THREADS", value_name = "N")]
    pub threads: Option<u32>,
    /// Memory for the engine's KV cache, such as `2GB`.
    #[arg(long, env = "PIECEWORK_KV_MEMORY", value_name = "SIZE")]
    pub kv_memory: Option<String>,
    /// Answers per second of the echo engine, at most.
    #[arg(long, hide = true, value_name = "N")]
    pub echo_pace: Option<u32>,
    /// Shows what would be rented and what it may cost, and rents nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Which instances will do.
    #[command(flatten)]
    pub wish: WishArgs,
    /// What a plan is to be made with.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// How a run is told.
    #[command(flatten)]
    pub telling: TellingArgs,
}

/// Which instances will do.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which instances")]
pub struct WishArgs {
    /// A marketplace. May be given several times; `all` means every one that there is a key for.
    #[arg(long, env = "PIECEWORK_PROVIDER", value_name = "NAME", value_delimiter = ',')]
    pub provider: Vec<String>,
    /// The GPU, or a part of its name, such as `4090` or `h100`.
    #[arg(long, value_name = "NAME")]
    pub gpu: Option<String>,
    /// Memory of each GPU, at least, such as `24GB`. A plan for a model of unknown size needs it.
    #[arg(long, value_name = "SIZE")]
    pub vram: Option<String>,
    /// How many GPUs, exactly.
    #[arg(long, value_name = "N")]
    pub count: Option<u32>,
    /// What an instance may cost an hour, in dollars.
    #[arg(long, env = "PIECEWORK_MAX_PRICE", value_name = "USD")]
    pub max_price: Option<String>,
    /// Disk, at least. It is part of the price.
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<String>,
    /// Takes instances too that can be taken back.
    #[arg(long)]
    pub interruptible: bool,
    /// Where it stands, such as `US`, `sweden` or `eu-north`.
    #[arg(long, value_name = "PLACE")]
    pub region: Option<String>,
    /// How far its host has been checked, at least.
    #[arg(long, value_enum)]
    pub trust: Option<TrustName>,
}

/// What a plan is made with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Plans, with --dry-run")]
pub struct PlanArgs {
    /// What is best: the cheapest job, the cheapest hour, or the soonest end.
    #[arg(long, value_enum, value_name = "WHAT", requires = "dry_run")]
    pub rank: Option<Rank>,
    /// How many prompts to plan for, without a file of them.
    #[arg(long, value_name = "N", requires = "dry_run", conflicts_with = "prompts")]
    pub prompt_count: Option<u64>,
    /// Tokens of a prompt, on average. Estimated from the prompts, if it isn't given.
    #[arg(long, value_name = "N", requires = "dry_run")]
    pub input_tokens: Option<f64>,
    /// Tokens of an answer, on average. The most that is allowed, if it isn't given.
    #[arg(long, value_name = "N", requires = "dry_run")]
    pub output_tokens: Option<f64>,
    /// How the weights may be kept. May be given several times.
    #[arg(long, value_enum, value_name = "BITS", requires = "dry_run")]
    pub weights: Vec<Weights>,
    /// Lists the offers that can't do it, each with its reason.
    #[arg(long, requires = "dry_run")]
    pub explain: bool,
}

/// How a command tells what happens.
#[derive(Debug, Args)]
pub struct TellingArgs {
    /// Doesn't ask before money is spent.
    #[arg(long, short)]
    pub yes: bool,
    /// Events as JSON, one a line, on standard output.
    #[arg(long)]
    pub json: bool,
    /// The worker's binary, where it isn't beside this one.
    #[arg(long, env = "PIECEWORK_WORKER", value_name = "FILE")]
    pub worker: Option<PathBuf>,
}

/// What `resume` takes.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The run: its name, the end of its name, its folder, or `last`.
    pub run: String,
    /// Tries prompts again that could not be answered.
    #[arg(long)]
    pub retry_failed: bool,
    /// When to stop this session at the latest, such as `90m` or `6h`.
    #[arg(long, value_name = "TIME")]
    pub deadline: Option<String>,
    /// What the whole run may cost, in dollars.
    #[arg(long, value_name = "USD")]
    pub budget: Option<String>,
    /// How it is told.
    #[command(flatten)]
    pub telling: TellingArgs,
}

/// What `offers` takes.
#[derive(Debug, Args)]
pub struct OffersArgs {
    /// Which instances will do.
    #[command(flatten)]
    pub wish: WishArgs,
    /// What comes first.
    #[arg(long, value_enum, default_value_t)]
    pub sort: Order,
    /// How many to show; 0 shows all. 20 where it isn't given, and all as JSON or CSV.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Says of each other offer why it isn't shown.
    #[arg(long)]
    pub explain: bool,
    /// How long a marketplace may take to answer.
    #[arg(long, default_value = "20s", value_name = "TIME")]
    pub timeout: String,
    /// As JSON, one offer a line.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// As CSV, with a line of names.
    #[arg(long)]
    pub csv: bool,
}

/// What `login` takes. The key itself is asked for, or read from standard input.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The marketplace.
    pub provider: String,
    /// Keeps the key in a file that only its owner can read, and not in the system's keyring.
    #[arg(long)]
    pub file: bool,
}

/// What `logout` takes.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The marketplace.
    pub provider: String,
    /// Even if something there may still be billed, which then can't be ended from here.
    #[arg(long)]
    pub force: bool,
}

/// What `providers` takes.
#[derive(Debug, Args)]
pub struct ProvidersArgs {
    /// As JSON, one marketplace a line.
    #[arg(long)]
    pub json: bool,
}

/// What `ps` takes.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// As JSON, one instance a line.
    #[arg(long)]
    pub json: bool,
}

/// What `report` takes.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run: its name, the end of its name, its folder, or `last`.
    pub run: String,
    /// As JSON: one object.
    #[arg(long)]
    pub json: bool,
    /// Writes it as a page that needs nothing else, for any browser.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What `cleanup` takes.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that is typed or not")]
pub struct CleanupArgs {
    /// Doesn't ask before it ends anything.
    #[arg(long, short)]
    pub yes: bool,
    /// Ends instances of other computers' runs too, which may still be at work.
    #[arg(long)]
    pub all_owners: bool,
    /// Looks again every minute, and ends what it finds, until it is stopped.
    #[arg(long, requires = "yes")]
    pub watch: bool,
    /// Ends nothing, and counts what was rented under this label as given back: for what was
    /// rented with a key that is no more, once you have seen that it is gone.
    #[arg(long, value_name = "LABEL", conflicts_with_all = ["all_owners", "watch", "json"])]
    pub forget: Option<String>,
    /// As JSON, one instance a line.
    #[arg(long)]
    pub json: bool,
}

/// An engine, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// The model runs inside the worker.
    Native,
    /// No model: each prompt is its own answer. For tests and measurements.
    Echo,
    /// vLLM, on the machine's GPUs.
    Vllm,
    /// `SGLang`, on the machine's GPUs.
    Sglang,
    /// llama.cpp's server, for GGUF files, on GPUs or the CPU.
    LlamaCpp,
}

/// What the native engine computes on, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceName {
    /// The machine's processor.
    Cpu,
    /// The machine's first NVIDIA GPU.
    Cuda,
}

/// How far a host has been checked, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustName {
    /// In a data centre that the marketplace runs or vouches for.
    Datacenter,
    /// Tested by the marketplace, or in a data centre.
    Verified,
    /// Anybody's computer.
    Any,
}

/// A format of prompts, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    /// A JSON object a line: `prompt`, `messages`, or a request of an `OpenAI` batch.
    Jsonl,
    /// Each line is a prompt.
    Text,
    /// A table whose first row names its columns.
    Csv,
    /// A table in Apache Parquet.
    Parquet,
}

/// A format of completions, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutFormatName {
    /// All of each answer, as `OpenAI`'s batch API gives it.
    Openai,
    /// A JSON object a line, with `id`, `choice`, `text`, `finish_reason` and the tokens.
    Jsonl,
    /// A table with these columns.
    Csv,
    /// The same in Apache Parquet.
    Parquet,
}

/// Numbers to compute with, as they are typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionName {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// 16-bit floats with the exponent of 32-bit ones.
    Bf16,
}
