//! One file from a hub: resumed where it was cut, verified, and then put in its place.

use super::{
    SourceError,
    digest::{Digest, Hasher},
    http::{Client, Failure, Patience, header},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Component, Path},
};

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its path inside the repository, and inside the folder that it goes to.
    pub(super) path: String,
    /// Its size in bytes.
    pub(super) size: u64,
    /// What it hashes to.
    pub(super) digest: Digest,
}

/// Brings `item` from `url` into `folder`, unless it is there already. `progress` is told how
/// many of its bytes are here.
pub(super) fn download(
    client: &Client<'_>,
    patience: &mut Patience<'_>,
    url: &str,
    item: &Item,
    folder: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), SourceError> {
    if !Path::new(&item.path).components().all(|part| matches!(part, Component::Normal(_))) {
        let reason = format!("a file named {:?}", item.path);
        return Err(SourceError::BadAnswer { url: url.to_owned(), reason });
    }
    let place = folder.join(&item.path);
    if is_there(item, &place) {
        progress(item.size);
        return Ok(());
    }
    let parent = place.parent().expect("it is inside a folder");
    fs::create_dir_all(parent).map_err(SourceError::disk(parent, "created"))?;
    // The checksum in the name keeps the parts of two revisions of a file apart.
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let part_path = parent.join(format!(".{name}.{:.8}.part", item.digest.hex()));
    let mut found = String::new();
    for _ in 0..2 {
        let mut part = Part::open(&part_path, item)?;
        while part.length < item.size {
            progress(part.length);
            let before = part.length;
            let poured = client
                .ask(url, part.length)
                .and_then(|response| pour(response, &mut part, item.size, progress));
            if before < part.length {
                patience.renew();
            }
            if let Err(failure) = poured {
                patience.after(failure)?;
            }
        }
        progress(part.length);
        let digest = part.hasher.finish();
        if digest == item.digest {
            return fs::rename(&part_path, &place).map_err(SourceError::disk(&place, "written"));
        }
        found = digest.to_string();
        fs::remove_file(&part_path).map_err(SourceError::disk(&part_path, "removed"))?;
    }
    let expected = item.digest.to_string();
    Err(SourceError::Damaged { file: item.path.clone(), expected, found })
}

/// Whether an earlier fetch, that was cut before its end, has brought it.
fn is_there(item: &Item, place: &Path) -> bool {
    fs::metadata(place).is_ok_and(|found| found.len() == item.size)
        && item.digest.of_file(place).is_ok_and(|found| found == item.digest)
}

/// The beginning of a file, hashed as it grows.
struct Part<'a> {
    path: &'a Path,
    item: &'a Item,
    file: File,
    length: u64,
    hasher: Hasher,
}

impl<'a> Part<'a> {
    /// What an earlier attempt left at `path`, or nothing.
    fn open(path: &'a Path, item: &'a Item) -> Result<Self, SourceError> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path);
        let file = file.map_err(SourceError::disk(path, "opened"))?;
        let mut part = Self { path, item, file, length: 0, hasher: item.digest.hasher(item.size) };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = part.file.read(&mut buffer).map_err(SourceError::disk(path, "read"))?;
            part.hasher.update(&buffer[..read]);
            part.length += read as u64;
            match (read, part.length <= item.size) {
                (0, _) => return Ok(part),
                (_, true) => {}
                (_, false) => {
                    part.restart()?;
                    return Ok(part);
                }
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        self.file.write_all(bytes).map_err(SourceError::disk(self.path, "written"))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), SourceError> {
        self.file.set_len(0).map_err(SourceError::disk(self.path, "truncated"))?;
        self.hasher = self.item.digest.hasher(self.item.size);
        self.length = 0;
        Ok(())
    }
}

/// Pours an answer into the part, up to `size`, until it ends or breaks off.
fn pour(
    response: ureq::http::Response<ureq::Body>,
    part: &mut Part<'_>,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    match response.status().as_u16() {
        206 if range_start(header(&response, "content-range")) == Some(part.length) => {}
        // The whole file, from a host that knows no ranges.
        200 => part.restart().map_err(Failure::Final)?,
        _ => {
            part.restart().map_err(Failure::Final)?;
            return Err(Failure::temporary(&"it answered with a range that was not asked for"));
        }
    }
    let mut reader = response.into_body().into_reader();
    let mut buffer = vec![0; 256 << 10];
    while part.length < size {
        match reader.read(&mut buffer) {
            Ok(0) => return Err(Failure::temporary(&"the connection ended early")),
            Ok(read) => {
                let left = usize::try_from(size - part.length).unwrap_or(usize::MAX);
                part.push(&buffer[..read.min(left)]).map_err(Failure::Final)?;
                progress(part.length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::temporary(&error)),
        }
    }
    Ok(())
}

/// The first byte of `bytes 5-9/10`.
fn range_start(header: Option<&str>) -> Option<u64> {
    header?.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
