//! What a machine shows of itself to whoever logs in: stand-ins for the programs that tell.

use super::{
    fault::{Defect, Mishap},
    rental::Rental,
};
use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// `nvidia-smi` with and without a query.
const NVIDIA_SMI: &str = r#"#!/bin/sh
case $FAKECLOUD_GPUS in
0) echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9 ;;
esac
case $1 in
--query-gpu=memory.total)
    for _ in $(seq "$FAKECLOUD_GPUS"); do echo "$FAKECLOUD_VRAM"; done ;;
*) echo "| NVIDIA-SMI 570.86.10   Driver Version: 570.86.10   CUDA Version: $FAKECLOUD_CUDA |" ;;
esac
"#;

/// `vllm`, which is this program.
const VLLM: &str = r#"#!/bin/sh
exec "$FAKECLOUD_PROGRAM" vllm "$@"
"#;

/// `df`, which is the real one unless the disk is full.
const DF: &str = r#"#!/bin/sh
[ -n "$FAKECLOUD_FULL" ] || exec /usr/bin/env PATH=/usr/bin:/bin df "$@"
echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "overlay 41943040 41942016 1024 100% /"
"#;

/// Writes the programs into a folder of their own in `folder`.
pub(super) fn programs(folder: &Path) -> io::Result<PathBuf> {
    let programs = std::path::absolute(folder)?.join(".shown");
    fs::create_dir_all(&programs)?;
    for (name, script) in [("nvidia-smi", NVIDIA_SMI), ("df", DF), ("vllm", VLLM)] {
        let path = programs.join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(programs)
}

/// The assignment that lets these programs be found first.
pub(super) fn path(programs: &Path) -> io::Result<OsString> {
    let known = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let all = [programs.to_owned()].into_iter().chain(env::split_paths(&known).collect::<Vec<_>>());
    let mut path = OsString::from("PATH=");
    path.push(env::join_paths(all).map_err(io::Error::other)?);
    Ok(path)
}

/// What the programs say of this machine, as its environment; `pace` is how many prompts a second
/// each of its GPUs answers.
pub(super) fn facts(rental: &Rental, pace: f64) -> Vec<(String, String)> {
    let defect = rental.mishaps.iter().find_map(Mishap::defect);
    let (mut gpus, mut vram) = (rental.ware.count, rental.ware.vram * 1024);
    let (mut cuda, mut full) = ("13.0", "");
    match defect {
        None => {}
        Some(Defect::NoGpu) => gpus = 0,
        Some(Defect::FewerGpus) => gpus -= 1,
        Some(Defect::LessMemory) => vram /= 2,
        Some(Defect::OldDriver) => cuda = "11.0",
        Some(Defect::FullDisk) => full = "yes",
    }
    let facts = [
        ("FAKECLOUD_GPUS", gpus.to_string()),
        ("FAKECLOUD_VRAM", vram.to_string()),
        ("FAKECLOUD_CUDA", cuda.to_owned()),
        ("FAKECLOUD_FULL", full.to_owned()),
        ("FAKECLOUD_PACE", pace.to_string()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}
