//! A machine's life: what it was at, for how long, and what that cost. Pure.

use super::{
    axis::Axis,
    trace::{Ending, RECONNECTING, RELEASING, Session, Trace},
};
use crate::{clock, ledger::Lease};
use jiff::Timestamp;
use providers::Usd;
use serde::Serialize;

/// What a machine was at for a while.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// What.
    pub phase: &'static str,
    /// Seconds of the run until it began.
    pub begins: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What it cost.
    pub micro_usd: Usd,
}

/// All of a phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseTotal {
    /// Which.
    pub phase: &'static str,
    /// How often it was.
    pub times: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What it cost.
    pub micro_usd: Usd,
}

/// Puts phases together, in the order in which they come.
pub(super) fn in_all<'a>(phases: impl IntoIterator<Item = &'a Phase>) -> Vec<PhaseTotal> {
    let mut totals: Vec<PhaseTotal> = Vec::new();
    for Phase { phase, seconds, micro_usd, .. } in phases {
        if let Some(total) = totals.iter_mut().find(|total| total.phase == *phase) {
            total.times += 1;
            total.seconds += seconds;
            total.micro_usd.0 += micro_usd.0;
        } else {
            let (seconds, micro_usd) = (*seconds, *micro_usd);
            totals.push(PhaseTotal { phase, times: 1, seconds, micro_usd });
        }
    }
    totals.sort_by_key(|total| ORDER.iter().position(|phase| *phase == total.phase));
    totals
}

/// The order in which phases come.
const ORDER: [&str; 11] = [
    RENTING,
    "booting",
    "connecting",
    "testing",
    "uploading",
    "fetching",
    "loading",
    "working",
    RECONNECTING,
    RELEASING,
    UNWATCHED,
];

/// Until a machine is rented.
const RENTING: &str = "renting";
/// Nobody was there to note what a machine was at.
const UNWATCHED: &str = "unwatched";

/// The phases in which a machine does what it is rented for.
pub(super) fn is_work(phase: &Phase) -> bool {
    phase.phase == "working"
}

/// What a lease has cost by a moment.
pub(super) fn cost_by(lease: &Lease, at: Timestamp, now: Timestamp) -> Usd {
    if at < lease.since || lease.cost(now) == Usd(0) {
        return Usd(0);
    }
    let held = clock::between(lease.since, at.min(end(lease, now)));
    lease.terms.price.over(lease.terms.billing.charged(held))
}

/// When a lease ended, or now.
pub(super) fn end(lease: &Lease, now: Timestamp) -> Timestamp {
    lease.end(now).max(lease.since)
}

/// The phases of a lease, without gaps from its order to its end. What they cost comes to what the
/// lease costs, each by its share of the time.
pub(super) fn phases(
    lease: &Lease,
    trace: &Trace,
    sessions: &[Session],
    axis: &Axis,
    now: Timestamp,
) -> Vec<Phase> {
    let end = end(lease, now);
    let mut marks = vec![(lease.since, RENTING)];
    marks.extend(trace.marks.iter().copied());
    // After a session that died nobody was there until the next one came.
    let died = sessions.iter().filter(|session| session.ending == Ending::Died);
    marks.extend(died.map(|session| (session.end, UNWATCHED)));
    marks.sort_by_key(|(at, _)| *at);
    // A lease that its own session had begun to give back goes on being given back.
    let mut edges: Vec<(Timestamp, &'static str)> = Vec::new();
    for (at, phase) in marks {
        let at = at.clamp(lease.since, end);
        match edges.last_mut() {
            Some((_, last)) if *last == phase => {}
            Some((_, last)) if *last == RELEASING && phase == UNWATCHED => {}
            Some((begun, last)) if *begun == at => *last = phase,
            Some(_) | None => edges.push((at, phase)),
        }
    }
    let (whole, total) = (lease.cost(now).0, clock::between(lease.since, end).as_millis());
    let share = |at: Timestamp| {
        let part = clock::between(lease.since, at).as_millis();
        let share = u128::from(whole) * part / total.max(1);
        if at == end { whole } else { u64::try_from(share).unwrap_or(whole) }
    };
    let ends = edges.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let phase = |((begin, phase), end): (&(Timestamp, &'static str), Timestamp)| Phase {
        phase,
        begins: axis.seconds(*begin),
        seconds: clock::between(*begin, end).as_secs_f64(),
        micro_usd: Usd(share(end) - if *begin == lease.since { 0 } else { share(*begin) }),
    };
    // What took no time and no money is of no interest.
    let some = |phase: &Phase| 0.0 < phase.seconds || phase.micro_usd != Usd(0);
    edges.iter().zip(ends).map(phase).filter(some).collect()
}
