//! The end of a run: completions and errors in the order of the input.
//!
//! Two passes over each file, in constant memory: the first notes in a file of offsets where each
//! prompt's line is, the second follows the offsets. As workers answer nearly in order, the second
//! pass reads the disk nearly in order too, through a few blocks kept in memory.
//!
//! It may be killed anywhere and done again: the ordered files appear whole or not at all, the
//! partial ones go only after both are there, and `ordered.json` says that they may.

use super::{
    Bits, OutFormat, ResultsError, RunFiles,
    error::is_full,
    export::{Export, export},
    record::Kind,
    scan::{scan, sync_folder},
};
use jiff::Timestamp;
use memchr::memchr;
use providers::crash;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes read at once in the second pass, and how many blocks of them are kept: 32 MiB.
const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 128;

/// Offsets that are sorted in memory before they are written: 1 MiB.
const OFFSETS: usize = 64 << 10;

/// Where the completions go.
pub enum Out<'a> {
    /// To a file, which appears whole or not at all.
    File(&'a Path),
    /// To a stream, such as standard output.
    Stream(&'a mut (dyn Write + Send)),
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Prompts that have a completion.
    pub completed: u64,
    /// Prompts that have an error.
    pub failed: u64,
    /// Tokens of the completed prompts.
    pub tokens_in: u64,
    /// Tokens of their answers.
    pub tokens_out: u64,
}

/// Says that a run's results were put in order.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    #[serde(flatten)]
    ordered: Ordered,
    /// Whether the completions are kept as they came too, since some prompts failed and what was
    /// written can't be read back when they are tried again.
    #[serde(default)]
    kept: bool,
}

/// What the run came to, if its results were put in order already.
pub fn finished(files: &RunFiles) -> Option<Ordered> {
    marker(files).map(|marker| marker.ordered)
}

/// When they were, by the clock of the file system.
pub fn ordered_at(files: &RunFiles) -> Option<Timestamp> {
    let modified = fs::metadata(marker_path(files)).and_then(|about| about.modified());
    Timestamp::try_from(modified.ok()?).ok()
}

/// What the run has come to so far, also while a program works on it. Changes nothing.
///
/// Blocks while it reads the results, at the speed of the disk.
pub fn so_far(files: &RunFiles) -> Result<Ordered, ResultsError> {
    if let Some(ordered) = finished(files) {
        return Ok(ordered);
    }
    let completions = scan(files, Kind::Completions, |_, _| Ok(()))?;
    let errors = scan(files, Kind::Errors, |_, _| Ok(()))?;
    let mut ended = completions.found.clone();
    ended.extend(&errors.found);
    let completed = completions.found.count();
    Ok(Ordered {
        completed,
        failed: ended.count() - completed,
        tokens_in: completions.tokens.0,
        tokens_out: completions.tokens.1,
    })
}

fn marker(files: &RunFiles) -> Option<Marker> {
    serde_json::from_slice(&fs::read(marker_path(files)).ok()?).ok()
}

fn marker_path(files: &RunFiles) -> PathBuf {
    files.folder.join("ordered.json")
}

/// Puts a run's results in the order of its input: completions to `out` in `format`, errors to the
/// file `errors` if there are any. Then removes the partial files. Done again, it changes nothing.
///
/// Blocks for as long as it takes to read and write the results. Needs room for a copy of them
/// and 8 bytes for each prompt. The [`Sink`](super::Sink) must be closed.
pub fn order(
    files: &RunFiles,
    out: Out<'_>,
    format: OutFormat,
    errors: &Path,
) -> Result<Ordered, ResultsError> {
    if let Some(Marker { ordered, kept }) = marker(files) {
        remove_partials(files, kept)?;
        return Ok(ordered);
    }
    let completions = Offsets::of(files, Kind::Completions)?;
    let mut erred = Offsets::of(files, Kind::Errors)?;
    erred.leave_out(&completions.found);
    check_complete(files, &completions.found, &erred.found)?;
    let can_be_read_back = matches!(out, Out::File(_)) && format.is_as_kept();
    match out {
        Out::File(path) => write_file(files, path, &completions, format)?,
        Out::Stream(stream) => {
            let mut stream = Checked { stream, failed: false };
            completions.copy(files, format, &mut stream).map_err(|source| {
                let path = files.completions();
                if stream.failed {
                    ResultsError::Outlet { kept: path, source: Arc::new(source) }
                } else {
                    files.io(&path, "read", source)
                }
            })?;
        }
    }
    if 0 < erred.found.count() {
        write_file(files, errors, &erred, OutFormat::default())?;
    } else {
        // One that an earlier session wrote would name prompts that are done now.
        remove(files, errors)?;
    }
    let ordered = Ordered {
        completed: completions.found.count(),
        failed: erred.found.count(),
        tokens_in: completions.tokens.0,
        tokens_out: completions.tokens.1,
    };
    let kept = !can_be_read_back && 0 < ordered.failed;
    let text = serde_json::to_vec(&Marker { ordered, kept }).expect("five values are JSON");
    appear(files, &marker_path(files), 0, |file| file.write_all(&text))?;
    remove_partials(files, kept)?;
    Ok(ordered)
}

/// Makes a run go on of which some prompts failed when its results were put in order: where the
/// completions weren't kept as they came, those in the file `out` are copied back. Does nothing to
/// a run that isn't over, or of which nothing failed.
///
/// May be killed anywhere and done again. [`order`] to the same `out` replaces that file.
pub fn reopen(files: &RunFiles, out: Option<&Path>) -> Result<(), ResultsError> {
    let Some(Marker { ordered, kept }) = marker(files) else { return Ok(()) };
    match out {
        _ if ordered.failed == 0 => return Ok(()),
        Some(out) if !kept => {
            let mut back = File::open(out).map_err(|error| files.io(out, "opened", error))?;
            let bytes = back.metadata().map_or(0, |data| data.len());
            appear(files, &files.completions(), bytes, |file| io::copy(&mut back, file).map(drop))?;
        }
        Some(_) | None => {}
    }
    remove(files, &marker_path(files))?;
    sync_folder(files, &files.folder)
}

/// Checks that a file can appear at `path`, before a run costs anything.
pub fn check_writable(files: &RunFiles, path: &Path) -> Result<(), ResultsError> {
    let partial = partial(files, path);
    let made = if path.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        File::create(&partial).and_then(|_| fs::remove_file(&partial))
    };
    made.map_err(|source| ResultsError::Unwritable {
        path: path.to_owned(),
        source: Arc::new(source),
    })
}

fn check_complete(files: &RunFiles, done: &Bits, failed: &Bits) -> Result<(), ResultsError> {
    let mut ended = done.clone();
    ended.extend(failed);
    let (prompts, run) = (files.prompts, files.run.clone());
    match ended.first_missing() {
        Some(first) => {
            let missing = prompts - ended.count();
            Err(ResultsError::Missing { missing, first, prompts, run })
        }
        None => Ok(()),
    }
}

fn remove_partials(files: &RunFiles, keep: bool) -> Result<(), ResultsError> {
    for kind in [Kind::Completions, Kind::Errors] {
        remove(files, &Offsets::path(files, kind))?;
        if !(keep && kind == Kind::Completions) {
            remove(files, &files.path(kind))?;
        }
    }
    sync_folder(files, &files.folder)
}

fn remove(files: &RunFiles, path: &Path) -> Result<(), ResultsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(files.io(path, "removed", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_file(
    files: &RunFiles,
    path: &Path,
    offsets: &Offsets,
    format: OutFormat,
) -> Result<(), ResultsError> {
    appear(files, path, offsets.bytes, |file| offsets.copy(files, format, file))
}

/// Writes a file that appears whole and durable, or not at all.
fn appear(
    files: &RunFiles,
    path: &Path,
    bytes: u64,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), ResultsError> {
    let partial = partial(files, path);
    let written = (|| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
        write(&mut file)?;
        file.into_inner()?.sync_all()?;
        crash::point("order: a file before it appears");
        fs::rename(&partial, path)?;
        crash::point("order: a file that has appeared");
        Ok(())
    })();
    written.map_err(|source| {
        // What is there may be incomplete, and takes room.
        drop(fs::remove_file(&partial));
        if is_full(&source) {
            let (path, run) = (path.to_owned(), files.run.clone());
            ResultsError::Full { path, needed: bytes, run }
        } else {
            files.io(path, "written", source)
        }
    })?;
    sync_folder(files, folder_of(path))
}

/// The name under which a file is written before it appears.
fn partial(files: &RunFiles, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".{name}.{}.partial", files.run))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    }
}

/// Where in a file of results each prompt's line is.
struct Offsets {
    kind: Kind,
    /// For each prompt 8 bytes, little-endian: 1 more than the offset of its line, or 0.
    path: PathBuf,
    /// The prompts whose lines are to be copied.
    found: Bits,
    tokens: (u64, u64),
    /// Bytes of the results.
    bytes: u64,
}

impl Offsets {
    fn path(files: &RunFiles, kind: Kind) -> PathBuf {
        files.folder.join(match kind {
            Kind::Completions => "completions.offsets",
            Kind::Errors => "errors.offsets",
        })
    }

    fn of(files: &RunFiles, kind: Kind) -> Result<Self, ResultsError> {
        let path = Self::path(files, kind);
        let failed = |source: io::Error| {
            if is_full(&source) {
                let (path, run) = (path.clone(), files.run.clone());
                ResultsError::Full { path, needed: files.prompts * 8, run }
            } else {
                files.io(&path, "written", source)
            }
        };
        let mut file = File::create(&path).map_err(failed)?;
        file.set_len(files.prompts * 8).map_err(failed)?;
        let mut pairs = Vec::with_capacity(OFFSETS);
        let scan = scan(files, kind, |index, offset| {
            pairs.push((index, offset + 1));
            if pairs.len() < OFFSETS { Ok(()) } else { save(&mut pairs, &mut file).map_err(failed) }
        })?;
        save(&mut pairs, &mut file).map_err(failed)?;
        Ok(Self { kind, path, found: scan.found, tokens: scan.tokens, bytes: scan.end })
    }

    /// Leaves out the lines of these prompts.
    fn leave_out(&mut self, others: &Bits) {
        let mut found = Bits::new(self.found.bound());
        let kept = |index: &u64| self.found.contains(*index) && !others.contains(*index);
        for index in (0..self.found.bound()).filter(kept) {
            found.insert(index);
        }
        self.found = found;
    }

    /// Writes the lines in the order of their prompts.
    fn copy(
        &self,
        files: &RunFiles,
        format: OutFormat,
        to: &mut (dyn Write + Send),
    ) -> io::Result<()> {
        let mut export = export(format, to)?;
        if 0 < self.found.count() {
            self.copy_lines(files, &mut *export)?;
        }
        export.finish()
    }

    fn copy_lines(&self, files: &RunFiles, export: &mut dyn Export) -> io::Result<()> {
        let mut line = Vec::new();
        let mut offsets = BufReader::with_capacity(1 << 20, File::open(&self.path)?);
        let mut blocks = Blocks::new(File::open(files.path(self.kind))?);
        for index in 0..self.found.bound() {
            let mut offset = [0; 8];
            offsets.read_exact(&mut offset)?;
            if self.found.contains(index) {
                line.clear();
                blocks.copy_line(u64::from_le_bytes(offset) - 1, &mut line)?;
                export.line(&line)?;
            }
        }
        Ok(())
    }
}

/// Writes offsets to their places, neighbours together.
fn save(pairs: &mut Vec<(u64, u64)>, file: &mut File) -> io::Result<()> {
    pairs.sort_unstable();
    for run in pairs.chunk_by(|one, next| one.0 + 1 == next.0) {
        let bytes: Vec<u8> = run.iter().flat_map(|(_, offset)| offset.to_le_bytes()).collect();
        file.seek(SeekFrom::Start(run[0].0 * 8))?;
        file.write_all(&bytes)?;
    }
    pairs.clear();
    Ok(())
}

/// A file, of which the blocks last used are kept in memory.
struct Blocks {
    file: File,
    kept: HashMap<u64, (Vec<u8>, u64)>,
    clock: u64,
}

impl Blocks {
    fn new(file: File) -> Self {
        Self { file, kept: HashMap::new(), clock: 0 }
    }

    /// Appends the line at an offset, with its newline.
    fn copy_line(&mut self, mut offset: u64, to: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let at = usize::try_from(offset % BLOCK as u64).expect("it is less than a block");
            let block = self.block(offset / BLOCK as u64)?;
            let rest = block.get(at..).filter(|rest| !rest.is_empty());
            // The first pass saw a newline there.
            let rest = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Some(end) = memchr(b'\n', rest) {
                to.extend_from_slice(&rest[..=end]);
                return Ok(());
            }
            to.extend_from_slice(rest);
            offset += rest.len() as u64;
        }
    }

    fn block(&mut self, number: u64) -> io::Result<&[u8]> {
        self.clock += 1;
        if !self.kept.contains_key(&number) {
            let mut bytes = if self.kept.len() < BLOCKS { Vec::new() } else { self.oldest() };
            bytes.clear();
            self.file.seek(SeekFrom::Start(number * BLOCK as u64))?;
            (&mut self.file).take(BLOCK as u64).read_to_end(&mut bytes)?;
            self.kept.insert(number, (bytes, 0));
        }
        let (bytes, used) = self.kept.get_mut(&number).expect("it was put there");
        *used = self.clock;
        Ok(bytes)
    }

    /// Takes the block that was not used for the longest time, for its memory.
    fn oldest(&mut self) -> Vec<u8> {
        let oldest = self.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
        oldest.and_then(|number| self.kept.remove(&number)).unwrap_or_default().0
    }
}

/// A stream that remembers whether it was the one to fail.
struct Checked<'a> {
    stream: &'a mut (dyn Write + Send),
    failed: bool,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes).inspect_err(|_| self.failed = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().inspect_err(|_| self.failed = true)
    }
}
