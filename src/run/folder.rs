//! A run's folder: plain files that a person can read, and all that it takes to go on.
//!
//! ```text
//! plan.json                 what was asked for
//! ledger                    what is owed
//! key, hosts                the run's SSH key, and its instances' host keys
//! story.jsonl               what happened, thinned out, for `report`
//! guard.lock, guard.log     the second process that watches over the run
//! 0.prompts, 0.fetched      the prompts, where they came from standard input or an object store
//! completions.partial.jsonl, errors.partial.jsonl     results as they come
//! completions.jsonl, errors.jsonl                     results in order, once the run is over
//! sent.json, sent.errors.json                         what of them is in an object store
//! ```

use super::{limit::Limit, owner};
use crate::{
    label::{LONGEST_OWNER, Owner, RunId},
    model::Shape,
    prompts::{Fingerprint, Input},
    shards::{OutFormat, RunFiles},
    shortlist::Search,
    story,
};
use jiff::Timestamp;
use providers::{Usd, crash};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use wire::Job;

/// The version of `plan.json`.
const VERSION: u32 = 2;

/// Why the folder of piecework, or of a run, can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system failed.
    #[error("`{}` can't be {act}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done to it.
        act: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such run.
    #[error("there is no run `{run}` in `{}`", folder.display())]
    NoRun {
        /// What was asked for.
        run: String,
        /// Where runs are kept.
        folder: PathBuf,
    },
    /// More than one run is meant.
    #[error("`{run}` may be any of {}", found.join(", "))]
    Ambiguous {
        /// What was asked for.
        run: String,
        /// What it may mean.
        found: Vec<String>,
    },
    /// Labels with this owner could not be read.
    #[error(
        "`{owner}` in `{}` is no owner that labels can name, which takes 1 to {LONGEST_OWNER} \
         lower-case letters and digits: end with `piecework cleanup` what was rented from here, \
         then remove the file, and a new one is made",
        path.display()
    )]
    UnfitOwner {
        /// The file.
        path: PathBuf,
        /// What is in it.
        owner: String,
    },
    /// The run never got as far as having a plan.
    #[error("the run in `{}` was never begun: start a new one", .0.display())]
    NotBegun(PathBuf),
    /// Its plan can't be understood.
    #[error("`{}` can't be understood; was it written by a later version of piecework?", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// What a run was asked to do, as it is kept for `resume`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    v: u32,
    /// The run.
    pub run: RunId,
    /// When it was begun.
    pub begun: Timestamp,
    /// The prompts.
    pub input: Input,
    /// What their file had in it.
    pub fingerprint: Fingerprint,
    /// How many there are, bad lines included.
    pub prompts: u64,
    /// Their size in bytes. 0 where an earlier version didn't keep it.
    #[serde(default)]
    pub bytes: u64,
    /// What to answer them with.
    pub job: Job,
    /// Which instances to rent, and where.
    pub search: Search,
    /// How many instances to rent.
    pub machines: u32,
    /// What the run may cost.
    pub budget: Option<Usd>,
    /// How long a session of it may take.
    pub deadline: Duration,
    /// Where the completions go. None is the run's folder, `-` standard output.
    pub out: Option<PathBuf>,
    /// How they are written there.
    pub out_format: OutFormat,
    /// How long it should take and what it should cost, where that could be told.
    #[serde(default)]
    pub estimate: Option<Estimate>,
    /// What it may cost at most, as it was said before it was begun. For a session that goes on with
    /// it, with what was agreed to anew.
    #[serde(default)]
    pub at_most: Option<Usd>,
    /// What decides the model's size and speed, where that could be told.
    #[serde(default)]
    pub shape: Option<Shape>,
}

/// What a run should come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// How long it takes.
    pub seconds: f64,
    /// What it costs.
    pub cost: Usd,
}

/// What goes into a [`Plan`].
#[derive(Clone, Debug)]
pub struct NewPlan {
    /// The prompts.
    pub input: Input,
    /// What their file has in it.
    pub fingerprint: Fingerprint,
    /// How many there are, bad lines included.
    pub prompts: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// What to answer them with.
    pub job: Job,
    /// Which instances to rent, and where.
    pub search: Search,
    /// How many instances to rent.
    pub machines: u32,
    /// What the run may cost.
    pub budget: Option<Usd>,
    /// How long a session of it may take.
    pub deadline: Duration,
    /// Where the completions go.
    pub out: Option<PathBuf>,
    /// How they are written there.
    pub out_format: OutFormat,
    /// How long it should take and what it should cost, where that could be told.
    pub estimate: Option<Estimate>,
    /// What it may cost at most, as it was said.
    pub at_most: Option<Usd>,
    /// What decides the model's size and speed, where that could be told.
    pub shape: Option<Shape>,
}

impl Plan {
    /// The plan of a run that begins now.
    pub fn new(run: RunId, begun: Timestamp, new: NewPlan) -> Self {
        let NewPlan { input, fingerprint, prompts, bytes, job, search, machines, .. } = new;
        let NewPlan { budget, deadline, out, out_format, estimate, at_most, shape, .. } = new;
        let v = VERSION;
        Self {
            v,
            run,
            begun,
            input,
            fingerprint,
            prompts,
            bytes,
            job,
            search,
            machines,
            budget,
            deadline,
            out,
            out_format,
            estimate,
            at_most,
            shape,
        }
    }

    /// What it may cost in all: no more than its budget, and no more than was agreed to.
    pub fn limit(&self) -> Option<Limit> {
        Limit::lower(self.budget, self.at_most)
    }
}

/// Where piecework keeps what must outlive it.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// In this folder, made if it is missing.
    pub fn open(folder: &Path) -> Result<Self, FolderError> {
        let runs = folder.join("runs");
        fs::create_dir_all(&runs).map_err(|source| io_error(&runs, "made", source))?;
        let folder = folder.canonicalize().map_err(|source| io_error(folder, "found", source))?;
        Ok(Self(folder))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where local instances are kept.
    pub fn instances(&self) -> PathBuf {
        self.0.join("instances")
    }

    /// Whose instances ours are. What to look for; who rents is [`Home::renter`].
    pub fn owner(&self) -> Result<Owner, FolderError> {
        let path = self.0.join("owner");
        owner::read_or_make(&path).map_err(|source| io_error(&path, "read or written", source))
    }

    /// The same, to rent as. An error where labels of such a one could not be read again.
    pub fn renter(&self) -> Result<Owner, FolderError> {
        let owner = self.owner()?;
        if owner.fits_labels() {
            return Ok(owner);
        }
        Err(FolderError::UnfitOwner { path: self.0.join("owner"), owner: owner.0 })
    }

    /// Makes the folder of a new run.
    pub fn create(&self, run: &RunId) -> Result<RunFolder, FolderError> {
        let folder = self.runs().join(run.as_str());
        fs::create_dir(&folder).map_err(|source| io_error(&folder, "made", source))?;
        Ok(RunFolder(folder))
    }

    /// Every run's folder, oldest first.
    pub fn all(&self) -> Result<Vec<(RunId, RunFolder)>, FolderError> {
        let runs = self.runs();
        let failed = |source| io_error(&runs, "read", source);
        let mut found = Vec::new();
        for entry in fs::read_dir(&runs).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(run) = entry.file_name().to_string_lossy().parse::<RunId>() else { continue };
            let age = entry.metadata().and_then(|about| about.created()).ok();
            found.push((age, run, RunFolder(entry.path())));
        }
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        Ok(found.into_iter().map(|(_, run, folder)| (run, folder)).collect())
    }

    /// The run that is meant by its name, by the end of it, by its folder, or by `last`.
    pub fn find(&self, text: &str) -> Result<RunFolder, FolderError> {
        let as_path = Path::new(text);
        if as_path.join("plan.json").is_file() {
            let whole = as_path.canonicalize();
            return Ok(RunFolder(whole.map_err(|source| io_error(as_path, "found", source))?));
        }
        let mut all = self.all()?;
        if text == "last" {
            all.retain(|(_, folder)| folder.plan_path().exists());
            let last = all.pop().map(|(_, folder)| folder);
            return last
                .ok_or_else(|| FolderError::NoRun { run: text.to_owned(), folder: self.runs() });
        }
        all.retain(|(run, _)| run.as_str() == text || run.as_str().ends_with(&format!("-{text}")));
        match all.len() {
            0 => Err(FolderError::NoRun { run: text.to_owned(), folder: self.runs() }),
            1 => Ok(all.remove(0).1),
            _ => {
                let found = all.into_iter().map(|(run, _)| run.to_string()).collect();
                Err(FolderError::Ambiguous { run: text.to_owned(), found })
            }
        }
    }

    fn runs(&self) -> PathBuf {
        self.0.join("runs")
    }
}

/// The folder of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder at this path.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the run owes.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// The run's key.
    pub fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    /// The host keys that it has seen.
    pub fn hosts(&self) -> PathBuf {
        self.0.join("hosts")
    }

    /// What happened in it.
    pub fn story(&self) -> PathBuf {
        self.0.join(story::FILE)
    }

    /// Held by the run's guard while it stands.
    pub(super) fn guard_lock(&self) -> PathBuf {
        self.0.join("guard.lock")
    }

    /// What the run's guard has to say.
    pub(super) fn guard_log(&self) -> PathBuf {
        self.0.join("guard.log")
    }

    /// Prompts that could be read only once, such as standard input: the input's file of this
    /// number.
    pub fn spooled(&self, file: usize) -> PathBuf {
        self.0.join(format!("{file}.prompts"))
    }

    /// Prompts that were fetched from elsewhere: those of this number.
    pub fn fetched(&self, number: usize) -> PathBuf {
        self.0.join(format!("{number}.fetched"))
    }

    /// What of the completions, and of the errors, was sent elsewhere.
    pub fn sent(&self) -> (PathBuf, PathBuf) {
        (self.0.join("sent.json"), self.0.join("sent.errors.json"))
    }

    /// Completions in order, where no other place was named.
    pub fn completions(&self, format: OutFormat) -> PathBuf {
        self.0.join("completions").with_extension(format.extension())
    }

    /// Errors in order.
    pub fn errors(&self) -> PathBuf {
        self.0.join("errors.jsonl")
    }

    /// Where results are kept while the run goes on.
    pub fn files(&self, plan: &Plan) -> RunFiles {
        RunFiles {
            folder: self.0.clone(),
            run: plan.run.to_string(),
            prompts: plan.prompts,
            inputs: plan.input.names(),
        }
    }

    /// Keeps the plan. It is on disk when this returns.
    pub fn keep(&self, plan: &Plan) -> Result<(), FolderError> {
        let text = serde_json::to_vec_pretty(plan).expect("a plan has only plain values");
        write_whole(&self.plan_path(), &text)
    }

    /// The plan that was kept.
    pub fn plan(&self) -> Result<Plan, FolderError> {
        let path = self.plan_path();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| FolderError::Unreadable { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(FolderError::NotBegun(self.0.clone()))
            }
            Err(source) => Err(io_error(&path, "read", source)),
        }
    }

    /// Throws away a run that was never begun.
    pub fn discard(self) {
        // What can't be removed is litter, and no reason to fail.
        drop(fs::remove_dir_all(self.0));
    }

    /// Whether there is a plan, good or bad.
    pub fn has_plan(&self) -> bool {
        self.plan_path().exists()
    }

    fn plan_path(&self) -> PathBuf {
        self.0.join("plan.json")
    }
}

/// Writes a file that appears whole or not at all, and is on disk when this returns.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), FolderError> {
    let draft = path.with_extension("draft");
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        crash::point("folder: a file before it appears");
        fs::rename(&draft, path)?;
        crash::point("folder: a file that has appeared");
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|source| io_error(path, "written", source))
}

fn io_error(path: &Path, act: &'static str, source: io::Error) -> FolderError {
    FolderError::Io { path: path.to_owned(), act, source }
}
