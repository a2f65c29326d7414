//! How fast a machine does a job, how long it takes to begin, and what the job costs.
//!
//! Until it has been measured, a speed is a model's: the time that a prompt takes is its
//! arithmetic at the engine's share of the peak, plus the reading of KV cache and of weights (once
//! for a whole batch) at its share of the bandwidth, plus what a step and a token cost besides.
//! The coefficients and their sources are in `templates/engines.toml`.

use crate::{
    engines::Engine,
    gpus::Gpu,
    model::{Shape, Weights, whole},
    need::{Fit, Workload},
};
use providers::{Billing, Host, Network, Offer, Rental, Usd};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where a speed is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// From a run of ours with this model, GPU and engine.
    Measured,
    /// Modelled, and corrected by a run of ours with this GPU and engine.
    Nearby,
    /// Modelled.
    Modelled,
    /// Modelled for a GPU that isn't known.
    Guessed,
}

/// How fast a machine answers prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Prompts a second, on all its GPUs together.
    pub prompts: f64,
    /// The factor by which that may be off, either way.
    pub error: f64,
    /// Where it is known from.
    pub basis: Basis,
    /// Share of what the GPUs could do at best.
    pub roofline: f64,
}

/// A speed that was measured in a run of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The engine's name.
    pub engine: String,
    /// The model's name.
    pub model: String,
    /// The GPU's name, as we show it.
    pub gpu: String,
    /// GPUs that a copy of the model was split over.
    pub split: u32,
    /// How the weights were kept.
    pub weights: Weights,
    /// The measured speed over the modelled one.
    pub factor: f64,
}

/// How fast a machine was seen to answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Prompts a second.
    pub prompts: f64,
    /// Tokens of a prompt, on average.
    pub input: f64,
    /// Tokens of an answer, on average.
    pub output: f64,
}

/// What a measured speed may still be off by: hosts, lengths and loads differ.
const MEASURED_ERROR: f64 = 1.1;
/// What a modelled speed may be off by when it was corrected by that of another model.
const NEARBY_ERROR: f64 = 1.25;
/// What the speed of an unknown GPU may be off by.
const GUESSED_ERROR: f64 = 3.0;

/// Seconds that a prompt and its answer take on one copy of the model, by the model.
pub fn seconds(shape: &Shape, gpu: &Gpu, engine: &Engine, fit: &Fit, work: &Workload) -> f64 {
    let peak = engine.share_of_peak(fit.weights).unwrap_or(f64::MIN_POSITIVE);
    // 8-bit floats that are widened first are multiplied as 16-bit ones: no faster, and no slower
    // than 4-bit integers.
    let widened =
        if gpu.computes(fit.weights) { None } else { engine.share_of_peak(Weights::Int4) };
    let split = match fit.split {
        1 => 1.0,
        cards => f64::from(cards) * engine.split(gpu.nvlink).unwrap_or(f64::MIN_POSITIVE),
    };
    let arithmetic = shape.flops(0.0, work.input + work.output)
        / (gpu.flops(fit.weights) * widened.unwrap_or(peak) * split);
    let batch = f64::from(fit.batch);
    let read =
        work.output * bytes_of_a_step(shape, engine.kv_scale(), fit.weights, batch, work) / batch;
    let memory = read / (gpu.bandwidth() * engine.bandwidth * split);
    arithmetic + memory + work.output * engine.overhead(batch)
}

/// Bytes that one step of decoding reads for a whole batch, halfway through the answers.
fn bytes_of_a_step(
    shape: &Shape,
    kv_scale: f64,
    weights: Weights,
    batch: f64,
    work: &Workload,
) -> f64 {
    let length = whole(work.input + work.output / 2.0);
    shape.bytes_read(weights, batch) + batch * shape.kv_bytes(length) as f64 * kv_scale
}

/// Prompts a second that the GPUs could do at best, all of their arithmetic or all of their
/// bandwidth used, whichever ends first.
pub fn roofline(shape: &Shape, gpu: &Gpu, fit: &Fit, work: &Workload) -> f64 {
    let batch = f64::from(fit.batch);
    let arithmetic = shape.flops(0.0, work.input + work.output) / gpu.flops(fit.weights);
    let step = bytes_of_a_step(shape, 1.0, fit.weights, batch, work);
    let memory = work.output * step / batch / gpu.bandwidth();
    f64::from(fit.split * fit.copies) / arithmetic.max(memory)
}

/// How fast a machine answers prompts: modelled, and corrected by what was measured before.
pub fn rate(
    model: &str,
    shape: &Shape,
    gpu: &Gpu,
    engine: &Engine,
    fit: &Fit,
    work: &Workload,
    measured: &[Measurement],
) -> Rate {
    let modelled = f64::from(fit.copies) / seconds(shape, gpu, engine, fit, work);
    let alike = |past: &&Measurement| past.engine == engine.name && past.gpu == gpu.name;
    let same = |past: &&Measurement| {
        past.model == model && past.weights == fit.weights && past.split == fit.split
    };
    let past = |found: Vec<&Measurement>| (!found.is_empty()).then(|| median(&found));
    let nearby: Vec<_> = measured.iter().filter(alike).collect();
    let exact = past(nearby.iter().copied().filter(same).collect());
    let (factor, error, basis) = match (exact, past(nearby)) {
        (Some(factor), _) => (factor, MEASURED_ERROR, Basis::Measured),
        (None, Some(factor)) => (factor, NEARBY_ERROR, Basis::Nearby),
        (None, None) if gpu.known => (1.0, engine.error, Basis::Modelled),
        (None, None) => (1.0, GUESSED_ERROR, Basis::Guessed),
    };
    let prompts = modelled * factor;
    Rate { prompts, error, basis, roofline: prompts / roofline(shape, gpu, fit, work) }
}

/// The middle one of the factors that were measured.
fn median(past: &[&Measurement]) -> f64 {
    let mut factors: Vec<_> = past.iter().map(|past| past.factor).collect();
    factors.sort_by(f64::total_cmp);
    factors[factors.len() / 2]
}

/// What passes between renting a machine and its first prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// Until it can be logged in to.
    pub boot: Duration,
    /// Until the image and the model are there.
    pub download: Duration,
    /// Until the engine is up.
    pub load: Duration,
}

impl Startup {
    /// All of it.
    pub fn total(self) -> Duration {
        self.boot + self.download + self.load
    }
}

/// Mbit/s that are counted on where the marketplace tells nothing, and at most: hubs and
/// registries give no more to one machine.
const NETWORK: (f64, f64) = (500.0, 2_000.0);

/// What passes between renting an offer and its first prompt.
pub fn startup(offer: &Offer, engine: &Engine, weight_bytes: u64) -> Startup {
    // Typical times, from dstack's and the marketplaces' own figures: 10 s to 10 min.
    let boot = match offer.host {
        Host::ThisComputer => return Startup { load: engine.load(), ..Startup::default() },
        Host::Container => Duration::from_secs(90),
        Host::Vm => Duration::from_mins(4),
    };
    let Network { down, .. } = offer.network;
    let down = down.map_or(NETWORK.0, f64::from).clamp(1.0, NETWORK.1);
    let bytes = engine.image_bytes() + weight_bytes as f64;
    let download = Duration::from_secs_f64(bytes * 8.0 / (down * 1e6));
    Startup { boot, download, load: engine.load() }
}

/// How often an interruptible machine is assumed to be taken away, an hour. No marketplace tells.
pub const INTERRUPTIONS: f64 = 0.1;

/// A machine that takes part in a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Millionths of a dollar an hour.
    pub price: f64,
    /// Prompts a second, with interruptions taken off.
    pub rate: f64,
    /// Seconds before its first prompt.
    pub startup: f64,
    /// How its time becomes money.
    pub billing: Billing,
    /// Millionths of a dollar for traffic, whatever it does.
    pub fixed: f64,
    /// Millionths of a dollar for the traffic of a prompt.
    pub each: f64,
}

/// Bytes that a token of text takes on its way, frames and compression considered.
const BYTES_PER_TOKEN: f64 = 3.0;

/// An offer as a part of a job.
pub fn share(
    offer: &Offer,
    rate: &Rate,
    startup: Startup,
    download: f64,
    work: &Workload,
) -> Share {
    let lost = match offer.rental {
        Rental::OnDemand => 0.0,
        // Each interruption costs another start.
        Rental::Interruptible { .. } => INTERRUPTIONS * startup.total().as_secs_f64() / 3600.0,
    };
    let gb = |bytes: f64, price: u64| bytes / 1e9 * price as f64;
    let (inbound, outbound) = (offer.traffic.inbound.0, offer.traffic.outbound.0);
    Share {
        price: offer.price.0 as f64,
        rate: rate.prompts / (1.0 + lost),
        startup: startup.total().as_secs_f64(),
        billing: offer.billing,
        fixed: gb(download, inbound),
        each: gb(work.input * BYTES_PER_TOKEN, inbound)
            + gb(work.output * BYTES_PER_TOKEN, outbound),
    }
}

/// Seconds from renting these machines, all at once, to the last answer. Infinite if none works.
///
/// They take prompts as they can, so all that have begun end together.
pub fn finish(shares: &[Share], prompts: u64) -> f64 {
    let mut by_start: Vec<_> = shares.iter().filter(|share| 0.0 < share.rate).collect();
    by_start.sort_by(|a, b| a.startup.total_cmp(&b.startup));
    let (mut rate, mut head_start) = (0.0, 0.0);
    let mut end = f64::INFINITY;
    for share in by_start {
        if end <= share.startup {
            break;
        }
        rate += share.rate;
        head_start += share.rate * share.startup;
        end = (prompts as f64 + head_start) / rate;
    }
    end
}

/// What a job costs on these machines, all rented at once and kept to the end.
pub fn cost(shares: &[Share], work: &Workload) -> Usd {
    let end = finish(shares, work.prompts);
    Usd(whole(shares.iter().map(|share| money(share, end)).sum::<f64>().ceil()))
}

/// Millionths of a dollar for a machine that is kept for so many seconds.
pub fn money(share: &Share, seconds: f64) -> f64 {
    // A job that takes longer than a thousand years is as dear as one that does.
    let held = Duration::from_secs_f64(seconds.clamp(0.0, 3e10));
    let charged = share.billing.charged(held).as_secs_f64();
    let answered = (seconds - share.startup).max(0.0) * share.rate;
    share.price * charged / 3600.0 + share.fixed + share.each * answered.min(1e15)
}
