//! What a machine must show before anything is put on it: what it was rented for. Pure.
//!
//! A marketplace passes on what a host says of itself, and hosts err: a GPU that the container does
//! not see, one of less memory, an older driver, a full disk, a slow network. Each makes a machine
//! that is billed and answers nothing, or too slowly to be worth it.

use crate::remote::{answers, quote};
use providers::{Cuda, Gpus, Mib, Offer};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wire::{Model, Source};

/// What an offer promises, as far as a machine can be asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Its GPUs.
    pub gpus: Option<Gpus>,
    /// The newest CUDA that its driver can run.
    pub cuda: Option<Cuda>,
    /// Disk that the model and the worker will take.
    pub disk: Mib,
    /// How fast it reaches the internet, in Mbit/s.
    pub down: Option<u32>,
}

impl Promise {
    /// What is promised with `offer`, for work that takes this much disk.
    pub fn of(offer: &Offer, disk: Mib) -> Self {
        Self { gpus: offer.gpus.clone(), cuda: offer.cuda, disk, down: offer.network.down }
    }
}

/// What a machine shows of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Whether a run has put its worker to work on it, before which it had shown all this.
    pub used: bool,
    /// The memory of each GPU that its driver lists.
    pub gpus: Vec<Mib>,
    /// The newest CUDA that its driver can run.
    pub cuda: Option<Cuda>,
    /// Free disk, where it could be told.
    pub disk: Option<Mib>,
    /// Bytes of the model that it fetched to see how fast it is, and how long that took.
    pub fetched: Option<(u64, Duration)>,
}

/// What is wrong with a machine.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Its driver lists fewer GPUs than were rented.
    #[error("{} promised, and its driver lists {}", were(*promised), if *seen == 0 { "none".to_owned() } else { seen.to_string() })]
    Gpus {
        /// How many were promised.
        promised: u32,
        /// How many there are.
        seen: usize,
    },
    /// A GPU has less memory.
    #[error("GPUs of {promised} were promised, and one has {seen}")]
    Vram {
        /// What was promised.
        promised: Mib,
        /// What there is.
        seen: Mib,
    },
    /// Its driver is older.
    #[error("a driver for CUDA {promised} was promised, and it has one for {seen}")]
    Driver {
        /// What was promised.
        promised: Cuda,
        /// What there is.
        seen: Cuda,
    },
    /// Its disk is too full.
    #[error("the work takes {needed} of disk, and {free} are free")]
    Disk {
        /// What is needed.
        needed: Mib,
        /// What there is.
        free: Mib,
    },
    /// It is too slow to be worth the wait.
    #[error("it gets the model at {seen} Mbit/s, and {least} is the least that will do")]
    Slow {
        /// The least that would have done, in Mbit/s.
        least: u32,
        /// How fast it is, in Mbit/s.
        seen: u32,
    },
}

/// The script that asks a machine what it is, for `sh` to read. Where `model` is on a hub, the machine
/// fetches the beginning of it, for ten seconds at most.
pub fn script(model: &Model) -> String {
    let hub = model.sources.iter().find_map(|source| match source {
        Source::Hub { repo, revision, file, .. } => Some((repo, revision, file.as_deref())),
        Source::Path(_) | Source::Package { .. } => None,
    });
    let (repo, revision, file) = match hub {
        Some((repo, revision, file)) => (repo.as_str(), revision.as_str(), file.unwrap_or("")),
        None => ("", "", ""),
    };
    include_str!("../templates/smoke.sh")
        .replace("@REPO@", &quote(repo))
        .replace("@REVISION@", &quote(revision))
        .replace("@FILE@", &quote(file))
}

impl Seen {
    /// What the script's answer says. What can't be understood isn't told.
    pub fn read(text: &str) -> Self {
        let mebibytes = |line: &str| line.parse().ok().map(Mib);
        Self {
            used: answers(text, "used").next().is_some(),
            gpus: answers(text, "vram").filter_map(mebibytes).collect(),
            cuda: answers(text, "driver").find_map(cuda),
            disk: answers(text, "disk").find_map(free),
            fetched: answers(text, "fetched").find_map(fetched),
        }
    }
}

/// `| NVIDIA-SMI 570.86   Driver Version: 570.86   CUDA Version: 12.8 |`; later drivers say
/// `CUDA UMD Version`.
fn cuda(line: &str) -> Option<Cuda> {
    let (_, version) = line.split_once("CUDA")?.1.split_once("Version:")?;
    Cuda::parse(version.split_whitespace().next()?)
}

/// A line of `df -Pk`: device, size, used, available, and so on.
fn free(line: &str) -> Option<Mib> {
    let kibibytes: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    Some(Mib(kibibytes / 1024))
}

/// Status, bytes, seconds until the first of them came, and seconds until the last. A hub that says
/// no tells nothing of the machine.
fn fetched(line: &str) -> Option<(u64, Duration)> {
    let mut words = line.split_whitespace();
    let status = words.next()?;
    let bytes = words.next()?.parse().ok()?;
    let mut seconds = || words.next()?.parse::<f64>().ok();
    let (first, last) = (seconds()?, seconds()?);
    let time = Duration::try_from_secs_f64(last - first).ok()?;
    ["200", "206"].contains(&status).then_some((bytes, time))
}

fn were(gpus: u32) -> String {
    if gpus == 1 { "1 GPU was".to_owned() } else { format!("{gpus} GPUs were") }
}

/// The share of its promised memory, in hundredths, that a GPU must show. ECC takes a sixteenth of
/// it on cards with GDDR memory, and marketplaces round up to what is printed on the box.
const VRAM_SHARE: u64 = 90;

/// The least speed that will do where none was promised, and the most that is ever asked for, in
/// Mbit/s: 16 GB take an hour, and ten minutes.
const LEAST_DOWN: (u32, u32) = (40, 200);

/// A machine must be at least one in this many as fast as was promised. It is measured with one
/// connection for a few seconds, and promises are the best that was ever seen.
const DOWN_SHARE: u32 = 10;

/// Less than this, fetched in less time, tells nothing of a network: the connection isn't warm yet.
const TELLING: (u64, Duration) = (4 << 20, Duration::from_secs(5));

/// What is wrong with a machine that was to be as `promise` says, if anything is. What it doesn't
/// tell is not held against it, but for GPUs, without which nothing works.
pub fn judge(promise: &Promise, seen: &Seen) -> Result<(), Fault> {
    if seen.used {
        return Ok(());
    }
    if let Some(Gpus { count, vram, .. }) = promise.gpus {
        if seen.gpus.len() < count as usize {
            return Err(Fault::Gpus { promised: count, seen: seen.gpus.len() });
        }
        let small = |seen: &&Mib| seen.0 * 100 < vram.0 * VRAM_SHARE;
        if let Some(&seen) = seen.gpus.iter().find(small) {
            return Err(Fault::Vram { promised: vram, seen });
        }
    }
    if let Some((promised, seen)) = promise.cuda.zip(seen.cuda).filter(|(p, seen)| seen < p) {
        return Err(Fault::Driver { promised, seen });
    }
    if let Some(free) = seen.disk.filter(|free| *free < promise.disk) {
        return Err(Fault::Disk { needed: promise.disk, free });
    }
    let tells = |(bytes, time): &(u64, Duration)| TELLING.0 <= *bytes || TELLING.1 <= *time;
    if let Some((bytes, time)) = seen.fetched.filter(tells) {
        let least = promise.down.map(|down| (down / DOWN_SHARE).min(LEAST_DOWN.1));
        let least = least.unwrap_or(LEAST_DOWN.0);
        let speed = mbits(bytes, time);
        if speed < least {
            return Err(Fault::Slow { least, seen: speed });
        }
    }
    Ok(())
}

fn mbits(bytes: u64, time: Duration) -> u32 {
    let bits = u128::from(bytes) * 8 / time.as_micros().max(1);
    u32::try_from(bits).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise() -> Promise {
        let gpus = Gpus { name: "RTX 4090".to_owned(), count: 2, vram: Mib(24_564) };
        let cuda = Cuda::parse("12.4");
        Promise { gpus: Some(gpus), cuda, disk: Mib(20_000), down: Some(800) }
    }

    fn seen() -> Seen {
        Seen {
            used: false,
            gpus: vec![Mib(24_564), Mib(24_564)],
            cuda: Cuda::parse("12.8"),
            disk: Some(Mib(40_000)),
            fetched: Some((64 << 20, Duration::from_secs(1))),
        }
    }

    #[test]
    fn a_machine_that_is_what_was_promised_is_good() {
        assert_eq!(judge(&promise(), &seen()), Ok(()));
        // What it doesn't tell isn't held against it, nor what was never promised.
        let quiet = Seen { cuda: None, disk: None, fetched: None, ..seen() };
        assert_eq!(judge(&promise(), &quiet), Ok(()));
        assert_eq!(judge(&Promise::default(), &Seen::default()), Ok(()));
        // An L4 of 24 GB shows 23,034 MiB with ECC on.
        let l4 = Gpus { name: "L4".to_owned(), count: 1, vram: Mib(24_576) };
        let small = Seen { gpus: vec![Mib(23_034)], ..Seen::default() };
        assert_eq!(judge(&Promise { gpus: Some(l4), ..Promise::default() }, &small), Ok(()));
    }

    #[test]
    fn each_broken_promise_is_named() {
        let told = |seen: Seen| judge(&promise(), &seen).expect_err("it is at fault").to_string();
        let seconds = Duration::from_secs;
        for (broken, words) in [
            (Seen { gpus: vec![], ..seen() }, "2 GPUs were promised, and its driver lists none"),
            (
                Seen { gpus: vec![Mib(24_564)], ..seen() },
                "2 GPUs were promised, and its driver lists 1",
            ),
            (
                Seen { gpus: vec![Mib(24_564), Mib(12_282)], ..seen() },
                "GPUs of 23.9 GiB were promised, and one has 11.9 GiB",
            ),
            (
                Seen { cuda: Cuda::parse("12.2"), ..seen() },
                "a driver for CUDA 12.4 was promised, and it has one for 12.2",
            ),
            (
                Seen { disk: Some(Mib(10_240)), ..seen() },
                "the work takes 19.5 GiB of disk, and 10.0 GiB are free",
            ),
            (
                Seen { fetched: Some((50_000_000, seconds(10))), ..seen() },
                "it gets the model at 40 Mbit/s, and 80 is the least that will do",
            ),
            (
                Seen { fetched: Some((0, seconds(10))), ..seen() },
                "it gets the model at 0 Mbit/s, and 80 is the least that will do",
            ),
        ] {
            assert_eq!(told(broken), words);
        }
    }

    #[test]
    fn how_fast_a_machine_must_be_depends_on_what_was_promised() {
        for (down, least) in [(Some(100), 10), (Some(800), 80), (Some(10_000), 200), (None, 40)] {
            let promise = Promise { down, ..Promise::default() };
            let at = |mbits: u64| {
                let fetched = Some((mbits * 125_000 * 10, Duration::from_secs(10)));
                judge(&promise, &Seen { fetched, ..Seen::default() })
            };
            assert_eq!(at(least), Ok(()), "{down:?}");
            assert!(at(least - 1).is_err(), "{down:?}");
        }
        // A small file says little: it has come before the connection is warm.
        let small = Seen { fetched: Some((600, Duration::from_secs(1))), ..Seen::default() };
        assert_eq!(judge(&Promise::default(), &small), Ok(()));
    }

    #[test]
    fn the_answer_of_a_machine_is_read_behind_a_chatty_profile() {
        let text = "Welcome to your GPU!\n@piecework vram 81559\n@piecework vram 81559\n\
            @piecework driver | NVIDIA-SMI 590.44  Driver Version: 590.44  CUDA UMD Version: 13.1 |\n\
            @piecework disk overlay 209715200 1048576 208666624 1% /\n\
            @piecework fetched 206 67108864 0.250 1.250\n";
        let seen = Seen::read(text);
        assert_eq!(seen.gpus, [Mib(81_559), Mib(81_559)]);
        assert_eq!(seen.cuda, Cuda::parse("13.1"));
        assert_eq!(seen.disk, Some(Mib(203_776)));
        assert_eq!(seen.fetched, Some((67_108_864, Duration::from_secs(1))));
        let nothing = "@piecework fetched 403 120 0.1 0.2\n@piecework vram [N/A]\nvram 80000\n";
        assert_eq!(Seen::read(nothing), Seen::default());
    }
}
