//! Where a run's completions are to go, and whether they may.

use super::CommandError;
use crate::{
    exit::Exit,
    label::RunId,
    ledger,
    prompts::Input,
    run::{Home, Plan, RunFolder, errors_beside},
    shards::ordered_at,
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
    let Some(folder) = out.parent().filter(|folder| folder.is_dir()) else {
        return Err(
            usage(format!("there is no folder for `{}`", out.display())).hint("make it first")
        );
    };
    // However it was typed, so that other runs know it as theirs.
    let out = match (folder.canonicalize(), out.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        (Err(_), _) | (_, None) => out,
    };
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

/// Sees that no other run that is under way writes to `out`, or its errors to the same file: the
/// last of them would replace what the others have written.
pub(super) fn unclaimed(home: &Home, out: &Path, by: &RunId) -> Result<(), CommandError> {
    for (run, folder) in home.all()? {
        if run == *by || !ledger::is_in_use(&folder.ledger()) {
            continue;
        }
        let Ok(theirs) = folder.plan() else { continue };
        if let Some(file) = shared(out, theirs.out.as_deref()).next() {
            let error =
                format!("`{}` is where the run {run} writes, which is under way", file.display());
            let hint = "name another place with `--out`, or wait until it is over";
            return Err(CommandError::new(Exit::Usage, error).hint(hint));
        }
    }
    Ok(())
}

/// Sees that a run that is gone on with replaces nothing that another has written since it was begun
/// or, where it was over once, since then.
pub(super) fn unreplaced(home: &Home, folder: &RunFolder, plan: &Plan) -> Result<(), CommandError> {
    let Some(out) = &plan.out else { return Ok(()) };
    let since = ordered_at(&folder.files(plan)).unwrap_or(plan.begun);
    for (run, folder) in home.all()? {
        let Ok(theirs) = folder.plan() else { continue };
        let is_later = || ordered_at(&folder.files(&theirs)).is_some_and(|at| since < at);
        let mut files = shared(out, theirs.out.as_deref());
        if let Some(file) = files.find(|file| run != plan.run && file.exists() && is_later()) {
            let error = format!("`{}` was written by the run {run} meanwhile", file.display());
            let hint = "move it elsewhere, then resume again";
            return Err(CommandError::new(Exit::Usage, error).hint(hint));
        }
    }
    Ok(())
}

/// The files that a run writes whose completions go to `out`.
fn written(out: &Path) -> [PathBuf; 2] {
    [out.to_owned(), errors_beside(out)]
}

/// Those of them that another run writes too.
fn shared(out: &Path, theirs: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    let theirs = theirs.filter(|theirs| *theirs != Path::new("-")).map(written);
    let is_theirs = move |file: &PathBuf| theirs.as_ref().is_some_and(|both| both.contains(file));
    written(out).into_iter().filter(is_theirs)
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn holds_prompts(path: &Path) -> CommandError {
    let error = format!("`{}` holds the prompts; name another with `--out`", path.display());
    CommandError::new(Exit::Usage, error)
}
