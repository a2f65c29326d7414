//! Everything that can be known before anything is rented: the prompts, the offers, and what it
//! comes to.

use super::{
    CommandError,
    look::{Looked, look_through},
    plan::{allowed_weights, refusal},
};
use crate::{
    catalog,
    choose::{Job, in_words},
    cli::RunArgs,
    cost::{Measurement, cost, finish},
    engines::Engine,
    exit::Exit,
    hosted::{self, Likeness},
    leases::{Markets, describe},
    lengths::Lengths,
    model::{Shape, Weights, find_shape},
    need::Workload,
    plan::{Goal, LONGEST, make},
    prompts::{Input, Survey},
    report::{self, words},
    run::{LEASE_LIMIT, LEASE_MARGIN, NoOffer, RunFolder, engine_of, traffic, worst as most},
    settings::{Settings, hosted_prices},
    shortlist::{Pick, Search, Task},
    template::has_watchdog,
};
use providers::{Host, Offer, Provider, Usd, UsdPerHour};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

/// How many bad lines are shown. All are in the errors file in the end.
const BAD_LINES_SHOWN: usize = 3;

/// How much longer than its slowest estimate a run may take, where no deadline was given.
const SLACK: f64 = 2.0;

/// What a run is begun with.
pub(super) struct Prepared {
    pub(super) input: Input,
    pub(super) survey: Survey,
    pub(super) search: Search,
    pub(super) shape: Option<Shape>,
    pub(super) machines: u32,
    /// When the run stops at the latest.
    pub(super) deadline: Duration,
    /// What it costs at most.
    pub(super) worst: Usd,
    best: Pick,
    /// How long prompts and answers are.
    lengths: Lengths,
    /// How long it takes and what it costs, most likely.
    pub(super) estimate: Option<(Duration, Usd)>,
    /// A hosted API that does the same for less.
    cheaper: Option<hosted::Quote>,
    /// Speeds of earlier runs.
    pub(super) measured: Vec<Measurement>,
}

/// What decides the model's size and speed. Without it nothing is known of what an offer is worth.
async fn shape(settings: &Settings) -> Option<Shape> {
    match find_shape(&settings.job.model).await {
        Ok(shape) => Some(shape),
        Err(error) => {
            report::warning(&describe(&error));
            None
        }
    }
}

/// Reads the prompts, asks for offers, and reckons.
pub(super) async fn prepare(
    args: &RunArgs,
    settings: &Settings,
    markets: &Markets,
    folder: &RunFolder,
    measured: Vec<Measurement>,
) -> Result<Prepared, CommandError> {
    let chosen = chosen(markets, &settings.providers)?;
    let own = hosted_prices()?;
    let engine = engine_of(&settings.job);
    let known = Engine::named(engine, false).or_else(|| Engine::named(engine, true));
    let fetched = |number| folder.fetched(number);
    let kept = folder.clone();
    let spooled = move |number: usize| kept.spooled(number);
    let looked = look_through(args, settings, known.is_some(), fetched, spooled).await?;
    let Looked { input, survey, lengths } = looked;
    let shape = if known.is_some() { shape(settings).await } else { None };
    let task = known.filter(|_| shape.is_some()).map(|_| {
        let Lengths { input, output, .. } = lengths;
        Task { weights: allowed_weights(args), input, output }
    });
    let providers = chosen.iter().map(|(name, _)| name.to_owned()).collect();
    let (wish, engine) = (settings.wish.clone(), engine.to_owned());
    let mut search = Search { providers, wish, engine, task };
    let need = search.need(shape.as_ref());
    let catalog = catalog::ask(&chosen, &need, catalog::PATIENCE).await;
    if let (0, Some(silence)) = (catalog.answered, catalog.failed.first()) {
        return Err(CommandError::new(Exit::Failed, describe(silence)));
    }
    for silence in &catalog.failed {
        report::warning(&describe(silence));
    }
    let (name, none) = (&settings.job.model.name, BTreeSet::new());
    let offers = catalog.listed;
    let prompts = survey.prompts.max(1);
    let (picks, unlike) = search.shortlist(offers, shape.as_ref(), name, prompts, &none, &measured);
    let Some(best) = picks.first().cloned() else {
        let (providers, why) = (search.providers, unlike.into_iter().next().map(|(_, why)| why));
        let error = CommandError::new(Exit::NoOffer, NoOffer { providers, why });
        return Err(error.hint("`piecework offers --explain` shows all of them and why not"));
    };
    let machines = fleet(settings, &search, shape.as_ref(), &survey, &picks, &measured)?;
    let work = work(&search, &survey);
    let shares = best.candidate.as_ref().map(|c| vec![c.share; machines as usize]);
    let estimate = shares
        .as_ref()
        .zip(work.as_ref())
        .map(|(shares, work)| (duration(finish(shares, work.prompts)), cost(shares, work)));
    let slowest = best.candidate.as_ref().zip(estimate);
    let slowest =
        slowest.map(|(best, (time, _))| duration(time.as_secs_f64() * best.rate.error * SLACK));
    let deadline = settings.deadline.unwrap_or_else(|| usual_end(slowest.unwrap_or_default()));
    let ceiling = ceiling(settings, &picks, machines);
    search.wish.ceiling = ceiling;
    let each = likely(&picks, machines).map(|pick| {
        let offer = &pick.listed.offer;
        worst_of(offer, ceiling, deadline, machines, shape.as_ref(), survey.bytes)
    });
    let all = each.max().unwrap_or_default();
    let worst = settings.budget.map_or(all, |budget| budget.min(all));
    let cheaper = work.zip(estimate).and_then(|(work, (_, cost))| {
        let quotes = hosted::quotes(name, shape.as_ref(), &work, &own);
        quotes.into_iter().find(|quote| quote.likeness == Likeness::Same && quote.cost < cost)
    });
    Ok(Prepared {
        input,
        survey,
        search,
        shape,
        machines,
        deadline,
        worst,
        best,
        lengths,
        estimate,
        cheaper,
        measured,
    })
}

impl Prepared {
    /// Says what is to be done and what it may cost, which is said also where nobody is asked.
    /// Whether the budget allows for anything at all.
    pub(super) fn tell(&self, settings: &Settings, markets: &Markets) -> bool {
        tell_bad_lines(&self.input, &self.survey);
        let (prompts, size) =
            (words::plural(self.survey.prompts, "prompt"), words::size(self.survey.bytes));
        report::note(&format!("{prompts}, {size}, for {}", settings.job.model.name));
        let offer = &self.best.listed.offer;
        if self.worst == Usd(0) && offer.price.0 == 0 {
            return true;
        }
        let (machines, market) = (self.machines, &self.best.listed.market);
        let each = match machines {
            1 => String::new(),
            several => format!("{several} machines, each "),
        };
        report::note(&format!("{each}{} from {market} at {}", in_words(offer), offer.price));
        let within = within(self.deadline, settings.deadline.is_some());
        let worst = match self.search.wish.ceiling {
            Some(ceiling) => format!("{} at {ceiling} or less each", self.worst),
            None => self.worst.to_string(),
        };
        if self.estimate.is_some() {
            report::note(&format!("reckoned with {}", self.lengths.brief()));
        }
        report::note(&match self.estimate {
            Some((time, cost)) => {
                format!("about {} and {cost}; at most {worst}, {within}", words::time(time))
            }
            None => format!("at most {worst}, {within}"),
        });
        if let Some(quote) = &self.cheaper {
            let hosted::Price { service, date: as_of, .. } = &quote.price;
            report::note(&format!(
                "{service} sells the same for {} (prices of {as_of}); rent if the prompts or the \
                 model must stay yours",
                quote.cost
            ));
        }
        tell_no_end(markets, market);
        if self.worst == Usd(0) {
            report::note(&format!("a budget of $0.00 rents nothing at {}", offer.price));
        }
        self.worst != Usd(0)
    }
}

/// What machines like this offer's cost at most that are kept until the deadline. `prompts` are bytes.
pub(super) fn worst_of(
    offer: &Offer,
    ceiling: Option<UsdPerHour>,
    deadline: Duration,
    machines: u32,
    shape: Option<&Shape>,
    prompts: u64,
) -> Usd {
    let model = shape.map_or(0, |shape| shape.weight_bytes(Weights::Bf16));
    let traffic = traffic(offer.traffic, model, prompts);
    let (dearest, held) = (ceiling.unwrap_or(offer.price), deadline.saturating_add(LEASE_MARGIN));
    let each = most(dearest, offer.billing, held, traffic);
    Usd(each.0.saturating_mul(u64::from(machines)))
}

/// Says where machines can't end themselves.
pub(super) fn tell_no_end(markets: &Markets, market: &str) {
    let Some(market) = markets.get(market) else { return };
    let able = market.capabilities();
    if able.host != Host::ThisComputer && !able.expiry && !has_watchdog(&able) {
        report::note(&format!(
            "machines at {} can't end themselves; this program, its guard and `piecework cleanup` \
             end them",
            able.name
        ));
    }
}

/// The marketplaces that are meant.
fn chosen(markets: &Markets, names: &[String]) -> Result<Markets, CommandError> {
    if names.iter().any(|name| name == "all") {
        let remote = markets.rented();
        if remote.iter().next().is_none() {
            let error = CommandError::new(Exit::Usage, "there is no key for any marketplace");
            return Err(error.hint("log in with `piecework login vast`, or any other"));
        }
        return Ok(remote);
    }
    markets.only(names).map_err(|name| {
        if Provider::find(name).is_some() {
            let error = CommandError::new(Exit::Usage, format!("there is no key for {name}"));
            return error.hint(format!("log in with `piecework login {name}`"));
        }
        let all = providers::PROVIDERS.iter().map(|provider| provider.name);
        let names: Vec<&str> = ["local"].into_iter().chain(all).collect();
        let unknown = format!("there is no marketplace `{name}`");
        CommandError::new(Exit::Usage, unknown).hint(format!("there is {}", names.join(", ")))
    })
}

fn work(search: &Search, survey: &Survey) -> Option<Workload> {
    let Task { input, output, .. } = search.task.as_ref()?;
    Some(Workload { prompts: survey.prompts.max(1), input: *input, output: *output })
}

/// What a machine may cost: as much as was said, or a quarter more than the dearest that would be
/// rented now. Offers come and go, and what is said to be the most that a run costs must hold for
/// those that come later. None where nothing costs anything.
fn ceiling(settings: &Settings, picks: &[Pick], machines: u32) -> Option<UsdPerHour> {
    if settings.wish.ceiling.is_some() {
        return settings.wish.ceiling;
    }
    let prices = likely(picks, machines).map(|pick| pick.listed.offer.price);
    let dearest = prices.max().filter(|price| price.0 != 0)?;
    Some(UsdPerHour(dearest.0.saturating_mul(5) / 4))
}

/// What would be rented now: the best offers of each marketplace that was named, for any of them may
/// be the one that has a machine.
pub(super) fn likely(picks: &[Pick], machines: u32) -> impl Iterator<Item = &Pick> {
    let mut of_each: BTreeMap<&str, u32> = BTreeMap::new();
    picks.iter().filter(move |pick| {
        let taken = of_each.entry(&pick.listed.market).or_default();
        *taken += 1;
        *taken <= machines
    })
}

/// How many machines: as many as was said, or as few as keep the deadline and the budget.
fn fleet(
    settings: &Settings,
    search: &Search,
    shape: Option<&Shape>,
    survey: &Survey,
    picks: &[Pick],
    measured: &[Measurement],
) -> Result<u32, CommandError> {
    let bound = settings.deadline.is_some() || settings.budget.is_some();
    let (Some(task), Some(shape), Some(work), None, true) =
        (&search.task, shape, work(search, survey), settings.machines, bound)
    else {
        return Ok(settings.machines.unwrap_or(1));
    };
    let job = Job {
        model: &settings.job.model.name,
        shape,
        work,
        engine: &search.engine,
        allowed: &task.weights,
        ceiling: search.wish.ceiling,
        interruptible: search.wish.interruptible,
        measured,
    };
    let deadline = settings.deadline.map(|deadline| deadline.as_secs_f64());
    let goal = Goal { deadline, budget: settings.budget, ..Goal::default() };
    let offers = picks.iter().map(|pick| pick.listed.clone()).collect();
    let plans = make(&job, &goal, offers, &[]).map_err(refusal)?;
    Ok(plans.plans.first().map_or(1, crate::plan::Plan::machines))
}

/// When a run ends to which nobody has given a deadline, and which takes `slowest` if all goes badly.
fn usual_end(slowest: Duration) -> Duration {
    slowest.clamp(LEASE_LIMIT, LONGEST)
}

/// When a run ends, as it is said: one that may need more than it was given is told how to get it.
fn within(deadline: Duration, is_given: bool) -> String {
    let more = if is_given || deadline < LONGEST { "" } else { " (`--deadline` gives it more)" };
    format!("within {}{more}", words::time(deadline))
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Paths are kept in plain files, which are text.
pub(super) fn must_be_text<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
) -> Result<(), CommandError> {
    for path in paths {
        if path.to_str().is_none() {
            let error = format!("`{}` is not valid UTF-8; give it another name", path.display());
            return Err(CommandError::new(Exit::Usage, error));
        }
    }
    Ok(())
}

fn tell_bad_lines(input: &Input, survey: &Survey) {
    if survey.bad == 0 {
        return;
    }
    for bad in survey.first_bad.iter().take(BAD_LINES_SHOWN) {
        let file = match input.sources.as_slice() {
            [_] => String::new(),
            several => format!("{}, ", several[bad.line.file as usize].name),
        };
        report::note(&format!("warning: {file}line {}: {}", bad.line.line, bad.reason));
    }
    let all = words::plural(survey.bad, "bad line");
    report::note(&format!("warning: {all} will be in the errors file; the rest is done"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_nobody_gave_a_deadline_has_a_day_or_what_it_needs_but_no_more_than_a_week() {
        let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
        for (slowest, end) in [
            (Duration::ZERO, day),
            (23 * hour, day),
            (40 * hour, 40 * hour),
            (8 * day, 7 * day),
            (Duration::MAX, 7 * day),
        ] {
            assert_eq!(usual_end(slowest), end, "{slowest:?}");
        }
        assert_eq!(within(40 * hour, false), "within 1 d 16 h");
        assert_eq!(within(7 * day, false), "within 7 d 0 h (`--deadline` gives it more)");
        assert_eq!(within(8 * day, true), "within 8 d 0 h");
    }
}
