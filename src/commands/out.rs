//! Where a run's completions are to go, and whether they may.

use super::CommandError;
use crate::{
    exit::Exit,
    label::RunId,
    ledger,
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
    for path in [&out, &errors_beside(&out)] {
        let Ok(there) = path.symlink_metadata() else { continue };
        let name = path.display();
        if there.is_dir() {
            return Err(usage(format!("`{name}` is a folder; name a file in it")));
        }
        if !there.is_file() {
            return Err(usage(format!("`{name}` is no plain file; name another with `--out`")));
        }
        let is_it = |path: &Path| prompts.iter().any(|p| p.canonicalize().is_ok_and(|p| p == path));
        if path.canonicalize().is_ok_and(|path| is_it(&path)) {
            return Err(usage(format!("`{name}` holds the prompts; name another with `--out`")));
        }
        if !force {
            let hint = "name another file with `--out`, or overwrite it with `--force`";
            return Err(usage(format!("`{name}` is there already")).hint(hint));
        }
    }
    Ok(out)
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
