//! What a run that is gone on with may cost from here on, said and asked before it does.

use super::{
    CommandError,
    prepare::{likely, tell_no_end, worst_of},
};
use crate::{
    catalog,
    choose::in_words,
    clock,
    event::Events,
    exit::Exit,
    ledger::{self, Books, Lease},
    report::{self, Style, words},
    run::{self, LEASE_MARGIN, Ladder, RunError, Setting, spent_by, worst},
    shards::so_far,
    shortlist::{Pick, unable},
};
use jiff::Timestamp;
use providers::{Host, Label, Usd};
use tokio::sync::mpsc::unbounded_channel;

/// Whether to go on: where that can cost something, it is said what at most, and asked. What is
/// said is kept to from here on.
pub(super) async fn consented(setting: &mut Setting, yes: bool) -> bool {
    let ledger = setting.folder.ledger();
    // Of a ledger that can't be used whoever goes on says so, and rents nothing.
    let Ok(books) = Books::read(&ledger) else { return true };
    let books = books.unwrap_or_default();
    if ledger::is_in_use(&ledger) || is_free(setting, &books) || is_done(setting).await {
        return true;
    }
    let (picks, now) = (picks(setting, &books).await, clock::now());
    let most = most(setting, &books, &picks, now);
    if most == Usd(0) {
        // The budget is spent, which is no question.
        return true;
    }
    tell(setting, &books, picks.first(), most);
    // Reckoned as the purse does, so that all of it is there for what is still to do.
    setting.plan.at_most = Some(Usd(spent_by(&books, now).0.saturating_add(most.0)));
    yes || report::ask("go on?")
}

/// Whether all that it may rent or keep costs nothing.
fn is_free(setting: &Setting, books: &Books) -> bool {
    let here = |name: &String| {
        let market = setting.markets.get(name);
        market.is_some_and(|market| market.capabilities().host == Host::ThisComputer)
    };
    let kept = books.owed().all(|(_, lease)| lease.terms.price.0 == 0);
    kept && setting.plan.search.providers.iter().all(here)
}

/// Whether nothing is left to be answered. What can't be told now is taken to be left.
async fn is_done(setting: &Setting) -> bool {
    let files = setting.folder.files(&setting.plan);
    let (prompts, again) = (setting.plan.prompts, setting.retry_failed);
    let looked = tokio::task::spawn_blocking(move || so_far(&files)).await;
    looked.is_ok_and(|ordered| {
        ordered.is_ok_and(|ordered| {
            let failed = if again { 0 } else { ordered.failed };
            prompts <= ordered.completed + failed
        })
    })
}

/// What could be rented now, the best first.
async fn picks(setting: &Setting, books: &Books) -> Vec<Pick> {
    let search = &setting.plan.search;
    // One that can't be asked is missed when it is rented from.
    let Ok(markets) = setting.markets.only(&search.providers) else { return Vec::new() };
    let shape = setting.plan.shape.as_ref();
    let catalog = catalog::ask(&markets, &search.need(shape), catalog::PATIENCE).await;
    let (name, prompts) = (&setting.plan.job.model.name, setting.plan.prompts.max(1));
    let (avoid, measured) = (unable(books), &setting.measured);
    let (picks, _) = search.shortlist(catalog.listed, shape, name, prompts, &avoid, measured);
    picks
}

/// What going on costs at most, by what is for rent now and what is rented still. Where nothing is,
/// by what was rented before, or else by what was said when the run was begun.
fn most(setting: &Setting, books: &Books, picks: &[Pick], now: Timestamp) -> Usd {
    let plan = &setting.plan;
    let ceiling = plan.search.wish.ceiling;
    let held = plan.deadline.saturating_add(LEASE_MARGIN);
    let by_offers = likely(picks, plan.machines).map(|pick| {
        let shape = setting.plan.shape.as_ref();
        worst_of(&pick.listed.offer, ceiling, plan.deadline, plan.machines, shape, plan.bytes)
    });
    let by_lease = |(_, lease): (&Label, &Lease)| {
        let terms = &lease.terms;
        let dearest = ceiling.unwrap_or(terms.price).max(terms.price);
        let each = worst(dearest, terms.billing, held, terms.traffic);
        Usd(each.0.saturating_mul(u64::from(plan.machines)))
    };
    let now_there = by_offers.chain(books.owed().map(by_lease)).max();
    let before = || books.leases().map(by_lease).max();
    let all = now_there.or_else(before).or(plan.at_most).unwrap_or(Usd(u64::MAX));
    let left = plan.budget.map(|budget| Usd(budget.0.saturating_sub(books.cost(now).0)));
    left.map_or(all, |left| left.min(all))
}

fn tell(setting: &Setting, books: &Books, best: Option<&Pick>, most: Usd) {
    let plan = &setting.plan;
    let kept: Vec<_> = books.owed().map(|(_, lease)| &lease.terms).collect();
    for terms in &kept {
        report::note(&format!("still rented from {} at {}", terms.provider, terms.price));
    }
    if let Some(Pick { listed, .. }) = best {
        let each = match plan.machines {
            1 => String::new(),
            several => format!("{several} machines, each "),
        };
        let (offer, market) = (&listed.offer, &listed.market);
        report::note(&format!("{each}{} from {market} at {}", in_words(offer), offer.price));
        tell_no_end(&setting.markets, market);
    }
    let at = match plan.search.wish.ceiling {
        Some(ceiling) => format!(" at {ceiling} or less each"),
        None => String::new(),
    };
    let (so_far, within) = (books.cost(clock::now()), words::time(plan.deadline));
    report::note(&format!("{so_far} so far; at most {most} more{at}, within {within}"));
    if !kept.is_empty() {
        report::note("without a yes, what is still rented is given back");
    }
}

/// Nobody has said yes: what the run still rents is given back, for nobody else may do it.
pub(super) async fn refused(setting: &Setting, json: bool) -> Result<Exit, CommandError> {
    let ledger = setting.folder.ledger();
    let owed =
        Books::read(&ledger).ok().flatten().is_some_and(|books| books.owed().next().is_some());
    let error = if owed {
        let left = give_back(setting, json).await?;
        if !left.is_empty() {
            report::owed(&left, &ledger, &setting.markets);
            return Ok(Exit::MayBeBilled);
        }
        "nothing more was rented, and what was still rented is given back"
    } else {
        "nothing was rented"
    };
    Err(CommandError::new(Exit::Refused, error).hint("say yes, or give `--yes`"))
}

/// What is still owed after that.
async fn give_back(setting: &Setting, json: bool) -> Result<Vec<Label>, CommandError> {
    let (sender, receiver) = unbounded_channel();
    let style = if json { Style::Json } else { Style::Human };
    let telling = tokio::spawn(report::tell(style, receiver));
    let ladder = Ladder::default();
    ladder.obey_signals().map_err(|error| CommandError::new(Exit::Failed, error))?;
    let left = run::give_back(setting, Events::to(sender), ladder).await;
    // A reporter that crashed has nothing to add.
    drop(telling.await);
    left.map_err(|error: RunError| {
        CommandError::new(Exit::MayBeBilled, error)
            .hint("`piecework cleanup` finds and ends what is left by its labels")
    })
}
