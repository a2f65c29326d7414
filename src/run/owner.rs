//! Who rents from here, in a file of its own: made up once, and the same ever after.

use crate::label::Owner;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// The owner that the file at `path` names. Where it names none, a new one is written into it.
pub(super) fn read_or_make(path: &Path) -> io::Result<Owner> {
    if let Some(owner) = read(path)? {
        return Ok(owner);
    }
    // Several programs may begin at once, and one of them is the first.
    let lock = path.with_extension("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock)?;
    lock.lock()?;
    if let Some(owner) = read(path)? {
        return Ok(owner);
    }
    let owner = Owner::random();
    let mut draft = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    draft.write_all(owner.0.as_bytes())?;
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    Ok(owner)
}

/// None where there is no file, or nothing in it: two computers that are both nobody would end each
/// other's instances.
fn read(path: &Path) -> io::Result<Option<Owner>> {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(Some(text.trim()).filter(|text| !text.is_empty()).map(|text| Owner(text.to_owned())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Barrier, thread};

    #[test]
    fn all_who_begin_at_once_are_the_same_owner_also_where_the_file_is_empty() {
        for content in [None, Some(""), Some(" \n")] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("owner");
            if let Some(content) = content {
                fs::write(&path, content).expect("it can be written");
            }
            let start = Barrier::new(8);
            let begin = || {
                start.wait();
                read_or_make(&path).expect("it can be read")
            };
            let owners: Vec<Owner> = thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
                all.into_iter().map(|one| one.join().expect("it doesn't panic")).collect()
            });
            assert!(owners[0].fits_labels(), "{content:?} made {:?}", owners[0]);
            assert!(owners.iter().all(|owner| *owner == owners[0]), "{content:?}: {owners:?}");
            assert_eq!(read_or_make(&path).expect("it can be read"), owners[0]);
        }
    }

    #[test]
    fn a_file_that_names_somebody_is_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("owner");
        for (content, owner) in [(&b"k3v9qa\n"[..], "k3v9qa"), (b"my-laptop", "my-laptop")] {
            fs::write(&path, content).expect("it can be written");
            assert_eq!(read_or_make(&path).expect("it can be read"), Owner(owner.to_owned()));
            assert_eq!(fs::read(&path).expect("it is there"), content);
        }
        fs::write(&path, b"\xff\xfe").expect("it can be written");
        assert!(!read_or_make(&path).expect("it can be read").fits_labels());
    }
}
