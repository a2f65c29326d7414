//! What is meant: flags, then the environment, then the project's file, then the user's, then
//! defaults. One line a setting.

mod places;
mod prices;
mod values;

pub use places::{cache, home, worker};
pub use prices::hosted_prices;
pub use values::{memory, time, usd};

use crate::{
    catalogue::{self, ModelError},
    cli::{
        DeviceName, EngineName, FormatName, OutFormatName, PrecisionName, RunArgs, TrustName,
        WishArgs,
    },
    prompts::{Format, LINE_LIMIT, Options, PromptsError, check_template},
    servers::{self, ServerError},
    shards::{Layout, OutFormat, Packing},
    template::Patience,
    wish::Wish,
};
use etcetera::{BaseStrategy, HomeDirError, base_strategy::choose_base_strategy};
use providers::{Trust, Usd, UsdPerHour};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use values::size;
use wire::{Device, EngineKind, Job, Limits, Model, Precision};

/// The name of a file of settings.
const FILE: &str = "piecework.toml";

/// The marketplace where none is named: this computer.
const DEFAULT_PROVIDER: &str = "local";

/// Instances that a run may have.
const MACHINES: std::ops::RangeInclusive<u32> = 1..=64;

/// Settings that make no sense, and which.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value that can't be read.
    #[error("`{value}` is no {what}; write it like {example}")]
    Value {
        /// What was given.
        value: String,
        /// What it should be.
        what: &'static str,
        /// How it is written.
        example: &'static str,
    },
    /// A value that is out of range.
    #[error("`--{flag}` must be {range}")]
    Range {
        /// Which flag.
        flag: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// A file of settings can't be read.
    #[error("`{}` can't be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of settings makes no sense.
    #[error("`{}` makes no sense", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// There is no such model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// What nothing could read.
    #[error(
        "Parquet compresses its own columns; give `--out` a name that ends in `.parquet` alone"
    )]
    PackedParquet,
    /// The template makes no sense.
    #[error(transparent)]
    Template(#[from] PromptsError),
    /// There is no such inference server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// There is nowhere to keep anything.
    #[error("the user has no home folder; name a folder with `--home`")]
    NoHome(#[from] HomeDirError),
    /// The worker's binary is missing.
    #[error("the worker `{}` is missing; build it with `cargo build --release`, or name it with `--worker`", .0.display())]
    NoWorker(PathBuf),
}

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to read the prompts.
    pub prompts: Options,
    /// How to write the completions.
    pub out_format: OutFormat,
    /// What to answer them with.
    pub job: Job,
    /// Where to rent.
    pub providers: Vec<String>,
    /// How many instances, where it is said.
    pub machines: Option<u32>,
    /// Which instances will do.
    pub wish: Wish,
    /// What the run may cost.
    pub budget: Option<Usd>,
    /// How long it may take.
    pub deadline: Option<Duration>,
}

/// A file of settings. Every key is a flag's name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    model: Option<String>,
    provider: Option<Names>,
    gpu: Option<String>,
    vram: Option<String>,
    count: Option<u32>,
    disk: Option<String>,
    interruptible: Option<bool>,
    region: Option<String>,
    trust: Option<TrustName>,
    engine: Option<EngineName>,
    machines: Option<u32>,
    max_price: Option<f64>,
    budget: Option<f64>,
    deadline: Option<String>,
    max_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<u64>,
    precision: Option<PrecisionName>,
    device: Option<DeviceName>,
    batch: Option<u32>,
    context: Option<u32>,
    threads: Option<u32>,
    kv_memory: Option<String>,
}

/// One name, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    fn all(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.clone()],
            Self::Several(names) => names.clone(),
        }
    }
}

impl Settings {
    /// Puts together what the flags (and the environment, which counts as flags) and the files say.
    pub fn new(args: &RunArgs) -> Result<Self, SettingsError> {
        let user = choose_base_strategy()?.config_dir().join("piecework").join(FILE);
        let (project, user) = (read(Path::new(FILE))?, read(&user)?);
        Self::merge(args, &project, &user)
    }

    fn merge(args: &RunArgs, project: &File, user: &File) -> Result<Self, SettingsError> {
        let model = args.model.as_ref().or(project.model.as_ref()).or(user.model.as_ref());
        let named = project.provider.as_ref().or(user.provider.as_ref()).map(Names::all);
        let typed = Some(args.wish.provider.clone()).filter(|typed| !typed.is_empty());
        let providers = typed.or(named).unwrap_or_else(|| vec![DEFAULT_PROVIDER.to_owned()]);
        // What is rented is rented for its GPU.
        let here = providers.iter().all(|name| name == DEFAULT_PROVIDER);
        let usual = if here { EngineName::Native } else { EngineName::Vllm };
        let engine = args.engine.or(project.engine).or(user.engine).unwrap_or(usual);
        let machines = args.machines.or(project.machines).or(user.machines);
        let budget = dollars(args.budget.as_deref(), project.budget, user.budget)?;
        let deadline =
            args.deadline.as_ref().or(project.deadline.as_ref()).or(user.deadline.as_ref());
        let max_tokens = args.max_tokens.or(project.max_tokens).or(user.max_tokens);
        let temperature = args.temperature.or(project.temperature).or(user.temperature);
        let top_p = args.top_p.or(project.top_p).or(user.top_p);
        let seed = args.seed.or(project.seed).or(user.seed).unwrap_or(0);
        let precision = args.precision.or(project.precision).or(user.precision);
        let device = args.device.or(project.device).or(user.device).map(|device| match device {
            DeviceName::Cpu => Device::Cpu,
            DeviceName::Cuda => Device::Cuda,
        });
        let batch = args.batch.or(project.batch).or(user.batch);
        let context = args.context.or(project.context).or(user.context);
        let threads = args.threads.or(project.threads).or(user.threads);
        let kv = args.kv_memory.as_ref().or(project.kv_memory.as_ref()).or(user.kv_memory.as_ref());

        if machines.is_some_and(|machines| !MACHINES.contains(&machines)) {
            return Err(SettingsError::Range { flag: "machines", range: "from 1 to 64" });
        }
        for (flag, zero) in [
            ("max-tokens", max_tokens == Some(0)),
            ("batch", batch == Some(0)),
            ("context", context == Some(0)),
            ("threads", threads == Some(0)),
        ] {
            if zero {
                return Err(SettingsError::Range { flag, range: "at least 1" });
            }
        }
        if temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)) {
            return Err(SettingsError::Range { flag: "temperature", range: "from 0 to 2" });
        }
        if top_p.is_some_and(|p| !(0.0 < p && p <= 1.0)) {
            return Err(SettingsError::Range { flag: "top-p", range: "above 0 and at most 1" });
        }
        if let Some(template) = &args.template {
            check_template(template)?;
        }
        let engine = engine_kind(engine, args)?;
        // In a file it is for when the engine is.
        if args.device.is_some() && engine != EngineKind::Native {
            return Err(SettingsError::Range {
                flag: "device",
                range: "left out unless the engine is `native`: others choose for themselves",
            });
        }
        let kv_bytes = kv.map(|text| size(text)).transpose()?;
        let limits = Limits { threads, kv_bytes, batch, context, device };
        Ok(Self {
            prompts: Options {
                format: args.format.map(format),
                prompt_column: args.prompt_column.clone(),
                id_column: args.id_column.clone(),
                template: args.template.clone(),
                raw: args.raw,
                line_limit: LINE_LIMIT,
            },
            out_format: out_format(args)?,
            job: Job {
                model: match (&engine, model) {
                    (EngineKind::Echo { .. }, _) => {
                        Model { name: "echo".to_owned(), sources: Vec::new() }
                    }
                    (_, Some(text)) => catalogue::resolve(text)?,
                    (_, None) => catalogue::default_model(),
                },
                engine,
                precision: precision.map(|precision| match precision {
                    PrecisionName::F32 => Precision::F32,
                    PrecisionName::F16 => Precision::F16,
                    PrecisionName::Bf16 => Precision::Bf16,
                }),
                limits,
                seed,
                defaults: defaults(max_tokens, temperature, top_p),
            },
            providers,
            machines,
            wish: wish_of(&args.wish, project, user)?,
            budget,
            deadline: deadline.map(|text| time(text)).transpose()?,
        })
    }
}

fn engine_kind(engine: EngineName, args: &RunArgs) -> Result<EngineKind, SettingsError> {
    let known = |name| servers::named(name).expect("a test reads these").clone();
    let mut server = match (&args.server, engine) {
        (Some(path), _) => servers::read(path)?,
        (None, EngineName::Native) => return Ok(EngineKind::Native),
        (None, EngineName::Echo) => return Ok(EngineKind::Echo { pace: args.echo_pace }),
        (None, EngineName::Vllm) => known("vllm"),
        (None, EngineName::Sglang) => known("sglang"),
        (None, EngineName::LlamaCpp) => known("llama-cpp"),
    };
    if let (Some(program), Some(first)) = (&args.server_bin, server.command.first_mut()) {
        first.clone_from(program);
    }
    Ok(EngineKind::Server(Box::new(server)))
}

/// What is typed about instances, and nothing else.
pub fn wish(args: &WishArgs) -> Result<Wish, SettingsError> {
    wish_of(args, &File::default(), &File::default())
}

fn wish_of(args: &WishArgs, project: &File, user: &File) -> Result<Wish, SettingsError> {
    let max_price = dollars(args.max_price.as_deref(), project.max_price, user.max_price)?;
    let size = |typed: &Option<String>, project: &Option<String>, user: &Option<String>| {
        let text = typed.as_ref().or(project.as_ref()).or(user.as_ref());
        text.map(|text| memory(text)).transpose().map(Option::unwrap_or_default)
    };
    let gpu = args.gpu.as_ref().or(project.gpu.as_ref()).or(user.gpu.as_ref());
    let region = args.region.as_ref().or(project.region.as_ref()).or(user.region.as_ref());
    let interruptible = project.interruptible.or(user.interruptible).unwrap_or(false);
    Ok(Wish {
        vram: size(&args.vram, &project.vram, &user.vram)?,
        gpu: gpu.cloned(),
        count: args.count.or(project.count).or(user.count),
        ceiling: max_price.map(|usd| UsdPerHour(usd.0)),
        interruptible: args.interruptible || interruptible,
        region: region.cloned(),
        trust: match args.trust.or(project.trust).or(user.trust) {
            None | Some(TrustName::Any) => Trust::Anyone,
            Some(TrustName::Verified) => Trust::Verified,
            Some(TrustName::Datacenter) => Trust::Datacenter,
        },
        disk: size(&args.disk, &project.disk, &user.disk)?,
    })
}

/// How patient the watchdogs of rented machines are. `PIECEWORK_WATCHDOG` has other seconds than
/// the usual ones until the first word and until the next, such as `2700,900`.
pub fn watchdog() -> Result<Patience, SettingsError> {
    let Ok(text) = std::env::var("PIECEWORK_WATCHDOG") else {
        return Ok(Patience::default());
    };
    let wrong = || SettingsError::Value {
        value: text.clone(),
        what: "patience of a watchdog",
        example: "`2700,900`",
    };
    let (boot, silence) = text.split_once(',').ok_or_else(wrong)?;
    let seconds = |text: &str| text.trim().parse().map(Duration::from_secs).map_err(|_| wrong());
    let (boot, silence) = (seconds(boot)?, seconds(silence)?);
    let step = Patience::default().step.min(silence / 3).max(Duration::from_secs(1));
    Ok(Patience { boot, silence, step })
}

fn dollars(
    flag: Option<&str>,
    project: Option<f64>,
    user: Option<f64>,
) -> Result<Option<Usd>, SettingsError> {
    match (flag, project.or(user)) {
        (Some(text), _) => usd(text).map(Some),
        (None, Some(amount)) => usd(&amount.to_string()).map(Some),
        (None, None) => Ok(None),
    }
}

/// The format that is named, compressed as the name of the file says.
fn out_format(args: &RunArgs) -> Result<OutFormat, SettingsError> {
    let named = args.out.as_deref().map(OutFormat::named).unwrap_or_default();
    let layout = match args.out_format {
        Some(OutFormatName::Openai) => Layout::OpenAi,
        Some(OutFormatName::Jsonl) => Layout::Jsonl,
        Some(OutFormatName::Csv) => Layout::Csv,
        Some(OutFormatName::Parquet) => Layout::Parquet,
        None => named.layout,
    };
    if layout == Layout::Parquet && named.packing != Packing::None {
        return Err(SettingsError::PackedParquet);
    }
    Ok(OutFormat { layout, ..named })
}

fn format(name: FormatName) -> Format {
    match name {
        FormatName::Jsonl => Format::Jsonl,
        FormatName::Text => Format::Text,
        FormatName::Csv => Format::Csv,
        FormatName::Parquet => Format::Parquet,
    }
}

fn defaults(max_tokens: Option<u32>, temperature: Option<f64>, top_p: Option<f64>) -> String {
    let mut defaults = serde_json::Map::new();
    let mut set = |key: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            defaults.insert(key.to_owned(), value);
        }
    };
    set("max_tokens", max_tokens.map(Into::into));
    set("temperature", temperature.map(Into::into));
    set("top_p", top_p.map(Into::into));
    serde_json::Value::Object(defaults).to_string()
}

fn read(path: &Path) -> Result<File, SettingsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        Err(source) => return Err(SettingsError::File { path: path.to_owned(), source }),
    };
    let toml = toml::from_str(&text);
    toml.map_err(|e| SettingsError::Toml { path: path.to_owned(), source: Box::new(e) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Cli, Command},
        engines::Engine,
        run::engine_of,
        template::image,
    };
    use clap::Parser;
    use providers::{Host, Mib};

    fn merged(flags: &[&str], project: &str, user: &str) -> Result<Settings, SettingsError> {
        let typed = ["piecework", "run", "p.jsonl", "--engine", "echo"].iter().chain(flags);
        let Command::ProvisionAndRun(args) = Cli::parse_from(typed).command else {
            panic!("it was a run")
        };
        let file = |text| toml::from_str(text).expect("it is a file of settings");
        Settings::merge(&args, &file(project), &file(user))
    }

    #[test]
    fn a_flag_beats_the_project_and_the_project_beats_the_user() {
        let (project, user) = ("machines = 2\nbudget = 7.5", "machines = 3\nseed = 9");
        let settings = merged(&[], project, user).expect("it makes sense");
        assert_eq!((settings.machines, settings.job.seed), (Some(2), 9));
        assert_eq!(settings.budget, Some(Usd(7_500_000)));
        let settings = merged(&["--machines", "4"], project, user).expect("it makes sense");
        assert_eq!(settings.machines, Some(4));
    }

    #[test]
    fn marketplaces_and_wishes_are_settings_like_any_other() {
        let (project, user) =
            ("provider = [\"vast\", \"lambda\"]\nmax-price = 2", "gpu = \"h100\"");
        let settings = merged(&["--vram", "24GB"], project, user).expect("it makes sense");
        assert_eq!(settings.providers, ["vast", "lambda"]);
        assert_eq!(settings.wish.gpu.as_deref(), Some("h100"));
        assert_eq!(settings.wish.ceiling, Some(UsdPerHour(2_000_000)));
        assert_eq!(settings.wish.vram, Mib::from_gib(24));
        let settings = merged(&["--provider", "verda,prime"], project, user);
        assert_eq!(settings.expect("it makes sense").providers, ["verda", "prime"]);
        assert_eq!(merged(&[], "", "").expect("it makes sense").providers, ["local"]);
    }

    #[test]
    fn a_gpu_for_the_native_engine_is_asked_for_and_has_an_image_and_figures_of_its_own() {
        let native = |settings: Settings| Job { engine: EngineKind::Native, ..settings.job };
        let job = native(merged(&[], "", "").expect("it makes sense"));
        assert_eq!((job.limits.device, engine_of(&job)), (None, "native"));
        let job = native(merged(&[], "device = \"cuda\"", "").expect("it makes sense"));
        assert_eq!((job.limits.device, engine_of(&job)), (Some(Device::Cuda), "native-cuda"));
        assert!(image(Host::Container, engine_of(&job)).expect("it has one").contains("cuda"));
        assert!(Engine::named(engine_of(&job), false).is_some());
        let error = merged(&["--device", "cuda"], "", "").expect_err("it is for the echo");
        assert!(error.to_string().contains("unless the engine is `native`"), "{error}");
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(toml::from_str::<File>("machnes = 2").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (flags, message) in [
            (&["--machines", "0"][..], "`--machines` must be from 1 to 64"),
            (&["--temperature", "3"], "`--temperature` must be from 0 to 2"),
            (&["--budget", "ten"], "`ten` is no amount of dollars; write it like `20` or `0.35`"),
            (&["--deadline", "6"], "`6` is no time; write it like `45s`, `90m`, `6h` or `1h30m`"),
            (&["--kv-memory", "much"], "`much` is no size; write it like `500MB` or `2GB`"),
        ] {
            let error = merged(flags, "", "").expect_err("it makes no sense").to_string();
            assert_eq!(error, message);
        }
    }

    #[test]
    fn what_a_prompt_does_not_say_is_a_default() {
        let settings = merged(&["--max-tokens", "5", "--temperature", "0"], "", "");
        let defaults = settings.expect("it makes sense").job.defaults;
        assert_eq!(defaults, r#"{"max_tokens":5,"temperature":0.0}"#);
    }
}
