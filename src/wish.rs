//! What a shopper wishes for → which offers are that, why the others aren't, and in which order
//! they are shown. Pure.

use crate::{choose::Listed, gpus::Gpu};
use clap::ValueEnum;
use providers::{Gpus, Host, Mib, Need, Offer, Rental, Trust, UsdPerHour};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// Of 100 MiB that are wished for, as many are enough on a card that we don't know: cards report up
/// to 7 % less than they are sold with (an L4 of 24 GB reports 23,034 MiB).
const ENOUGH: u64 = 93;

/// What is wished for. What isn't said is free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Memory of each GPU, at least. Zero does without a GPU.
    pub vram: Mib,
    /// The GPU, or words of its name.
    pub gpu: Option<String>,
    /// How many GPUs exactly.
    pub count: Option<u32>,
    /// Price of the whole instance, at most.
    pub ceiling: Option<UsdPerHour>,
    /// Whether offers that can be taken back will do.
    pub interruptible: bool,
    /// Where it stands, or words of that.
    pub region: Option<String>,
    /// How far the owner has been checked, at least.
    pub trust: Trust,
    /// Disk, at least.
    pub disk: Mib,
}

/// Why an offer isn't what was wished for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlike {
    /// It has no GPU.
    #[error("it has no GPU")]
    NoGpu,
    /// It has another GPU.
    #[error("another GPU than --gpu")]
    OtherGpu,
    /// It has another number of GPUs.
    #[error("another number of GPUs than --count")]
    OtherCount,
    /// It has too little memory on each GPU.
    #[error("{there} of VRAM are less than --vram")]
    Vram {
        /// What it has.
        there: Mib,
    },
    /// It costs more.
    #[error("dearer than --max-price")]
    TooDear,
    /// It can be taken back.
    #[error("interruptible, which --interruptible would allow")]
    Interruptible,
    /// It stands elsewhere.
    #[error("not in --region")]
    Elsewhere,
    /// Its owner has been checked less.
    #[error("its host is {}, less than --trust", trust_word(*there))]
    Trust {
        /// How far they have been checked.
        there: Trust,
    },
    /// It has too small a disk.
    #[error("{there} of disk are less than --disk")]
    Disk {
        /// What it has.
        there: Mib,
    },
}

impl Wish {
    /// What to ask marketplaces for: never less than is wished for.
    pub fn need(&self) -> Need {
        Need {
            vram: Mib(self.vram.0 * ENOUGH / 100),
            ceiling: self.ceiling,
            disk: self.disk,
            gpus: self.count,
            interruptible: self.interruptible,
        }
    }

    /// What to ask them for where it is to be said why offers aren't what is wished for.
    pub fn wide_need(&self) -> Need {
        Need { disk: self.disk, interruptible: true, ..Need::default() }
    }
}

/// What comes first where offers are shown. Equals are in the order of their price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// The cheapest instance.
    #[default]
    Price,
    /// The cheapest GPU.
    PerGpu,
    /// The cheapest gigabyte of VRAM.
    PerVram,
    /// The most VRAM on a GPU.
    Vram,
    /// The most reliable host.
    Reliability,
    /// The fastest download.
    Download,
}

/// Whether an offer is what is wished for.
pub fn fits(wish: &Wish, offer: &Offer) -> Result<(), Unlike> {
    let here = offer.host == Host::ThisComputer;
    match &offer.gpus {
        Some(gpus) => fits_gpus(wish, gpus)?,
        None if wish.gpu.is_some() || wish.count.is_some() || wish.vram != Mib(0) => {
            return Err(Unlike::NoGpu);
        }
        None => {}
    }
    if wish.ceiling.is_some_and(|ceiling| ceiling < offer.price) {
        return Err(Unlike::TooDear);
    }
    if !wish.interruptible && matches!(offer.rental, Rental::Interruptible { .. }) {
        return Err(Unlike::Interruptible);
    }
    if wish.region.as_ref().is_some_and(|region| !is_in(&offer.region, region)) {
        return Err(Unlike::Elsewhere);
    }
    if offer.trust < wish.trust && !here {
        return Err(Unlike::Trust { there: offer.trust });
    }
    // Zero is what a marketplace that tells nothing tells, and our own disk is ours to fill.
    if offer.disk != Mib(0) && offer.disk < wish.disk && !here {
        return Err(Unlike::Disk { there: offer.disk });
    }
    Ok(())
}

fn fits_gpus(wish: &Wish, gpus: &Gpus) -> Result<(), Unlike> {
    if wish.gpu.as_ref().is_some_and(|name| !is_gpu(gpus, name)) {
        return Err(Unlike::OtherGpu);
    }
    if wish.count.is_some_and(|count| count != gpus.count) {
        return Err(Unlike::OtherCount);
    }
    let enough = match Gpu::of(gpus).sold_with() {
        Some(sold) => wish.vram <= gpus.vram.max(sold),
        None => wish.vram.0 * ENOUGH <= gpus.vram.0 * 100,
    };
    if !enough {
        return Err(Unlike::Vram { there: gpus.vram });
    }
    Ok(())
}

/// Puts offers in order.
pub fn sort(offers: &mut [Listed], order: Order) {
    let gpus = |offer: &Offer| offer.gpus.as_ref().map_or(1, |gpus| u64::from(gpus.count.max(1)));
    let vram = |offer: &Offer| offer.gpus.as_ref().map_or(0, |gpus| gpus.vram.0);
    offers.sort_by_cached_key(|Listed { market, offer }| {
        let first = match order {
            Order::Price => offer.price.0,
            Order::PerGpu => offer.price.0 / gpus(offer),
            // Without a GPU there is nothing to pay for.
            Order::PerVram => {
                let mib = vram(offer) * gpus(offer);
                offer.price.0.saturating_mul(1024).checked_div(mib).unwrap_or(u64::MAX)
            }
            Order::Vram => descending(vram(offer)),
            Order::Reliability => descending(offer.reliability.unwrap_or(0)),
            Order::Download => descending(offer.network.down.unwrap_or(0)),
        };
        (first, offer.price, Reverse(offer.reliability), market.clone(), offer.id.clone())
    });
}

fn descending(number: impl Into<u64>) -> u64 {
    u64::MAX - number.into()
}

/// What trust is called where it is typed and shown.
pub fn trust_word(trust: Trust) -> &'static str {
    match trust {
        Trust::Anyone => "unverified",
        Trust::Verified => "verified",
        Trust::Datacenter => "data centre",
    }
}

/// Whether a GPU is meant by these words: all of its name, in our spelling or the marketplace's,
/// or a part of it. `4090` and `NVIDIA RTX4090` are an RTX 4090, `h100` is any H100; `a10` is no
/// A100.
fn is_gpu(gpus: &Gpus, words: &str) -> bool {
    const MAKERS: [&str; 4] = ["nvidia", "geforce", "tesla", "amd"];
    let wanted: String =
        tokens(words).into_iter().filter(|word| !MAKERS.contains(&word.as_str())).collect();
    let named = |name: &str| {
        let words = tokens(name);
        let mut runs =
            (0..words.len()).flat_map(|from| (from + 1..=words.len()).map(move |to| (from, to)));
        runs.any(|(from, to)| words[from..to].concat() == wanted)
    };
    named(&Gpu::of(gpus).name) || named(&gpus.name)
}

/// Whether a place is meant by these words. Words of three letters or more may be begun only.
fn is_in(region: &str, words: &str) -> bool {
    let (there, wanted) = (tokens(region), tokens(words));
    let alike = |(there, wanted): (&String, &String)| {
        there == wanted || (3 <= wanted.len() && there.starts_with(wanted.as_str()))
    };
    wanted.is_empty()
        || there.windows(wanted.len()).any(|there| there.iter().zip(&wanted).all(alike))
}

fn tokens(text: &str) -> Vec<String> {
    let words = text.split(|letter: char| !letter.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::{Network, OfferId};

    fn gpus(name: &str, count: u32, mib: u64) -> Gpus {
        Gpus { name: name.to_owned(), count, vram: Mib(mib) }
    }

    fn offer() -> Offer {
        Offer {
            gpus: Some(gpus("RTX 4090", 2, 24_564)),
            price: UsdPerHour(600_000),
            region: "Sweden, SE".to_owned(),
            trust: Trust::Verified,
            disk: Mib::from_gib(100),
            ..Offer::default()
        }
    }

    #[test]
    fn an_offer_is_refused_for_what_it_lacks() {
        let floor = UsdPerHour(1);
        let spot = Offer { rental: Rental::Interruptible { floor }, ..offer() };
        let bare = Offer { gpus: None, ..offer() };
        let gpu = |name: &str| Wish { gpu: Some(name.to_owned()), ..Wish::default() };
        let vram = |gib| Wish { vram: Mib::from_gib(gib), ..Wish::default() };
        let region = |name: &str| Wish { region: Some(name.to_owned()), ..Wish::default() };
        let price = |micros| Wish { ceiling: Some(UsdPerHour(micros)), ..Wish::default() };
        let trust = |trust| Wish { trust, ..Wish::default() };
        let disk = |gib| Wish { disk: Mib::from_gib(gib), ..Wish::default() };
        let count = |count| Wish { count: Some(count), ..Wish::default() };
        let willing = Wish { interruptible: true, ..Wish::default() };
        let there = Mib(24_564);
        for (wish, offer, expected) in [
            (Wish::default(), offer(), Ok(())),
            (Wish::default(), bare.clone(), Ok(())),
            (vram(24), offer(), Ok(())),
            (vram(25), offer(), Err(Unlike::Vram { there })),
            (vram(1), bare.clone(), Err(Unlike::NoGpu)),
            (gpu("4090"), offer(), Ok(())),
            (gpu("3090"), offer(), Err(Unlike::OtherGpu)),
            (count(2), offer(), Ok(())),
            (count(1), offer(), Err(Unlike::OtherCount)),
            (count(1), bare, Err(Unlike::NoGpu)),
            (price(600_000), offer(), Ok(())),
            (price(599_999), offer(), Err(Unlike::TooDear)),
            (Wish::default(), spot.clone(), Err(Unlike::Interruptible)),
            (willing, spot, Ok(())),
            (region("sweden"), offer(), Ok(())),
            (region("US"), offer(), Err(Unlike::Elsewhere)),
            (trust(Trust::Verified), offer(), Ok(())),
            (trust(Trust::Datacenter), offer(), Err(Unlike::Trust { there: Trust::Verified })),
            (disk(100), offer(), Ok(())),
            (disk(101), offer(), Err(Unlike::Disk { there: Mib::from_gib(100) })),
            (disk(101), Offer { disk: Mib(0), ..offer() }, Ok(())),
        ] {
            assert_eq!(fits(&wish, &offer), expected, "{wish:?}");
        }
    }

    #[test]
    fn every_card_has_the_memory_that_its_name_says() {
        for (name, reported, sold) in [
            ("RTX 4090", 24_564, 24),
            ("L4", 23_034, 24),
            ("L40S", 46_068, 48),
            ("H100 SXM", 81_559, 80),
            ("B200", 183_359, 180),
            ("T4", 15_360, 16),
            ("a new one", 23_034, 24),
        ] {
            let wish = Wish { vram: Mib::from_gib(sold), ..Wish::default() };
            let offer = Offer { gpus: Some(gpus(name, 1, reported)), ..Offer::default() };
            assert_eq!(fits(&wish, &offer), Ok(()), "{name}");
        }
        let modified = Offer { gpus: Some(gpus("RTX 2080 Ti", 1, 22_528)), ..Offer::default() };
        let wish = Wish { vram: Mib::from_gib(24), ..Wish::default() };
        assert!(fits(&wish, &modified).is_err(), "22 GB are not 24");
    }

    #[test]
    fn a_gpu_is_meant_by_its_name_or_words_of_it() {
        for (listed, mib, typed, meant) in [
            ("NVIDIA GeForce RTX 4090", 24_564, "rtx4090", true),
            ("RTX_4090", 24_564, "NVIDIA GeForce RTX 4090", true),
            ("gpu_8x_h100_sxm5", 81_559, "H100", true),
            ("gpu_8x_h100_sxm5", 81_559, "h100 sxm", true),
            ("NVIDIA H100 PCIe", 81_559, "h100 sxm", false),
            ("A100 SXM4", 81_920, "a100 80gb", true),
            ("A100 SXM4", 40_960, "a100 80gb", false),
            ("A100 SXM4", 40_960, "A10", false),
            ("L40S", 46_068, "L40", false),
            ("RTX 7090", 36_864, "7090", true),
            ("RTX 4090", 24_564, "", false),
        ] {
            let gpus = gpus(listed, 1, mib);
            assert_eq!(is_gpu(&gpus, typed), meant, "{listed} by `{typed}`");
        }
    }

    #[test]
    fn a_place_is_meant_by_words_of_it() {
        for (region, typed, meant) in [
            ("Sweden, SE", "se", true),
            ("us-east-1", "US East", true),
            ("us-east-1", "us-west", false),
            ("Washington, US", "wash", true),
            ("Australia, AU", "us", false),
            ("Austria, AT", "au", false),
            ("", "us", false),
            ("anywhere", "", true),
        ] {
            assert_eq!(is_in(region, typed), meant, "{region} by `{typed}`");
        }
    }

    #[test]
    fn offers_are_put_in_the_order_that_is_asked_for() {
        let listed = |id: &str, gpus: Option<Gpus>, price, down, reliability| Listed {
            market: "acme".to_owned(),
            offer: Offer {
                id: OfferId(id.to_owned()),
                gpus,
                price: UsdPerHour(price),
                network: Network { down: Some(down), up: None },
                reliability: Some(reliability),
                ..Offer::default()
            },
        };
        let offers = [
            listed("none", None, 10, 5, 1),
            listed("small", Some(gpus("a", 1, 1_000)), 100, 10, 900),
            listed("many", Some(gpus("a", 8, 1_000)), 400, 30, 999),
            listed("large", Some(gpus("b", 1, 90_000)), 900, 20, 990),
        ];
        for (order, expected) in [
            (Order::Price, ["none", "small", "many", "large"]),
            (Order::PerGpu, ["none", "many", "small", "large"]),
            (Order::PerVram, ["large", "many", "small", "none"]),
            (Order::Vram, ["large", "small", "many", "none"]),
            (Order::Reliability, ["many", "large", "small", "none"]),
            (Order::Download, ["many", "large", "small", "none"]),
        ] {
            let mut offers = offers.to_vec();
            sort(&mut offers, order);
            let ids: Vec<_> = offers.iter().map(|listed| listed.offer.id.0.as_str()).collect();
            assert_eq!(ids, expected, "{order:?}");
        }
    }
}
