//! From a file into a store, in parts, each of which is sent once.
//!
//! What was sent is noted in a file, so that a program that was killed goes on with the next part.

use super::{ObjectError, Place, file_error};
use object_store::{
    MultipartId, ObjectStoreExt, PutPayload,
    multipart::{MultipartStore, PartId},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};
use tokio::task::{JoinSet, spawn_blocking};

/// The version of the note.
const VERSION: u32 = 1;

/// The least size of a part, and the most of them that a store takes.
const PART: u64 = 8 << 20;
const PARTS: u64 = 9_000;

/// How many parts are under way at once: each is held in memory.
const AT_ONCE: usize = 4;

/// What of a file is in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    v: u32,
    /// Where.
    url: String,
    /// Bytes of the file.
    size: u64,
    /// Bytes of a part, but for the last.
    part: u64,
    /// The store's name for the transfer.
    id: String,
    /// The store's name for each part that it has.
    parts: Vec<Option<String>>,
    /// Whether it is there as a whole.
    whole: bool,
}

impl Sent {
    fn new(url: &str, size: u64, id: String) -> Self {
        let part = PART.max(size.div_ceil(PARTS));
        let parts = usize::try_from(size.div_ceil(part)).expect("they are at most some thousands");
        Self {
            v: VERSION,
            url: url.to_owned(),
            size,
            part,
            id,
            parts: vec![None; parts],
            whole: false,
        }
    }

    /// How many bytes are there, to a part.
    fn bytes(&self) -> u64 {
        (self.parts.iter().flatten().count() as u64 * self.part).min(self.size)
    }

    /// What was noted of this file for this place, if anything.
    fn read(note: &Path, url: &str, size: u64) -> Option<Self> {
        let sent: Self = serde_json::from_slice(&fs::read(note).ok()?).ok()?;
        (sent.v == VERSION && sent.url == url && sent.size == size).then_some(sent)
    }

    /// Whether `note` says that all of the file is there.
    pub fn is_whole(note: &Path, url: &str) -> bool {
        let sent = fs::read(note).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        sent.is_some_and(|sent| sent.v == VERSION && sent.url == url && sent.whole)
    }

    fn write(&self, note: &Path) -> Result<(), ObjectError> {
        let draft = note.with_extension("draft");
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&serde_json::to_vec(self).expect("plain values are JSON"))?;
            file.sync_all()?;
            fs::rename(&draft, note)
        };
        write().map_err(|error| file_error(note, "written", error))
    }
}

impl Place {
    /// Sees whether it could be written to, and leaves nothing there.
    pub async fn try_out(&self) -> Result<(), ObjectError> {
        let (parts, path) = (self.parts()?, self.path()?);
        let id = parts.create_multipart(&path).await;
        let id = id.map_err(|error| self.failed("written", error))?;
        parts.abort_multipart(&path, &id).await.map_err(|error| self.failed("written", error))
    }

    /// Sends a file that is whole, and goes on with what `note` says was sent before. Done again, it
    /// does nothing. `progress` hears how many bytes are there.
    pub async fn send(
        &self,
        from: &Path,
        note: &Path,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ObjectError> {
        let failed = |error| self.failed("written", error);
        let (parts, path) = (self.parts()?, self.path()?);
        let about = fs::metadata(from).map_err(|error| file_error(from, "read", error))?;
        let size = about.len();
        let mut sent = match Sent::read(note, &self.url, size) {
            Some(sent) if sent.whole => return Ok(()),
            Some(sent) => sent,
            None => Sent::new(&self.url, size, String::new()),
        };
        if sent.parts.len() < 2 {
            // One request says it all.
            progress(0, size);
            let content = read_part(from, 0, size).await?;
            self.store.put(&path, PutPayload::from(content)).await.map_err(failed)?;
            sent.whole = true;
            return sent.write(note);
        }
        if sent.id.is_empty() {
            sent.id = parts.create_multipart(&path).await.map_err(failed)?;
            sent.write(note)?;
        }
        match self.send_parts(from, note, &mut sent, &mut progress).await {
            // The store has dropped what it had, as it may after some days.
            Err(ObjectError::Missing(_)) => {
                let id = parts.create_multipart(&path).await.map_err(failed)?;
                sent = Sent::new(&self.url, size, id);
                sent.write(note)?;
                self.send_parts(from, note, &mut sent, &mut progress).await
            }
            other => other,
        }
    }

    async fn send_parts(
        &self,
        from: &Path,
        note: &Path,
        sent: &mut Sent,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), ObjectError> {
        let (store, path) = (self.parts()?, self.path()?);
        let id: MultipartId = sent.id.clone();
        progress(sent.bytes(), sent.size);
        let missing = (0..sent.parts.len()).filter(|at| sent.parts[*at].is_none());
        let mut missing = missing.collect::<Vec<_>>().into_iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(at) = missing.next()
            {
                let begin = sent.part * at as u64;
                let content = read_part(from, begin, sent.part.min(sent.size - begin)).await?;
                let (store, path, id) = (store.clone(), path.clone(), id.clone());
                under_way.spawn(async move {
                    (at, store.put_part(&path, &id, at, PutPayload::from(content)).await)
                });
            }
            let Some(ended) = under_way.join_next().await else { break };
            let (at, part) = ended.expect("sending does not panic");
            let part = part.map_err(|error| self.failed("written", error))?;
            sent.parts[at] = Some(part.content_id);
            sent.write(note)?;
            progress(sent.bytes(), sent.size);
        }
        let all = sent.parts.iter().flatten().cloned();
        let all = all.map(|content_id| PartId { content_id }).collect();
        let whole = store.complete_multipart(&path, &id, all).await;
        whole.map_err(|error| self.failed("written", error))?;
        sent.whole = true;
        sent.write(note)
    }

    fn parts(&self) -> Result<&Arc<dyn MultipartStore>, ObjectError> {
        self.parts.as_ref().ok_or_else(|| ObjectError::ReadOnly(self.url.clone()))
    }
}

async fn read_part(from: &Path, begin: u64, length: u64) -> Result<Vec<u8>, ObjectError> {
    let path = from.to_owned();
    let read = spawn_blocking(move || {
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(begin))?;
        let mut content = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
        file.read_exact(&mut content)?;
        Ok(content)
    });
    let read = read.await.expect("reading does not panic");
    read.map_err(|error| file_error(from, "read", error))
}
