//! Where a run's completions are to go, and whether they may.

use super::CommandError;
use crate::{
    exit::Exit,
    label::RunId,
    ledger,
    prompts::Input,
    run::{Home, errors_beside},
};
use std::path::{Path, PathBuf};

/// The place for the completions, made absolute, unless something is in the way.
pub(super) fn usable(
    out: &Path,
    prompts: &[PathBuf],
    force: bool,
) -> Result<PathBuf, CommandError> {
    if out == Path::new("-") {
        return Ok(out.to_owned());
    }
    let usage = |error: String| CommandError::new(Exit::Usage, error);
    let out = std::path::absolute(out).map_err(|error| CommandError::new(Exit::Usage, error))?;
    if !out.parent().is_some_and(Path::is_dir) {
        return Err(
            usage(format!("there is no folder for `{}`", out.display())).hint("make it first")
        );
    }
    for path in &written(&out) {
        let Ok(there) = path.symlink_metadata() else { continue };
        let name = path.display();
        if there.is_dir() {
            return Err(usage(format!("`{name}` is a folder; name a file in it")));
        }
        if !there.is_file() {
            return Err(usage(format!("`{name}` is no plain file; name another with `--out`")));
        }
        if prompts.iter().any(|prompts| is_same(path, prompts)) {
            return Err(holds_prompts(path));
        }
        if !force {
            let hint = "name another file with `--out`, or overwrite it with `--force`";
            return Err(usage(format!("`{name}` is there already")).hint(hint));
        }
    }
    Ok(out)
}

/// Sees that none of the prompts would be replaced, whatever pattern or store they were found by.
pub(super) fn spares(out: &Path, input: &Input) -> Result<(), CommandError> {
    if out == Path::new("-") {
        return Ok(());
    }
    let is_one = |path: &PathBuf| {
        let mut sources = input.sources.iter();
        sources.any(|source| Path::new(&source.name) == path || is_same(path, &source.path))
    };
    written(out).iter().find(|path| is_one(path)).map_or(Ok(()), |path| Err(holds_prompts(path)))
}

/// Sees that no other run that is under way writes to `out`: the last of them would replace what
/// the others have written.
pub(super) fn unclaimed(home: &Home, out: &Path, by: &RunId) -> Result<(), CommandError> {
    if out == Path::new("-") {
        return Ok(());
    }
    for (run, folder) in home.all()? {
        let theirs = || folder.plan().ok()?.out;
        if run != *by && ledger::is_in_use(&folder.ledger()) && theirs().as_deref() == Some(out) {
            let error =
                format!("`{}` is where the run {run} writes, which is under way", out.display());
            let hint = "name another place with `--out`, or wait until it is over";
            return Err(CommandError::new(Exit::Usage, error).hint(hint));
        }
    }
    Ok(())
}

/// The files that a run writes whose completions go to `out`.
fn written(out: &Path) -> [PathBuf; 2] {
    [out.to_owned(), errors_beside(out)]
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn holds_prompts(path: &Path) -> CommandError {
    let error = format!("`{}` holds the prompts; name another with `--out`", path.display());
    CommandError::new(Exit::Usage, error)
}
