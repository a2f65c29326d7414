//! Offers → the ones to rent for a run, the best first, and why the others aren't there. Pure.
//!
//! A run asks again each time it needs a machine, so what it looks for is kept with it.

use crate::{
    choose::{Candidate, Job, Listed, choose, runs},
    cost::{Measurement, cost},
    engines::Engine,
    ledger::{Books, Lease},
    model::{Shape, Weights},
    need::{Workload, disk, need},
    template::{self, least_disk},
    wish::{self, Wish},
};
use providers::{Mib, Need, Usd};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// MiB for the worker, what it keeps, and what an engine writes beside the model.
const WORKER_ROOM: u64 = 2 << 10;

/// What a run looks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// The marketplaces to ask.
    pub providers: Vec<String>,
    /// Which offers will do.
    pub wish: Wish,
    /// The name of the engine that is to run there.
    pub engine: String,
    /// What there is to do, where it can be told how fast a machine does it.
    pub task: Option<Task>,
}

/// What there is to do, in the words that a machine's speed is told in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// How the weights may be kept.
    pub weights: Vec<Weights>,
    /// Tokens of a prompt, on average.
    pub input: f64,
    /// Tokens of an answer, on average.
    pub output: f64,
}

/// An offer to rent.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// The offer and who makes it.
    pub listed: Listed,
    /// How it would do, where that can be told.
    pub candidate: Option<Candidate>,
    /// What the work that is left costs on it, where that can be told.
    pub cost: Option<Usd>,
}

/// What an offer is known by while a run goes on: the machine where it has a name, for a machine
/// is offered again under other names; else the offer itself.
pub fn key(listed: &Listed) -> String {
    let Listed { market, offer } = listed;
    match &offer.machine {
        Some(machine) => machine_key(market, machine),
        None => format!("{market} offer {}", offer.id),
    }
}

/// The same for a machine that an earlier session has rented.
pub fn machine_key(market: &str, machine: &str) -> String {
    format!("{market} machine {machine}")
}

/// The machines that have shown in any session of a run that they can't run its engine.
pub fn unable(books: &Books) -> BTreeSet<String> {
    let unable = books.leases().map(|(_, lease)| lease).filter(|lease| lease.unable);
    let key =
        |lease: &Lease| Some(machine_key(&lease.terms.provider, lease.terms.machine.as_ref()?));
    unable.filter_map(key).collect()
}

impl Search {
    /// What to ask the marketplaces for.
    pub fn need(&self, shape: Option<&Shape>) -> Need {
        let wish = self.wish.need();
        // Offers are priced with the disk that will be rented.
        let disk = self.disk(shape);
        let (Some(task), Some(shape)) = (&self.task, shape) else {
            return Need { disk, ..wish };
        };
        let work = Workload { prompts: 1, input: task.input, output: task.output };
        // Without coefficients for a GPU, a machine without one may do.
        let on_gpu = Engine::named(&self.engine, false)
            .map(|engine| need(shape, engine, &task.weights, &work, false))
            .unwrap_or_default();
        let either = Engine::named(&self.engine, true).is_some_and(|engine| !engine.here);
        let vram = if either { wish.vram } else { wish.vram.max(on_gpu.vram) };
        Need { vram, disk, ..wish }
    }

    /// Disk to rent: as much as is wished for, and as much as the model and the engine need.
    pub fn disk(&self, shape: Option<&Shape>) -> Mib {
        let needed = self.task.as_ref().zip(shape).and_then(|(task, shape)| {
            let engine = Engine::named(&self.engine, false);
            let engine = engine.or_else(|| Engine::named(&self.engine, true))?;
            Some(disk(shape, engine, &task.weights))
        });
        self.wish.disk.max(needed.unwrap_or_default()).max(least_disk())
    }

    /// Disk that the model and the worker take on a machine.
    pub fn room(&self, shape: Option<&Shape>) -> Mib {
        let weights = self.task.as_ref().zip(shape).map_or(0, |(task, shape)| {
            let bytes = task.weights.iter().map(|weights| shape.weight_bytes(*weights));
            bytes.max().unwrap_or(0)
        });
        Mib(weights.div_ceil(1 << 20) + WORKER_ROOM)
    }

    /// The offers that will do for `prompts` on a machine, the best first: the cheapest for the work
    /// where that can be told, else the cheapest by the hour. None of `avoid`. The others come
    /// with the reason. `measured` are speeds of runs of ours.
    pub fn shortlist(
        &self,
        offers: Vec<Listed>,
        shape: Option<&Shape>,
        model: &str,
        prompts: u64,
        avoid: &BTreeSet<String>,
        measured: &[Measurement],
    ) -> (Vec<Pick>, Vec<(Listed, String)>) {
        let (mut fit, mut unlike) = (Vec::new(), Vec::new());
        for listed in offers {
            // An offer of a machine that the engine can't be put on is none, whatever it costs.
            let image = template::image(listed.offer.host, &self.engine).map_err(|e| e.to_string());
            let runs = runs(&self.engine, &listed.offer).map_err(|why| why.to_string());
            let fits = wish::fits(&self.wish, &listed.offer).map_err(|why| why.to_string());
            match fits.and(image.map(drop)).and(runs) {
                Ok(()) if avoid.contains(&key(&listed)) => {
                    unlike.push((listed, "it has failed, or is taken".to_owned()));
                }
                Ok(()) => fit.push(listed),
                Err(why) => unlike.push((listed, why)),
            }
        }
        let mut picks: Vec<Pick> = match self.task.as_ref().zip(shape) {
            None => {
                let pick = |listed| Pick { listed, candidate: None, cost: None };
                fit.into_iter().map(pick).collect()
            }
            Some((task, shape)) => {
                let work = Workload { prompts, input: task.input, output: task.output };
                let job = Job {
                    model,
                    shape,
                    work,
                    engine: &self.engine,
                    allowed: &task.weights,
                    ceiling: self.wish.ceiling,
                    interruptible: self.wish.interruptible,
                    measured,
                };
                let (candidates, rejected) = choose(&job, fit);
                unlike.extend(rejected.into_iter().map(|r| (r.listed, r.reason.to_string())));
                let pick = |candidate: Candidate| Pick {
                    listed: candidate.listed.clone(),
                    cost: Some(cost(&[candidate.share], &work)),
                    candidate: Some(candidate),
                };
                candidates.into_iter().map(pick).collect()
            }
        };
        picks.sort_by_cached_key(|Pick { listed: Listed { market, offer }, cost, .. }| {
            // Of equals the better looked after, and then always the same.
            let trust = std::cmp::Reverse(offer.trust);
            (*cost, offer.price, trust, market.clone(), offer.id.clone())
        });
        (picks, unlike)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::entries;
    use providers::{Gpus, Host, Offer, OfferId, Rental, UsdPerHour};

    fn listed(id: &str, gpu: &str, gib: u64, price: u64) -> Listed {
        let gpus = Gpus { name: gpu.to_owned(), count: 1, vram: Mib::from_gib(gib) };
        Listed {
            market: "acme".to_owned(),
            offer: Offer {
                id: OfferId(id.to_owned()),
                gpus: Some(gpus),
                price: UsdPerHour(price),
                machine: Some(format!("m-{id}")),
                ..Offer::default()
            },
        }
    }

    fn search(task: Option<Task>) -> Search {
        let (providers, engine) = (vec!["acme".to_owned()], "vllm".to_owned());
        Search { providers, wish: Wish::default(), engine, task }
    }

    fn ids(picks: &[Pick]) -> Vec<&str> {
        picks.iter().map(|pick| pick.listed.offer.id.0.as_str()).collect()
    }

    fn offers() -> Vec<Listed> {
        let floor = UsdPerHour(1);
        let mut spot = listed("spot", "RTX 4090", 24, 10_000);
        spot.offer.rental = Rental::Interruptible { floor };
        vec![
            listed("slow", "RTX 3060", 12, 80_000),
            listed("fast", "RTX 4090", 24, 340_000),
            listed("taken", "RTX 4090", 24, 20_000),
            spot,
        ]
    }

    #[test]
    fn without_a_model_the_cheapest_hour_comes_first_and_nothing_that_can_be_taken_back() {
        let avoid = BTreeSet::from([key(&offers()[2])]);
        let (picks, unlike) = search(None).shortlist(offers(), None, "echo", 10, &avoid, &[]);
        assert_eq!(ids(&picks), ["slow", "fast"]);
        let reasons: Vec<_> = unlike.iter().map(|(_, why)| why.as_str()).collect();
        let spot = "interruptible, which --interruptible would allow";
        assert_eq!(reasons, ["it has failed, or is taken", spot]);
    }

    #[test]
    fn a_machine_that_the_engine_can_not_be_put_on_is_no_offer() {
        let mut vm = listed("vm", "RTX 4090", 24, 10);
        vm.offer.host = Host::Vm;
        let offers = vec![vm, listed("container", "RTX 4090", 24, 340_000)];
        let (picks, unlike) = search(None).shortlist(offers, None, "m", 1, &BTreeSet::new(), &[]);
        assert_eq!(ids(&picks), ["container"]);
        assert!(unlike[0].1.contains("can't be put on a virtual machine yet"), "{unlike:?}");
    }

    #[test]
    fn without_a_model_a_machine_is_an_offer_only_if_the_engine_can_use_what_it_computes_with() {
        let mut bare = listed("bare", "none", 0, 10);
        bare.offer.gpus = None;
        let here = Offer { host: Host::ThisComputer, ..bare.offer.clone() };
        let here = Listed { offer: Offer { id: OfferId("here".into()), ..here }, ..bare.clone() };
        let offers =
            [bare, here, listed("old", "GTX 1080 Ti", 11, 20), listed("new", "RTX 3060", 12, 30)];
        let found = |engine: &str| {
            let search = Search { engine: engine.to_owned(), ..search(None) };
            let (picks, unlike) =
                search.shortlist(offers.to_vec(), None, "m", 1, &BTreeSet::new(), &[]);
            let ids = ids(&picks).join(" ");
            (ids, unlike.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; "))
        };
        let (ids, why) = found("native-cuda");
        assert_eq!(ids, "here new", "this computer doesn't tell what it has");
        assert!(why.contains("it has no GPU") && why.contains("Ampere"), "{why}");
        assert_eq!(found("vllm").0, "here old new");
        assert_eq!(found("native").0, "bare here old new");
        assert_eq!(found("echo").0, "bare here old new");
    }

    #[test]
    fn with_a_model_the_cheapest_for_the_work_comes_first() {
        let entry = entries().iter().find(|entry| entry.name == "Llama-3.1-8B-Instruct");
        let shape = entry.expect("it is known").config.shape().expect("it has a shape");
        let task =
            Task { weights: vec![Weights::Bf16, Weights::Fp8], input: 1_000.0, output: 200.0 };
        let search = search(Some(task));
        let none = BTreeSet::new();
        let dear = Listed {
            offer: Offer { price: UsdPerHour(350_000), ..listed("dear", "RTX 4090", 24, 0).offer },
            ..listed("dear", "RTX 4090", 24, 0)
        };
        let offers = vec![
            dear,
            listed("slow", "RTX 3060", 12, 300_000),
            listed("fast", "RTX 4090", 24, 340_000),
        ];
        let (picks, _) =
            search.shortlist(offers, Some(&shape), "Llama-3.1-8B-Instruct", 1_000_000, &none, &[]);
        assert_eq!(ids(&picks)[..2], ["fast", "dear"]);
        assert!(picks.is_sorted_by_key(|pick| pick.cost));
        assert!(Mib::from_gib(24) < search.disk(Some(&shape)), "weights and image need room");
        assert!(Mib(0) < search.need(Some(&shape)).vram);
    }
}
