//! Offers → those that could do the job, with how fast and how dear each would be; and for every
//! other one the reason why not.

use crate::{
    cost::{Measurement, Pace, Rate, Share, Startup, rate, share, startup},
    engines::Engine,
    gpus::Gpu,
    model::{Shape, Weights},
    need::{Fit, Unfit, Workload, disk, fits},
    report::words,
};
use providers::{Cuda, Gpus, Host, Mib, Offer, Rental, UsdPerHour};
use std::fmt;

/// What a job is, and what is allowed for it.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What decides its size and speed.
    pub shape: &'a Shape,
    /// How many prompts, and how long.
    pub work: Workload,
    /// The engine's name.
    pub engine: &'a str,
    /// How the weights may be kept.
    pub allowed: &'a [Weights],
    /// What a machine may cost an hour.
    pub ceiling: Option<UsdPerHour>,
    /// Whether machines may be taken that can be taken back.
    pub interruptible: bool,
    /// Speeds of runs of ours.
    pub measured: &'a [Measurement],
}

/// An offer and who makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The marketplace's name.
    pub market: String,
    /// The offer.
    pub offer: Offer,
}

/// An offer that could do the job.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The offer and who makes it.
    pub listed: Listed,
    /// Its GPU. None where it computes on the processor.
    pub gpu: Option<Gpu>,
    /// How many GPUs it has.
    pub gpus: u32,
    /// How the model is put onto it.
    pub fit: Fit,
    /// How fast it is.
    pub rate: Rate,
    /// How long it takes to begin.
    pub startup: Startup,
    /// What it costs, as a part of a job.
    pub share: Share,
    /// How often it may be rented. An offer that names a machine is that one machine.
    pub available: u32,
}

impl Candidate {
    /// What was seen of it, as later plans want it: beside what the model of [`crate::cost`] says of
    /// prompts of the length that these had. None where that says nothing.
    pub fn measured(
        &self,
        model: &str,
        shape: &Shape,
        engine: &str,
        pace: &Pace,
    ) -> Option<Measurement> {
        let engine = Engine::named(engine, self.gpu.is_none())?;
        let processor = || Gpu::processor(self.listed.offer.cores);
        let gpu = self.gpu.clone().unwrap_or_else(processor);
        let work = Workload { prompts: 1, input: pace.input, output: pace.output };
        let modelled = rate(model, shape, &gpu, engine, &self.fit, &work, &[]).prompts;
        let factor = pace.prompts / modelled;
        (factor.is_finite() && 0.0 < factor).then(|| Measurement {
            engine: engine.name.clone(),
            model: model.to_owned(),
            gpu: gpu.name,
            split: self.fit.split,
            weights: self.fit.weights,
            factor,
        })
    }
}

/// Machines of one offer that may be rented, at most, where the marketplace lists kinds and not
/// machines. Nobody says how many there are.
pub const MOST_OF_A_KIND: u32 = 64;

/// Why an offer isn't for this job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It costs more an hour than is allowed.
    #[error("dearer than --max-price: {0}")]
    TooDear(UsdPerHour),
    /// Somebody could take it back.
    #[error("interruptible, which --interruptible would allow")]
    Interruptible,
    /// The engine needs a GPU.
    #[error("it has no GPU, which the engine needs")]
    NoGpu,
    /// The engine needs another kind of GPU.
    #[error("its GPU isn't of NVIDIA's Ampere generation or later, which the engine needs")]
    OldGpu,
    /// The engine needs a newer driver.
    #[error("its driver is for CUDA {there} at most, and the engine needs {needed}")]
    OldDriver {
        /// What is needed.
        needed: Cuda,
        /// What it has.
        there: Cuda,
    },
    /// The image and the model need more.
    #[error("{there} of disk, and {needed} are needed")]
    Disk {
        /// What is needed.
        needed: Mib,
        /// What it has.
        there: Mib,
    },
    /// The model doesn't fit.
    #[error(transparent)]
    Unfit(Unfit),
}

/// An offer that isn't for this job, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// The offer and who makes it.
    pub listed: Listed,
    /// Why not.
    pub reason: Reason,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listed: Listed { market, offer }, reason } = self;
        write!(f, "{market} {}, {}: {reason}", gpus_in_words(offer.gpus.as_ref()), offer.price)
    }
}

/// `2 × H100 SXM`, or `no GPU`.
pub fn gpus_in_words(gpus: Option<&Gpus>) -> String {
    gpus.map_or_else(|| "no GPU".to_owned(), |gpus| format!("{} × {}", gpus.count, gpus.name))
}

/// A whole machine: `2 × H100 SXM, 8 cores, 64.0 GiB, Sweden`.
pub fn in_words(offer: &Offer) -> String {
    let gpus = offer.gpus.as_ref().map(|gpus| format!("{} × {}", gpus.count, gpus.name));
    let cores = (offer.cores != 0).then(|| words::plural(offer.cores.into(), "core"));
    let memory = (offer.memory != Mib(0)).then(|| offer.memory.to_string());
    let region = Some(offer.region.clone()).filter(|region| !region.is_empty());
    [gpus, cores, memory, region].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Looks at every offer.
pub fn choose(job: &Job<'_>, offers: Vec<Listed>) -> (Vec<Candidate>, Vec<Rejected>) {
    let (mut candidates, mut rejected) = (Vec::new(), Vec::new());
    for listed in offers {
        match consider(job, &listed.offer) {
            Ok(found) => candidates.push(found(listed)),
            Err(reason) => rejected.push(Rejected { listed, reason }),
        }
    }
    (candidates, rejected)
}

/// Whether an engine can run on an offered machine at all, whatever the model. What isn't known of one
/// of them is no reason against it.
pub fn runs(engine: &str, offer: &Offer) -> Result<(), Reason> {
    let is_known = [false, true].iter().any(|on| Engine::named(engine, *on).is_some());
    let is_told = offer.host != Host::ThisComputer;
    if is_known && is_told { seat(engine, offer).map(drop) } else { Ok(()) }
}

/// What an engine is on a machine, and the GPUs that it has for it.
fn seat<'a>(engine: &str, offer: &'a Offer) -> Result<(&'static Engine, Option<&'a Gpus>), Reason> {
    // An engine that has no way to use a GPU computes on the processor beside it.
    let gpus = offer.gpus.as_ref().filter(|_| Engine::named(engine, false).is_some());
    let is_here = offer.host == Host::ThisComputer;
    let engine = Engine::named(engine, gpus.is_none()).filter(|engine| is_here || !engine.here);
    let engine = engine.ok_or(Reason::NoGpu)?;
    if engine.ampere && gpus.is_some_and(|gpus| !Gpu::of(gpus).ampere) {
        return Err(Reason::OldGpu);
    }
    match engine.cuda.zip(offer.cuda) {
        Some((needed, there)) if there < needed => Err(Reason::OldDriver { needed, there }),
        _ => Ok((engine, gpus)),
    }
}

/// What becomes of an offer: how to make a candidate of it, or why not.
fn consider(
    job: &Job<'_>,
    offer: &Offer,
) -> Result<impl FnOnce(Listed) -> Candidate + use<>, Reason> {
    if job.ceiling.is_some_and(|ceiling| ceiling < offer.price) {
        return Err(Reason::TooDear(offer.price));
    }
    if !job.interruptible && matches!(offer.rental, Rental::Interruptible { .. }) {
        return Err(Reason::Interruptible);
    }
    let (engine, gpus) = seat(job.engine, offer)?;
    let (gpu, memory, count) = match gpus {
        Some(gpus) => (Gpu::of(gpus), gpus.vram, gpus.count.max(1)),
        None => (Gpu::processor(offer.cores), memory_of(offer), 1),
    };
    let is_here = offer.host == Host::ThisComputer;
    // The others are paid for and idle.
    let used = engine.gpus.map_or(count, |most| count.min(most));
    let needed = disk(job.shape, engine, job.allowed);
    // Zero is what a marketplace that tells nothing tells, and our own disk is ours to fill.
    let tells_disk = offer.disk != Mib(0) && !is_here;
    if tells_disk && offer.disk < needed {
        return Err(Reason::Disk { needed, there: offer.disk });
    }
    let found =
        fits(job.shape, engine, job.allowed, memory, used, &job.work).map_err(Reason::Unfit)?;
    let speed = |fit: &Fit| rate(job.model, job.shape, &gpu, engine, fit, &job.work, job.measured);
    // The first of equals is the most exact, on the fewest GPUs.
    let best = found
        .into_iter()
        .map(|fit| (fit, speed(&fit)))
        .reduce(|best, next| if best.1.prompts < next.1.prompts { next } else { best });
    let (fit, rate) = best.expect("an empty list of ways is an error");
    let weight_bytes = job.shape.weight_bytes(fit.weights);
    let startup = startup(offer, engine, weight_bytes);
    let download = engine.image_bytes() + weight_bytes as f64;
    let share = share(offer, &rate, startup, download, &job.work);
    let is_one = offer.machine.is_some() || is_here;
    let available = if is_one { 1 } else { MOST_OF_A_KIND };
    let gpu = gpus.is_some().then_some(gpu);
    Ok(move |listed| Candidate { listed, gpu, gpus: count, fit, rate, startup, share, available })
}

/// Main memory, of which a marketplace may tell nothing.
fn memory_of(offer: &Offer) -> Mib {
    if offer.memory == Mib(0) { Mib(u64::MAX >> 20) } else { offer.memory }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::entries;
    use providers::OfferId;

    fn offer(gpu: &str, count: u32, gib: u64, price: u64) -> Offer {
        let gpus = Gpus { name: gpu.to_owned(), count, vram: Mib(gib * 1024) };
        Offer {
            id: OfferId(format!("{gpu} at {price}")),
            gpus: Some(gpus),
            price: UsdPerHour(price),
            ..Offer::default()
        }
    }

    fn one(job: &Job<'_>, offer: Offer) -> Result<Candidate, Reason> {
        let (mut found, mut rejected) = choose(job, vec![Listed { market: "acme".into(), offer }]);
        found.pop().ok_or_else(|| rejected.remove(0).reason)
    }

    fn with_job<T>(name: &str, test: impl FnOnce(Job<'_>) -> T) -> T {
        let entry = entries().iter().find(|entry| entry.name == name).unwrap();
        let shape = entry.config.shape().unwrap();
        test(Job {
            model: name,
            shape: &shape,
            work: Workload { prompts: 4_000_000, input: 1_000.0, output: 200.0 },
            engine: "vllm",
            allowed: &[Weights::Bf16, Weights::Fp8],
            ceiling: None,
            interruptible: false,
            measured: &[],
        })
    }

    #[test]
    fn each_offer_is_taken_at_its_best_or_told_why_not() {
        with_job("Llama-3.1-8B-Instruct", |job| {
            let found = one(&job, offer("RTX 4090", 1, 24, 340_000)).unwrap();
            assert_eq!(found.fit.weights, Weights::Fp8, "it computes in 8 bits, and has more room");
            let dear = Job { ceiling: Some(UsdPerHour(300_000)), ..job.clone() };
            let reason = one(&dear, offer("RTX 4090", 1, 24, 340_000)).unwrap_err();
            assert_eq!(reason, Reason::TooDear(UsdPerHour(340_000)));
            let small = one(&job, offer("RTX 3070", 1, 8, 100_000)).unwrap_err();
            assert!(matches!(small, Reason::Unfit(Unfit::TooSmall { .. })), "{small}");
            let floor = UsdPerHour(1);
            let rental = Rental::Interruptible { floor };
            let spot = Offer { rental, ..offer("RTX 4090", 1, 24, 100_000) };
            assert_eq!(one(&job, spot.clone()).unwrap_err(), Reason::Interruptible);
            let willing = Job { interruptible: true, ..job.clone() };
            let found = one(&willing, spot).unwrap();
            assert!(found.share.rate < found.rate.prompts, "interruptions are counted on");
            let tiny = Offer { disk: Mib(1_000), ..offer("RTX 4090", 1, 24, 1) };
            assert!(matches!(one(&job, tiny).unwrap_err(), Reason::Disk { .. }));
            let no_gpu = Offer { cores: 8, ..Offer::default() };
            assert_eq!(one(&job, no_gpu.clone()).unwrap_err(), Reason::NoGpu);
            let native = Job { engine: "native", allowed: &[Weights::Bf16], ..job.clone() };
            assert!(one(&native, no_gpu).unwrap().rate.prompts < 1.0);
        });
    }

    #[test]
    fn our_own_engine_on_a_gpu_gets_one_that_it_can_use_and_counts_no_more() {
        with_job("Llama-3.1-8B-Instruct", |job| {
            let job = Job { engine: "native-cuda", allowed: &[Weights::Bf16], ..job.clone() };
            let single = one(&job, offer("RTX 4090", 1, 24, 340_000)).unwrap();
            let eight = one(&job, offer("RTX 4090", 8, 24, 340_000)).unwrap();
            assert_eq!((eight.fit.copies, eight.rate), (1, single.rate));
            for (old, gib) in [("Tesla V100", 32), ("MI300X", 192)] {
                assert_eq!(one(&job, offer(old, 1, gib, 1)).unwrap_err(), Reason::OldGpu, "{old}");
            }
            let driver =
                |cuda: &str| Offer { cuda: Cuda::parse(cuda), ..offer("RTX 4090", 1, 24, 1) };
            assert!(one(&job, driver("12.0")).is_ok());
            let reason = one(&job, driver("11.8")).unwrap_err().to_string();
            assert_eq!(reason, "its driver is for CUDA 11.8 at most, and the engine needs 12.0");
            let no_gpu = Offer { cores: 64, ..Offer::default() };
            assert_eq!(one(&job, no_gpu.clone()).unwrap_err(), Reason::NoGpu);
            // This computer doesn't tell what it has.
            assert!(one(&job, Offer { host: Host::ThisComputer, ..no_gpu }).is_ok());
        });
    }

    #[test]
    fn several_gpus_are_replicas_unless_the_model_needs_splitting() {
        with_job("Llama-3.1-8B-Instruct", |job| {
            let found = one(&job, offer("RTX 4090", 4, 24, 1_360_000)).unwrap();
            assert_eq!((found.fit.split, found.fit.copies), (1, 4));
        });
        with_job("Llama-3.3-70B-Instruct", |job| {
            let found = one(&job, offer("H100 SXM", 4, 80, 10_760_000)).unwrap();
            assert!(1 < found.fit.split);
        });
    }

    #[test]
    fn an_unknown_gpu_is_kept_and_its_speed_is_called_a_guess() {
        with_job("Llama-3.1-8B-Instruct", |job| {
            let found = one(&job, offer("RTX 7090", 1, 32, 340_000)).unwrap();
            assert_eq!(found.rate.basis, crate::cost::Basis::Guessed);
        });
    }

    #[test]
    fn what_was_measured_is_believed_before_what_is_modelled() {
        with_job("Llama-3.1-8B-Instruct", |job| {
            let modelled = one(&job, offer("RTX 4090", 1, 24, 340_000)).unwrap();
            let slow = |model: &str, factor| Measurement {
                engine: "vllm".into(),
                model: model.into(),
                gpu: "RTX 4090".into(),
                split: 1,
                weights: Weights::Fp8,
                factor,
            };
            let measured = [slow("Qwen3-8B", 0.9), slow(job.model, 0.5), slow(job.model, 0.4)];
            let exact =
                one(&Job { measured: &measured, ..job.clone() }, offer("RTX 4090", 1, 24, 1));
            let rate = exact.unwrap().rate;
            assert_eq!(rate.basis, crate::cost::Basis::Measured);
            assert!((rate.prompts / modelled.rate.prompts - 0.5).abs() < 1e-9);
            let near =
                one(&Job { measured: &measured[..1], ..job.clone() }, offer("RTX 4090", 1, 24, 1));
            assert_eq!(near.unwrap().rate.basis, crate::cost::Basis::Nearby);
            let other = one(&Job { measured: &measured, ..job.clone() }, offer("A40", 1, 48, 1));
            assert_eq!(other.unwrap().rate.basis, crate::cost::Basis::Modelled);
        });
    }
}
