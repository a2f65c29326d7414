//! A GPU on the processor, for tests: a program of `tests/emulator/` that has the kernels compiled in.

use super::device::{Argument, Device, Launch, Mark, Memory, Product, Recording, Shape};
use crate::engine::EngineError;
use std::{
    collections::HashMap,
    fmt, fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

/// Memory that it says it has.
const ROOM: u64 = 1 << 28;

/// A GPU that isn't there.
pub(super) struct Emulated {
    child: Child,
    input: ChildStdin,
    output: Mutex<ChildStdout>,
    /// What it is told while it remembers it.
    recording: Option<Vec<u8>>,
    recordings: Vec<Vec<u8>>,
    fetched: Vec<u8>,
    /// Whether it does.
    pub(super) can_record: bool,
    /// How often it does them again.
    pub(super) replays: usize,
}

impl fmt::Debug for Emulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulated").field("process", &self.child.id()).finish_non_exhaustive()
    }
}

impl Emulated {
    /// Starts one; None where there is no C++ compiler. That is said, with the name of who asks.
    pub(super) fn start(shape: Shape, test: &str) -> Option<Self> {
        let Some(program) = program(shape) else {
            skipped(test, "there is no C++ compiler");
            return None;
        };
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("what was just built starts");
        let input = child.stdin.take().expect("it has one");
        let output = Mutex::new(child.stdout.take().expect("it has one"));
        let (recording, recordings, fetched) = (None, Vec::new(), Vec::new());
        let (can_record, replays) = (true, usize::MAX);
        Some(Self { child, input, output, recording, recordings, fetched, can_record, replays })
    }

    fn say(&mut self, words: &[&[u8]]) {
        if let Some(recording) = &mut self.recording {
            recording.extend(words.concat());
            return;
        }
        for word in words {
            self.input.write_all(word).expect("the emulated GPU listens");
        }
    }

    fn is_not_recording(&self) {
        assert!(self.recording.is_none(), "only products and kernels are recorded");
    }

    fn hear(&mut self, bytes: &mut [u8]) {
        self.input.flush().expect("the emulated GPU listens");
        let output = self.output.get_mut().unwrap_or_else(PoisonError::into_inner);
        output.read_exact(bytes).expect("the emulated GPU answers");
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says so to whoever reads the run")]
pub(super) fn skipped(test: &str, why: &str) {
    eprintln!("{test}: skipped, {why}");
}

/// Builds the program for a shape, once.
fn program(shape: Shape) -> Option<PathBuf> {
    static BUILT: LazyLock<Mutex<HashMap<Vec<String>, Option<PathBuf>>>> =
        LazyLock::new(Mutex::default);
    static FOLDER: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("there is room for a folder"));
    let definitions = shape.definitions();
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let next = built.len();
    let make = || {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let source = |file: &str| root.join("src/native/cuda").join(file).display().to_string();
        let program = FOLDER.path().join(format!("emulator-{next}"));
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let ran = Command::new(compiler)
            .args([
                "-std=c++17",
                "-O3",
                "-march=native",
                "-fno-strict-aliasing",
                "-U_FORTIFY_SOURCE",
            ])
            .args(&definitions)
            .arg(format!("-DKERNELS=\"{}\"", source("kernels.cu")))
            .arg(format!("-DCHOOSING=\"{}\"", source("choosing.cu")))
            .arg(root.join("tests/emulator/main.cpp"))
            .arg("-o")
            .arg(&program)
            .output();
        match ran {
            Ok(ran) => {
                assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
                assert!(fs::exists(&program).expect("its folder is there"));
                Some(program)
            }
            Err(_) => None,
        }
    };
    built.entry(definitions.clone()).or_insert_with(make).clone()
}

impl Device for Emulated {
    fn name(&self) -> String {
        "emulated GPU".to_owned()
    }

    fn free_bytes(&self) -> Result<u64, EngineError> {
        Ok(ROOM)
    }

    fn allocate(&mut self, bytes: usize) -> Result<Memory, EngineError> {
        self.is_not_recording();
        let mut address = [0; 8];
        self.say(&[b"a", &(bytes as u64).to_le_bytes()]);
        self.hear(&mut address);
        Ok(Memory { address: u64::from_le_bytes(address), bytes })
    }

    fn write(&mut self, to: Memory, bytes: &[u8]) -> Result<(), EngineError> {
        self.is_not_recording();
        assert!(bytes.len() <= to.bytes, "what is written has room");
        let (address, length) = (to.address.to_le_bytes(), (bytes.len() as u64).to_le_bytes());
        self.say(&[b"w", &address, &length, bytes]);
        Ok(())
    }

    fn mark(&mut self) -> Result<Mark, EngineError> {
        self.is_not_recording();
        Ok(Mark(0))
    }

    // As late as it can be: after all that it was told since the mark, too.
    fn read_at(&mut self, _: Mark, from: Memory, bytes: &mut [u8]) -> Result<(), EngineError> {
        self.is_not_recording();
        assert!(bytes.len() <= from.bytes, "what is read is there");
        let (address, length) = (from.address.to_le_bytes(), (bytes.len() as u64).to_le_bytes());
        self.say(&[b"r", &address, &length]);
        self.hear(bytes);
        Ok(())
    }

    fn fetch_at(&mut self, mark: Mark, pieces: &[Memory]) -> Result<(), EngineError> {
        let mut fetched = vec![0; pieces.iter().map(|piece| piece.bytes).sum()];
        let mut rest = &mut fetched[..];
        for piece in pieces {
            let (own, behind) = rest.split_at_mut(piece.bytes);
            self.read_at(mark, *piece, own)?;
            rest = behind;
        }
        self.fetched = fetched;
        Ok(())
    }

    fn fetched(&self) -> &[u8] {
        &self.fetched
    }

    fn multiply(&mut self, product: &Product) -> Result<(), EngineError> {
        let Product { weights, input, output, rows, columns, depth, is_wide } = *product;
        assert!(rows * depth * 2 <= input.bytes && columns * depth * 2 <= weights.bytes);
        assert!(rows * columns * if is_wide { 4 } else { 2 } <= output.bytes);
        let addresses = [weights, input, output].map(|memory| memory.address.to_le_bytes());
        let numbers = [rows, columns, depth, usize::from(is_wide)]
            .map(|number| u32::try_from(number).expect("it is small").to_le_bytes());
        self.say(&[b"m", &addresses.concat(), &numbers.concat()]);
        Ok(())
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), EngineError> {
        let number = |number: usize| u32::try_from(number).expect("it is small").to_le_bytes();
        let name = launch.kernel.as_bytes();
        let [width, height] = launch.grid.map(number);
        self.say(&[b"k", &number(name.len()), name, &width, &height, &number(launch.threads)]);
        self.say(&[&number(launch.arguments.len())]);
        for argument in launch.arguments {
            let (kind, word) = match argument {
                Argument::Address(memory) => (b"p", memory.map_or(0, |memory| memory.address)),
                Argument::Number(number) => (b"i", u64::from(number.cast_unsigned())),
                Argument::Fraction(fraction) => (b"f", u64::from(fraction.to_bits())),
            };
            self.say(&[kind, &word.to_le_bytes()]);
        }
        Ok(())
    }

    fn record(&mut self) -> Result<(), EngineError> {
        self.is_not_recording();
        self.recording = Some(Vec::new());
        Ok(())
    }

    fn recorded(&mut self) -> Result<Recording, EngineError> {
        let recording = self.recording.take().expect("it is recording");
        if !self.can_record {
            return Err(EngineError::machine("this GPU records nothing"));
        }
        self.recordings.push(recording);
        Ok(Recording(self.recordings.len() - 1))
    }

    fn replay(&mut self, recording: Recording) -> Result<(), EngineError> {
        self.is_not_recording();
        self.replays =
            self.replays.checked_sub(1).ok_or_else(|| EngineError::machine("out of memory"))?;
        let words = std::mem::take(&mut self.recordings[recording.0]);
        self.say(&[&words]);
        self.recordings[recording.0] = words;
        Ok(())
    }

    fn forget(&mut self) -> Result<(), EngineError> {
        self.is_not_recording();
        self.recordings.clear();
        Ok(())
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // It is killed and not asked: nothing of it is wanted any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
