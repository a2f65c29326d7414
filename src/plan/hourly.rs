//! What machines cost an hour, for a job of which no more can be said: nobody knows the model's size,
//! or how fast the engine is.

use super::show::{head, hosted, hour};
use crate::{
    choose::Listed, gpus::Gpu, hosted::Quote, lengths::Lengths, need::Workload, report::words,
};
use providers::{Mib, Rental};
use serde_json::{Value, json};
use std::fmt;

/// Kinds of machines that are shown, at most.
const SHOWN: usize = 10;

/// Offers by the hour.
#[derive(Clone, Debug)]
pub struct Hourly {
    /// The model's name.
    pub model: String,
    /// The engine's name.
    pub engine: String,
    /// How many prompts, and how long.
    pub work: Workload,
    /// How it is known how long they are.
    pub lengths: Lengths,
    /// Why the job can't be reckoned.
    pub why: String,
    /// The memory that each GPU was to have.
    pub vram: Mib,
    /// The offers, the cheapest hour first.
    pub offers: Vec<Listed>,
    /// What the job would cost at hosted APIs.
    pub hosted: Vec<Quote>,
}

impl Hourly {
    /// All of it, for programs. Money in millionths of a dollar.
    pub fn to_json(&self) -> Value {
        json!({
            "model": self.model,
            "engine": self.engine,
            "prompts": self.work.prompts,
            "input_tokens": self.work.input,
            "output_tokens": self.work.output,
            "lengths": self.lengths,
            "rank": "hour",
            "not_reckoned": self.why,
            "plans": [],
            "offers": self.offers.iter().map(|listed| {
                json!({ "market": listed.market, "offer": listed.offer })
            }).collect::<Vec<_>>(),
            "hosted": self.hosted,
        })
    }

    /// The cheapest offer of each kind of machine, and how many there are of it.
    fn kinds(&self) -> Vec<(&Listed, u64)> {
        let mut kinds: Vec<(&Listed, u64)> = Vec::new();
        for listed in &self.offers {
            match kinds.iter_mut().find(|(first, _)| is_like(first, listed)) {
                Some((_, count)) => *count += 1,
                None => kinds.push((listed, 1)),
            }
        }
        kinds
    }
}

/// Whether both are the same kind of machine at the same marketplace, on the same terms.
fn is_like(a: &Listed, b: &Listed) -> bool {
    let kind = |listed: &Listed| {
        let gpus = listed.offer.gpus.as_ref().map(|gpus| (Gpu::of(gpus).name, gpus.count));
        (listed.market.clone(), gpus, std::mem::discriminant(&listed.offer.rental))
    };
    kind(a) == kind(b)
}

impl fmt::Display for Hourly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        head(f, &self.model, &self.engine, &self.work, Some(&self.lengths))?;
        let vram = self.vram;
        writeln!(
            f,
            "time and cost of the job can't be told; GPUs with {vram} or more, the cheapest hour first:"
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "   {:>10}  {:<31} {:>9}  {:<14} {:>6}",
            "price", "machine", "VRAM", "from", "offers"
        )?;
        let kinds = self.kinds();
        for ((listed, count), number) in kinds.iter().take(SHOWN).zip(1..) {
            let offer = &listed.offer;
            let taken = matches!(offer.rental, Rental::Interruptible { .. });
            let (name, vram) = match &offer.gpus {
                None => ("no GPU".to_owned(), String::new()),
                Some(gpus) => {
                    let several =
                        if gpus.count == 1 { String::new() } else { format!("{}×", gpus.count) };
                    let gpu = Gpu::of(gpus);
                    // Cards report a little less than they are sold with.
                    let vram = gpu.sold_with().unwrap_or(gpus.vram);
                    (several + &gpu.name, vram.to_string())
                }
            };
            let price = hour(offer.price) + if taken { "*" } else { "" };
            let (market, count) = (&listed.market, words::count(*count));
            writeln!(
                f,
                "{number:<3}{price:>10}  {name:<31.31} {vram:>9}  {market:<14.14} {count:>6}"
            )?;
        }
        writeln!(f)?;
        if SHOWN < kinds.len() {
            let more = words::plural((kinds.len() - SHOWN) as u64, "dearer kind");
            writeln!(f, "and {more} of machines; `piecework offers` shows them all")?;
        }
        let taken = |(listed, _): &(&Listed, u64)| {
            matches!(listed.offer.rental, Rental::Interruptible { .. })
        };
        if kinds.iter().take(SHOWN).any(taken) {
            writeln!(f, "* can be taken back")?;
        }
        hosted(f, &self.hosted)
    }
}
