//! Labels: the names that instances get before they exist.
//!
//! ```text
//! pw-k3v9qa-nov24-7kq3-2-1-t4f8w2-x9m2c7
//!    owner  run        │ │ expires nonce
//!                   slot attempt
//! ```
//!
//! A label says whose an instance is and until when, to any computer that can list the account.
//! All fields are lower-case letters and digits, so that every marketplace keeps them as they are.
//! In a ledger, one that was given to two instances is told from itself by what follows a `+`.

use jiff::Timestamp;
use providers::{InstanceId, Label};
use rand::{RngExt, rngs::ThreadRng};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Digits of numbers and names: no vowels, so no words, and nothing that is easily misread.
const ALPHABET: &[u8; 31] = b"0123456789bcdfghjkmnpqrstvwxyz_";
const LETTERS: usize = 30;

/// How long an owner may be, so that all marketplaces keep a label whole.
pub const LONGEST_OWNER: usize = 12;

/// The word that every label of ours begins with.
const PREFIX: &str = "pw";

/// The computer, and the user on it, that rents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner(pub String);

impl Owner {
    /// A new one.
    pub fn random() -> Self {
        Self(random(6))
    }

    /// Whether a label that names it can be read again.
    pub fn fits_labels(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (1..=LONGEST_OWNER).contains(&self.0.len()) && self.0.bytes().all(plain)
    }
}

/// A run's name: `nov24-7kq3`, the day it was begun and four random letters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(String);

impl RunId {
    /// A new one, for a run that begins at `now`.
    pub fn random(now: Timestamp) -> Self {
        let day = now.strftime("%b%d").to_string().to_lowercase();
        Self(format!("{day}-{}", random(4)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that isn't a run's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a run; names look like nov24-7kq3")]
pub struct NotARun(String);

impl FromStr for RunId {
    type Err = NotARun;

    fn from_str(text: &str) -> Result<Self, NotARun> {
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        match text.split_once('-') {
            Some((day, rest)) if plain(day) && plain(rest) => Ok(Self(text.to_owned())),
            Some(_) | None => Err(NotARun(text.to_owned())),
        }
    }
}

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Who rents.
    pub owner: Owner,
    /// For which run.
    pub run: RunId,
    /// Which of the run's machines.
    pub slot: u32,
    /// The how-manieth try for it, from 0.
    pub attempt: u32,
    /// When it is over in any case.
    pub expires: Timestamp,
    /// Makes the label one of its kind.
    pub nonce: String,
}

impl Stamp {
    /// A new one, with a nonce of its own.
    pub fn new(owner: &Owner, run: &RunId, slot: u32, attempt: u32, expires: Timestamp) -> Self {
        let (owner, run) = (owner.clone(), run.clone());
        Self { owner, run, slot, attempt, expires, nonce: random(6) }
    }

    /// The label that says this.
    pub fn label(&self) -> Label {
        let expires = digits(u64::try_from(self.expires.as_second()).unwrap_or(0));
        let Self { owner, run, slot, attempt, nonce, .. } = self;
        Label(format!("{PREFIX}-{}-{run}-{slot}-{attempt}-{expires}-{nonce}", owner.0))
    }

    /// What a label says, if it is one of ours.
    pub fn read(label: &Label) -> Option<Self> {
        let own = label.0.split_once('+').map_or(label.0.as_str(), |(own, _)| own);
        let fields: Vec<&str> = own.split('-').collect();
        let [PREFIX, owner, day, rest, slot, attempt, expires, nonce] = fields[..] else {
            return None;
        };
        Some(Self {
            owner: Owner(owner.to_owned()),
            run: format!("{day}-{rest}").parse().ok()?,
            slot: slot.parse().ok()?,
            attempt: attempt.parse().ok()?,
            expires: Timestamp::from_second(i64::try_from(number(expires)?).ok()?).ok()?,
            nonce: nonce.to_owned(),
        })
    }
}

/// What an instance goes by that has the label of another.
pub fn twin(label: &Label, id: &InstanceId) -> Label {
    Label(format!("{label}+{id}"))
}

fn random(length: usize) -> String {
    let mut rng = ThreadRng::default();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..LETTERS)])).collect()
}

fn digits(mut number: u64) -> String {
    let mut text = Vec::new();
    while 0 < number || text.is_empty() {
        text.push(ALPHABET[usize::try_from(number % LETTERS as u64).expect("it is below 30")]);
        number /= LETTERS as u64;
    }
    text.into_iter().rev().map(char::from).collect()
}

fn number(text: &str) -> Option<u64> {
    text.bytes().try_fold(0_u64, |number, byte| {
        let digit = ALPHABET[..LETTERS].iter().position(|letter| *letter == byte)?;
        number.checked_mul(LETTERS as u64)?.checked_add(digit as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        let expires = Timestamp::from_second(1_795_600_000).expect("it is a time");
        let run = RunId::random(expires);
        Stamp::new(&Owner::random(), &run, 63, 12, expires)
    }

    #[test]
    fn a_label_says_what_it_was_made_of() {
        let stamp = stamp();
        assert_eq!(Stamp::read(&stamp.label()), Some(stamp));
    }

    #[test]
    fn a_twin_has_a_name_of_its_own_that_says_the_same() {
        let stamp = stamp();
        let twin = twin(&stamp.label(), &InstanceId("i-0a_1".into()));
        assert_eq!(twin.0, format!("{}+i-0a_1", stamp.label()));
        assert_eq!(Stamp::read(&twin), Some(stamp));
    }

    #[test]
    fn a_label_is_short_and_plain() {
        let label = stamp().label().0;
        assert!(label.len() <= 50, "{label} is {} long", label.len());
        assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }

    #[test]
    fn an_owner_fits_if_its_labels_can_be_read_and_are_kept_whole() {
        let longest = "a".repeat(LONGEST_OWNER);
        for (owner, fits) in [
            ("k3v9qa", true),
            (longest.as_str(), true),
            ("", false),
            ("my-laptop", false),
            ("MyLaptop", false),
            ("größe", false),
            ("a b", false),
            ("aaaaaaaaaaaaa", false),
        ] {
            let owner = Owner(owner.to_owned());
            assert_eq!(owner.fits_labels(), fits, "{owner:?}");
            let stamp = Stamp { owner, ..stamp() };
            // The shortest limit of any marketplace.
            let kept = Stamp::read(&stamp.label()) == Some(stamp.clone());
            assert!(!fits || kept && stamp.label().0.len() <= 60, "{stamp:?}");
        }
    }

    #[test]
    fn other_peoples_labels_are_not_ours() {
        for text in ["", "pw", "my-training-box", "pw-a-b-c-d-e-f-g", "pw-a-b-c-1-1-zz-g-h"] {
            assert_eq!(Stamp::read(&Label(text.into())), None, "{text}");
        }
    }

    #[test]
    fn a_run_is_named_after_its_day() {
        let day = Timestamp::from_second(1_795_600_000).expect("it is a time");
        let run = RunId::random(day).to_string();
        assert!(run.starts_with("nov25-"), "{run}");
        assert_eq!(run.parse::<RunId>().map(|run| run.to_string()), Ok(run));
        assert!("../etc".parse::<RunId>().is_err() && "nov24".parse::<RunId>().is_err());
    }
}
