//! The shell scripts of an installation, and how their answers are read. Nothing here runs them.
//!
//! They keep to POSIX `sh`, stand on one line and use no backslash, so that any login shell hands
//! them on to `sh` unharmed. What a profile prints before them is told apart by a marker.

use super::install::InstallError;

/// Begins each line that is an answer.
const MARKER: &str = "@piecework ";

/// The worker's file name on the machine.
const NAME: &str = "piecework-worker";

/// Prints the SHA-256 of a file, with whatever the machine has for it.
const SUM: &str = "sum() { \
    if command -v sha256sum >/dev/null 2>&1; then sha256sum < \"$1\"; \
    elif command -v shasum >/dev/null 2>&1; then shasum -a 256 < \"$1\"; \
    elif command -v openssl >/dev/null 2>&1; then openssl dgst -sha256 -r < \"$1\"; \
    else busybox sha256sum < \"$1\"; fi | cut -c1-64; }";

/// What a failing step of the receiving script exits with.
pub(super) const NO_FOLDER: u32 = 81;
pub(super) const NOT_UNPACKED: u32 = 82;
pub(super) const BAD_CHECKSUM: u32 = 83;
pub(super) const NOT_RENAMED: u32 = 84;
pub(super) const NO_CHECKSUM: u32 = 85;

/// What a machine answers when asked what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Where the worker belongs on it.
    pub(super) path: String,
    /// Whether the right worker is there.
    pub(super) installed: bool,
    /// Its processor, as `uname -m` has it.
    pub(super) arch: String,
    /// Whether it can unpack gzip.
    pub(super) gzip: bool,
}

/// One word of a shell command, whatever is in it.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs `script` under `sh`, whatever the login shell is.
pub fn under_sh(script: &str) -> String {
    format!("exec /bin/sh -c {}", quote(script))
}

fn place(sum: &str) -> String {
    format!(
        "LC_ALL=C; export LC_ALL; d=\"${{PIECEWORK_CACHE:-${{HOME:-/root}}/.cache/piecework}}/worker/{sum}\"; \
         f=\"$d/{NAME}\"; {SUM}"
    )
}

/// Asks a machine whether it has the worker with this checksum, and what it could do with it.
pub(super) fn probe(sum: &str) -> String {
    under_sh(&format!(
        "{place}; i=no; if [ -x \"$f\" ] && [ \"$(sum \"$f\")\" = {sum} ]; then i=yes; fi; \
         g=no; if command -v gzip >/dev/null 2>&1; then g=yes; fi; \
         echo; echo \"{MARKER}path $f\"; echo \"{MARKER}installed $i\"; \
         echo \"{MARKER}arch $(uname -m)\"; echo \"{MARKER}gzip $g\"",
        place = place(sum),
    ))
}

/// Takes the worker with this checksum from standard input, and puts it in its place whole.
///
/// A lost link is the end of its input. It ignores the signals that come with that, for they would
/// end its clean-up too.
pub(super) fn receive(sum: &str, gzip: bool) -> String {
    let unpack = if gzip { "gzip -dc" } else { "cat" };
    under_sh(&format!(
        "{place}; mkdir -p \"$d\" || exit {NO_FOLDER}; t=\"$d/.incoming-$$\"; \
         trap '' HUP INT TERM PIPE; trap 'rm -f \"$t\"' EXIT; \
         {unpack} > \"$t\" || exit {NOT_UNPACKED}; \
         s=$(sum \"$t\"); [ -n \"$s\" ] || exit {NO_CHECKSUM}; [ \"$s\" = {sum} ] || exit {BAD_CHECKSUM}; \
         chmod 755 \"$t\" && mv -f \"$t\" \"$f\" || exit {NOT_RENAMED}",
        place = place(sum),
    ))
}

/// Runs the worker at `path` to see whether it runs there at all.
pub(super) fn version(path: &str) -> String {
    under_sh(&format!(
        "LC_ALL=C; export LC_ALL; v=$({} --version) || exit $?; echo; echo \"{MARKER}version $v\"",
        quote(path)
    ))
}

/// Asks for what `command` prints, as an answer under this name.
pub fn ask(name: &str, command: &str) -> String {
    under_sh(&format!("echo \"{MARKER}{name} $({command})\""))
}

/// All that a script has answered under this name.
pub fn answers<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let line = line.split_once(MARKER)?.1;
        line.strip_prefix(name)?.strip_prefix(' ').map(str::trim)
    })
}

/// The answer that a script gave under this name.
pub(super) fn answer<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    answers(text, name).next()
}

/// What the probe's answer says, if it is one.
pub(super) fn machine(text: &str) -> Option<Machine> {
    Some(Machine {
        path: answer(text, "path")?.to_owned(),
        installed: answer(text, "installed")? == "yes",
        arch: answer(text, "arch")?.to_owned(),
        gzip: answer(text, "gzip")? == "yes",
    })
}

/// The processor that a program was built for, in the words of `uname -m`, if it is an ELF file
/// for one that we know.
pub(super) fn built_for(program: &[u8]) -> Option<&'static str> {
    let (magic, machine) = (program.get(..4)?, program.get(18..20)?);
    if magic != b"\x7fELF" {
        return None;
    }
    // `e_machine` of the ELF header, little-endian on both.
    match u16::from_le_bytes([machine[0], machine[1]]) {
        0x3e => Some("x86_64"),
        0xb7 => Some("aarch64"),
        _ => None,
    }
}

/// Why a worker that ended so would not run there.
pub(super) fn why_it_fails(path: &str, code: Option<u32>, stderr: &str) -> InstallError {
    let (path, said) = (path.to_owned(), stderr.trim().to_owned());
    if said.contains("GLIBC_") || said.contains("GLIBCXX_") {
        return InstallError::OldLibrary { said };
    }
    match code {
        Some(126) if said.contains("ermission denied") => InstallError::NoExec { path },
        // The file was there a moment ago: what isn't found is its loader.
        Some(127) => InstallError::OldLibrary { said },
        _ => InstallError::DoesNotRun { said },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::{
        fs,
        io::Write,
        os::unix::fs::symlink,
        path::Path,
        process::{Command, Output, Stdio},
    };

    /// Runs a script in a real shell, with `folder` as its home and `path` as its PATH.
    fn run(script: &str, folder: &Path, path: &str, stdin: &[u8]) -> Output {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", script])
            .env_clear()
            .env("HOME", folder)
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A script that has failed reads no more.
        drop(shell.stdin.take().unwrap().write_all(stdin));
        shell.wait_with_output().unwrap()
    }

    const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

    fn code(output: &Output) -> u32 {
        output.status.code().unwrap().cast_unsigned()
    }

    #[test]
    fn a_machine_without_gzip_takes_the_worker_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (worker, sum) = (b"a worker", hex::encode(Sha256::digest(b"a worker")));
        let probed = |text: Output| machine(&String::from_utf8(text.stdout).unwrap()).unwrap();
        let before = probed(run(&probe(&sum), folder.path(), PATH, b""));
        assert!(!before.installed);
        assert_eq!(code(&run(&receive(&sum, false), folder.path(), PATH, worker)), 0);
        let after = probed(run(&probe(&sum), folder.path(), PATH, b""));
        assert!(after.installed);
        assert_eq!(
            (fs::read(&after.path).unwrap().as_slice(), after.path),
            (&worker[..], before.path)
        );
    }

    #[test]
    fn what_is_torn_or_wrong_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let sum = hex::encode(Sha256::digest(b"a worker"));
        let wrong = run(&receive(&sum, false), folder.path(), PATH, b"another worker");
        assert_eq!(code(&wrong), BAD_CHECKSUM);
        let torn = run(&receive(&sum, true), folder.path(), PATH, b"\x1f\x8b\x08");
        assert_eq!(code(&torn), NOT_UNPACKED);
        let place = folder.path().join(".cache/piecework/worker").join(sum);
        assert_eq!(fs::read_dir(place).unwrap().count(), 0);
    }

    #[test]
    fn a_machine_that_knows_no_checksum_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let tools = folder.path().join("tools");
        fs::create_dir(&tools).unwrap();
        for tool in ["mkdir", "cat", "cut", "rm", "chmod", "mv"] {
            let found = PATH.split(':').map(|place| Path::new(place).join(tool));
            symlink(found.into_iter().find(|path| path.exists()).unwrap(), tools.join(tool))
                .unwrap();
        }
        let bare = run(&receive("abc", false), folder.path(), tools.to_str().unwrap(), b"worker");
        assert_eq!(code(&bare), NO_CHECKSUM);
    }

    #[test]
    fn scripts_stand_on_one_line_and_need_no_backslash() {
        for script in [probe("abc"), receive("abc", true), version("/x")] {
            // The only backslash is that of a quoted quote, outside of quotes.
            let bare = script.replace(r"'\''", "");
            assert!(!bare.contains(['\n', '\\', '!']), "{script}");
            assert!(script.starts_with("exec /bin/sh -c '"), "{script}");
        }
    }

    #[test]
    fn quoted_text_is_one_word() {
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn answers_are_found_behind_a_chatty_profile() {
        let text = "Welcome!\npath none\nno newline@piecework path /root/.cache/w\n\
                    @piecework installed no\n@piecework arch x86_64\n@piecework gzip yes\n";
        let (path, arch) = ("/root/.cache/w".to_owned(), "x86_64".to_owned());
        assert_eq!(machine(text), Some(Machine { path, installed: false, arch, gzip: true }));
        assert_eq!(machine("Welcome!\npath /x\n"), None);
    }

    #[test]
    fn the_processor_is_read_from_the_program() {
        let mut program = vec![0; 64];
        program[..4].copy_from_slice(b"\x7fELF");
        program[18] = 0xb7;
        assert_eq!(built_for(&program), Some("aarch64"));
        assert_eq!(built_for(b"#!/bin/sh\necho a script of some length"), None);
        assert_eq!(built_for(b""), None);
    }

    #[test]
    fn a_worker_that_does_not_run_says_why() {
        let why = |code, said| why_it_fails("/w", code, said).to_string();
        let old = "/w: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /w)";
        assert!(why(Some(1), old).contains("newer image"));
        assert!(why(Some(127), "sh: 1: /w: not found").contains("newer image"));
        assert!(why(Some(126), "sh: 1: /w: Permission denied").contains("PIECEWORK_CACHE"));
        assert!(why(None, "").contains("does not run"));
    }
}
