//! Three thousand offers that look like a day on the marketplaces, always the same ones.
//!
//! The prices spread between the low and the high of each GPU as they were told in 2026,
//! most of them near the list price.

use crate::gpus;
use piecework::choose::Listed;
use providers::{
    Billing, Host, Mib, Network, Offer, OfferId, Rental, Traffic, UsdPerGb, UsdPerHour,
};
use std::time::Duration;

/// A GPU and its price by the hour: low, list and high, in cents.
pub(crate) const PRICES: [(&str, u64, u64, u64); 10] = [
    ("RTX 3090", 18, 22, 39),
    ("RTX 4090", 24, 34, 74),
    ("RTX 5090", 69, 69, 122),
    ("A40", 44, 44, 60),
    ("L40S", 79, 79, 155),
    ("RTX PRO 6000", 89, 89, 204),
    ("A100 SXM4", 114, 139, 179),
    ("H100 SXM", 240, 269, 429),
    ("H200", 345, 359, 558),
    ("B200", 449, 598, 699),
];

/// Numbers that look random and are always the same.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// From 0 up to 1.
    fn next(&mut self) -> f64 {
        self.bits() as f64 / f64::from(1_u32 << 31)
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.bits()).unwrap() % all.len()]
    }
}

/// One machine at its list price, for a plan that can be checked by hand.
pub(crate) fn at_list_price(name: &str, count: u32) -> Listed {
    let (.., list, _) = PRICES.into_iter().find(|(other, ..)| *other == name).unwrap();
    let offer = Offer {
        id: OfferId(format!("{count}x{name}")),
        gpus: Some(gpus(name, count)),
        price: UsdPerHour(list * 10_000 * u64::from(count)),
        region: "EU".to_owned(),
        network: Network { down: Some(1_000), up: Some(1_000) },
        ..Offer::default()
    };
    Listed { market: "runpod".to_owned(), offer }
}

pub(crate) fn offers(count: usize) -> Vec<Listed> {
    let mut noise = Noise(20_261_124);
    (0..count).map(|number| offer(number, &mut noise)).collect()
}

fn offer(number: usize, noise: &mut Noise) -> Listed {
    let (name, low, list, high) = noise.pick(&PRICES);
    let market = noise.pick(&["vast", "vast", "vast", "vast", "runpod", "lambda", "verda"]);
    let several = noise.pick(&[1, 1, 1, 1, 1, 2, 4, 8]);
    let spread = noise.next();
    let cents = if spread < 0.5 {
        low as f64 + (list - low) as f64 * 2.0 * spread
    } else {
        list as f64 + (high - list) as f64 * (2.0 * spread - 1.0).powi(2)
    };
    let interruptible = market == "vast" && noise.next() < 0.3;
    let micros = cents * 10_000.0 * f64::from(several) * if interruptible { 0.55 } else { 1.0 };
    let price = UsdPerHour(format!("{micros:.0}").parse().unwrap());
    let is_vast = market == "vast";
    let per_gb = |cents: f64| UsdPerGb(format!("{:.0}", cents * 10_000.0).parse().unwrap());
    let down = noise.pick(&[100, 250, 500, 900, 2_000, 8_000]);
    let offer = Offer {
        id: OfferId(number.to_string()),
        gpus: Some(gpus(name, several)),
        cores: 8 * several,
        memory: Mib(65_536 * u64::from(several)),
        disk: Mib(noise.pick(&[40_000, 200_000, 1_000_000])),
        price,
        traffic: if is_vast {
            Traffic { inbound: per_gb(noise.next()), outbound: per_gb(2.0 * noise.next()) }
        } else {
            Traffic::default()
        },
        billing: match market {
            "lambda" => Billing { minimum: Duration::from_mins(1), step: Duration::from_mins(1) },
            "verda" => Billing { minimum: Duration::from_mins(10), step: Duration::from_mins(10) },
            _ => Billing::default(),
        },
        rental: if interruptible {
            Rental::Interruptible { floor: price }
        } else {
            Rental::OnDemand
        },
        host: if market == "verda" || market == "lambda" { Host::Vm } else { Host::Container },
        region: "EU".to_owned(),
        machine: is_vast.then(|| format!("m{number}")),
        network: Network { down: Some(down), up: Some(down / 2) },
        ..Offer::default()
    };
    Listed { market: market.to_owned(), offer }
}
