//! What renting puts on an account beside instances, and what instances leave there.

use crate::{Error, Label, Result, UsdPerHour, http::Reply, keys};

/// What kind of thing was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftoverKind {
    /// A public SSH key. It costs nothing, but an account has room for so many.
    PublicKey,
    /// The disk of an instance that is gone. It is billed.
    Disk,
}

/// Something of ours on an account that is no instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// The marketplace's name for it.
    pub id: String,
    /// Our name for it.
    pub name: String,
    /// What an hour of it costs, where the marketplace says so.
    pub price: Option<UsdPerHour>,
}

impl Leftover {
    /// Whether it was left by orders that let this key in.
    pub fn is_key(&self, public_key: &str) -> bool {
        self.kind == LeftoverKind::PublicKey && self.name == keys::name(public_key)
    }

    /// Whether it was left by the instance of this label.
    pub fn is_disk_of(&self, label: &Label) -> bool {
        self.kind == LeftoverKind::Disk && self.name == disk_name(label)
    }

    /// The label of the instance that has left it, if it is a disk.
    pub fn disk_label(&self) -> Option<Label> {
        let name = self.name.strip_prefix(DISK).filter(|_| self.kind == LeftoverKind::Disk)?;
        Some(Label(name.to_owned()))
    }

    /// Those of an account's keys that we have put there.
    pub(crate) fn keys(known: Vec<keys::Known>) -> Vec<Self> {
        let ours = known.into_iter().filter(|key| keys::is_ours(&key.name));
        let kind = LeftoverKind::PublicKey;
        ours.map(|key| Self { kind, id: key.id, name: key.name, price: None }).collect()
    }
}

/// What the names of disks begin with.
const DISK: &str = "piecework-";

/// What the disk of an instance is called, where it has a name of its own.
pub(crate) fn disk_name(label: &Label) -> String {
    format!("{DISK}{label}")
}

/// Whether something was taken off: what isn't there has been.
pub(crate) fn removed(reply: Reply) -> Result<()> {
    if reply.status == 404 { Ok(()) } else { reply.accept() }
}

/// An id that is part of an address: an empty or strange one would make another address of it.
pub(crate) fn plain(id: &str, otherwise: impl FnOnce(&str) -> Error) -> Result<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.is_empty() || !id.bytes().all(plain) {
        return Err(otherwise(&format!("{id:?} is no id of this marketplace")));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_have_put_there_is_left_by_us() {
        let key = |name: &str| keys::Known { id: "1".into(), name: name.into(), public_key: None };
        let ours = keys::name("ssh-ed25519 AAAA");
        let names = [&*ours, "piecework-laptop", "laptop", ""];
        let left = Leftover::keys(names.map(key).into());
        assert_eq!(left.iter().map(|left| &left.name).collect::<Vec<_>>(), [&ours]);
        assert!(left[0].is_key("ssh-ed25519 AAAA of another comment"));
        assert!(!left[0].is_key("ssh-ed25519 BBBB") && !left[0].is_disk_of(&Label(ours)));
    }
}
