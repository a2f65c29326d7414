//! Where CUDA's libraries are on a machine.
//!
//! Images have them where the loader doesn't look: beside Python packages, or in a toolkit's own folder.

use crate::engine::EngineError;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Folders of the worker's user to look in first, as `PATH` is written.
const FOLDERS: &str = "PIECEWORK_CUDA_LIBRARIES";

/// Where toolkits, conda and systems have libraries. A star stands for any part of a name.
const SYSTEM: [&str; 8] = [
    "/usr/local/cuda*/lib64",
    "/usr/local/cuda*/targets/*/lib",
    "/opt/cuda*/lib64",
    "/opt/*conda*/lib",
    "/root/*conda*/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
];

/// Where Pythons have packages.
const PYTHONS: [&str; 9] = [
    "/usr/local/lib/python3*/*-packages",
    "/usr/lib/python3*/*-packages",
    "/usr/lib/python3/dist-packages",
    "/opt/*/lib/python3*/site-packages",
    "/opt/*/*venv*/lib/python3*/site-packages",
    "/venv/*/lib/python3*/site-packages",
    "/*venv*/lib/python3*/site-packages",
    "/root/*/lib/python3*/site-packages",
    "/workspace/*/lib/python3*/site-packages",
];

/// Where hosts put the driver's library without telling the loader: what images say of it in their environment a
/// session by SSH doesn't have.
const DRIVERS: [&str; 4] =
    ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/wsl/lib", "/opt/nvidia/lib64"];

/// Where the loader is told of more folders.
const LOADER: [&str; 2] = ["/etc/ld.so.conf", "/etc/ld.so.conf.d"];

/// What is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Libraries {
    /// Products.
    pub(super) cublas_lt: PathBuf,
    /// The compiler.
    pub(super) nvrtc: PathBuf,
}

/// Finds the newest libraries that a driver for CUDA's version `major` runs.
pub(super) fn find(major: u32) -> Result<Libraries, EngineError> {
    find_in(&folders(), major)
}

/// All folders that may have libraries, the likeliest first.
fn folders() -> Vec<PathBuf> {
    let listed = |name: &str| env::var_os(name).map(|text| env::split_paths(&text).collect());
    let mut folders: Vec<PathBuf> = listed(FOLDERS).unwrap_or_default();
    folders.extend(listed("LD_LIBRARY_PATH").unwrap_or_default());
    let own = ["VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONUSERBASE"];
    let own: Vec<String> = own.iter().filter_map(|name| env::var(name).ok()).collect();
    // Conda's own packages lie beside Python's folder.
    folders.extend(own.iter().flat_map(|root| matching(&format!("{root}/lib"))));
    let own: Vec<String> =
        own.iter().map(|root| format!("{root}/lib/python3*/site-packages")).collect();
    let pythons = own.iter().map(String::as_str).chain(PYTHONS);
    folders.extend(pythons.flat_map(|root| matching(&format!("{root}/nvidia/*/lib"))));
    folders.extend(SYSTEM.iter().flat_map(|pattern| matching(pattern)));
    folders.extend(DRIVERS.map(PathBuf::from));
    folders.extend(LOADER.iter().flat_map(|path| told_to_loader(Path::new(path))));
    folders
}

/// The driver's library, where it lies in one of the places that the loader may not know.
pub(super) fn driver() -> Option<PathBuf> {
    driver_in(&DRIVERS.map(PathBuf::from))
}

fn driver_in(folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join("libcuda.so.1")).find(|path| path.is_file())
}

/// The folders that a file of the loader's names, or all files in a folder of such.
fn told_to_loader(path: &Path) -> Vec<PathBuf> {
    if let Ok(entries) = fs::read_dir(path) {
        let files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
        return files.flat_map(|file| told_to_loader(&file)).collect();
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with('/'));
    lines.map(PathBuf::from).collect()
}

fn find_in(folders: &[PathBuf], major: u32) -> Result<Libraries, EngineError> {
    // Version 12 is the oldest whose names and functions are those that we use.
    let library = |name: &str| {
        (12..=major).rev().find_map(|major| {
            let file = format!("lib{name}.so.{major}");
            folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file())
        })
    };
    let (cublas_lt, nvrtc) = (library("cublasLt"), library("nvrtc"));
    let (Some(cublas_lt), Some(nvrtc)) = (&cublas_lt, &nvrtc) else {
        let missing = match (cublas_lt, nvrtc) {
            (None, None) => "libcublasLt and libnvrtc",
            (None, _) => "libcublasLt",
            (_, _) => "libnvrtc",
        };
        return Err(EngineError::machine(format!(
            "{missing} of CUDA 12 to {major} can't be found on this machine: take an image that has \
             them, such as nvidia/cuda:12.9.1-runtime-ubuntu24.04 or PyTorch's, install the Python packages \
             nvidia-cublas-cu12 and nvidia-cuda-nvrtc-cu12, or name their folders in {FOLDERS}"
        )));
    };
    Ok(Libraries { cublas_lt: cublas_lt.clone(), nvrtc: nvrtc.clone() })
}

/// What the compiler at `nvrtc` itself opens, where that lies beside it.
pub(super) fn builtins_of(nvrtc: &Path) -> Option<PathBuf> {
    let prefix = format!("libnvrtc-builtins.so.{}", nvrtc.extension()?.to_str()?);
    let files = fs::read_dir(nvrtc.parent()?).ok()?.flatten();
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    };
    files.map(|entry| entry.path()).filter(is_it).max()
}

/// Folders whose path matches: a star stands for any part of one name. The last in order come first, since
/// they are the newest versions.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = found.iter().flat_map(|folder| step(folder, part)).collect();
    }
    found
}

fn step(folder: &Path, part: &str) -> Vec<PathBuf> {
    if !part.contains('*') {
        let path = folder.join(part);
        return if path.is_dir() { vec![path] } else { Vec::new() };
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let fits = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| fits(part, &name)) && path.is_dir()
    };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(fits).collect();
    found.sort();
    found.reverse();
    found
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && fits(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_parts_of_names() {
        assert!(fits("cuda*", "cuda-12.9") && fits("*venv*", "my.venv") && fits("*", ""));
        assert!(!fits("cuda*", "my-cuda") && !fits("lib64", "lib") && !fits("a*b", "abc"));
    }

    #[test]
    fn folders_that_the_loader_is_told_of_are_looked_in() {
        let root = tempfile::tempdir().expect("a folder");
        let (file, folder) = (root.path().join("ld.so.conf"), root.path().join("ld.so.conf.d"));
        fs::create_dir(&folder).expect("it is new");
        fs::write(&file, "include /etc/ld.so.conf.d/*.conf\n/opt/some\n").expect("there is room");
        fs::write(folder.join("nvidia.conf"), "# the driver's\n  /usr/local/nvidia/lib64\n")
            .expect("there is room");
        assert_eq!(told_to_loader(&file), [Path::new("/opt/some")]);
        assert_eq!(told_to_loader(&folder), [Path::new("/usr/local/nvidia/lib64")]);
        assert!(told_to_loader(&root.path().join("none")).is_empty());
    }

    #[test]
    fn a_driver_that_the_loader_doesnt_know_is_found() {
        let root = tempfile::tempdir().expect("a folder");
        let folders = ["one", "two"].map(|name| root.path().join(name));
        for folder in &folders {
            fs::create_dir(folder).expect("it is new");
        }
        assert_eq!(driver_in(&folders), None);
        let library = folders[1].join("libcuda.so.1");
        fs::write(&library, "").expect("there is room");
        assert_eq!(driver_in(&folders), Some(library));
    }

    #[test]
    fn the_newest_that_the_driver_runs_is_taken_and_what_is_missing_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = |name: &str, files: &[&str]| {
            let path = root.path().join(name);
            fs::create_dir_all(&path).expect("it is new");
            for file in files {
                fs::write(path.join(file), "").expect("there is room");
            }
            path
        };
        let nvrtc = ["libnvrtc.so.12", "libnvrtc-builtins.so.12.9", "libnvrtc.alt.so.12"];
        let packages = root.path().join("lib/python3.11/site-packages/nvidia");
        folder("lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib", &nvrtc);
        folder("lib/python3.11/site-packages/nvidia/cublas/lib", &["libcublasLt.so.12"]);
        let newer = folder("cuda-13/lib64", &["libnvrtc.so.13", "libcublasLt.so.13"]);
        let pattern = format!("{}/lib/python3*/site-packages/nvidia/*/lib", root.path().display());
        let mut folders = matching(&pattern);
        assert_eq!(folders.len(), 2);
        let error = find_in(&folders[1..], 12).expect_err("one is missing").to_string();
        assert!(error.starts_with("libnvrtc of") || error.starts_with("libcublasLt of"), "{error}");
        folders.push(newer.clone());
        let old = find_in(&folders, 12).expect("they are there");
        assert_eq!(old.nvrtc, packages.join("cuda_nvrtc/lib/libnvrtc.so.12"));
        assert_eq!(
            builtins_of(&old.nvrtc),
            Some(packages.join("cuda_nvrtc/lib/libnvrtc-builtins.so.12.9"))
        );
        let new = find_in(&folders, 13).expect("they are there");
        assert_eq!(
            (new.cublas_lt, builtins_of(&new.nvrtc)),
            (newer.join("libcublasLt.so.13"), None)
        );
    }
}
