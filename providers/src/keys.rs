//! Public SSH keys on accounts, for marketplaces that take a key by its name and not as it is.
//!
//! A key is registered once and found again by what it is. It stays on the account until somebody
//! who knows that it isn't needed any more removes it: it is no secret and costs nothing.

use crate::{Error, ErrorKind};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt::Write};

/// What our names begin with.
const PREFIX: &str = "piecework-";

/// Digits of the fingerprint that follow.
const DIGITS: usize = 16;

/// A key on an account, in anybody's words.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Known {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(alias = "key", alias = "publicKey")]
    pub(crate) public_key: Option<String>,
}

/// The one of these that is this key.
pub(crate) fn find<'k>(known: &'k [Known], public_key: &str) -> Option<&'k Known> {
    let same = |known: &&Known| known.public_key.as_ref().is_some_and(|k| same(k, public_key));
    known.iter().find(same)
}

/// Whether a key of this name was registered by us.
pub(crate) fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The name that a key gets on an account: the same for the same key, so that registering it
/// twice is seen.
pub(crate) fn name(public_key: &str) -> String {
    format!("{PREFIX}{}", short(Sha256::new_with_prefix(essence(public_key))))
}

/// The first digits of a fingerprint.
pub(crate) fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(DIGITS / 2).fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("writing to a string can't fail");
        digits
    })
}

/// Whether two lines are the same key. Comments are not part of it.
pub(crate) fn same(one: &str, other: &str) -> bool {
    essence(one) == essence(other)
}

/// Nothing has been rented yet, so that a lost reply leaves nothing to look for.
pub(crate) fn before_renting(error: Error) -> Error {
    if error.kind == ErrorKind::Uncertain {
        return Error { kind: ErrorKind::Unavailable, ..error };
    }
    error
}

/// A start script for a marketplace that has no place for an environment.
pub(crate) fn with_environment(start: &str, env: &BTreeMap<String, String>) -> String {
    let mut script = String::from("#!/bin/sh\n");
    for (name, value) in env {
        let value = value.replace('\'', r"'\''");
        writeln!(script, "export {name}='{value}'").expect("writing to a string can't fail");
    }
    script + start
}

fn essence(public_key: &str) -> String {
    public_key.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_what_it_is() {
        let (one, other) = ("ssh-ed25519 AAAA one\n", "ssh-ed25519  AAAA");
        assert!(same(one, other));
        assert_eq!(name(one), name(other));
        assert!(!same(one, "ssh-ed25519 BBBB one"));
    }

    #[test]
    fn values_are_quoted_for_the_shell() {
        let env = BTreeMap::from([("A".to_owned(), "it's $HOME".to_owned())]);
        let script = with_environment("echo", &env);
        assert_eq!(script, "#!/bin/sh\nexport A='it'\\''s $HOME'\necho");
    }
}
