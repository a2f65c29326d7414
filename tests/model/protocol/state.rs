//! What there is in the model: the ledger, the marketplace, the workers, the programs, and what is on
//! its way between them.

use std::collections::BTreeSet;

pub(super) const MACHINES: usize = 2;
pub(super) const LINES: u8 = 3;
/// How often a slot's machine may be rented.
pub(super) const ATTEMPTS: usize = 2;

/// Lines, one bit each.
pub(super) type Lines = u8;
pub(super) const ALL: Lines = (1 << LINES) - 1;

/// Which lines these are, in order.
pub(super) fn lines(set: Lines) -> impl Iterator<Item = u8> {
    (0..LINES).filter(move |line| set & 1 << line != 0)
}

/// What the ledger says of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    #[default]
    Absent,
    Ordered,
    Held,
    Releasing,
    /// Refused or released.
    Over,
}

impl Entry {
    pub(super) const fn is_owed(self) -> bool {
        matches!(self, Self::Ordered | Self::Held | Self::Releasing)
    }
}

/// What the marketplace has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Instance {
    #[default]
    Absent,
    /// The request is on its way.
    Asked,
    /// It is billed, and not yet listed.
    Hidden,
    Listed,
    Gone,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    pub(super) doing: Lines,
    /// Numbered answers that it hasn't been told to forget.
    pub(super) spool: Vec<(u8, u8)>,
    pub(super) last: u8,
    /// The link that it listens to, and the latest generation that it has heard.
    pub(super) link: u8,
    pub(super) generation: u8,
}

impl Worker {
    pub(super) fn has(&self) -> Lines {
        self.spool.iter().fold(self.doing, |lines, (_, line)| lines | 1 << line)
    }
}

/// One order, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    pub(super) entry: Entry,
    pub(super) instance: Instance,
    pub(super) worker: Worker,
}

impl Lease {
    pub(super) const fn is_billed(&self) -> bool {
        matches!(self.instance, Instance::Hidden | Instance::Listed)
    }
}

/// What a program knows of one of its machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Hold {
    pub(super) held: Lines,
    pub(super) link: u8,
    /// Up to which number answers have come that it hasn't acknowledged.
    pub(super) heard: u8,
    /// The order is in the ledger, and not yet sent.
    pub(super) unsent: bool,
    /// The order is sent, and its answer is awaited.
    pub(super) asked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Program {
    pub(super) generation: u8,
    pub(super) waiting: Lines,
    /// Written, and not yet synced.
    pub(super) written: Lines,
    pub(super) done: Lines,
    pub(super) holds: [Hold; MACHINES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Message {
    Prompt { machine: usize, link: u8, line: u8 },
    Forget { machine: usize, link: u8, through: u8 },
    Answer { machine: usize, link: u8, number: u8, line: u8 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) leases: [[Lease; ATTEMPTS]; MACHINES],
    pub(super) programs: [Option<Program>; 2],
    pub(super) generation: u8,
    pub(super) links: u8,
    pub(super) synced: Lines,
    /// What is on its way to each worker and from it, in order.
    pub(super) wires: [[Vec<Message>; 2]; MACHINES],
    /// What has left its place in that order: over a link that is gone, or a second time.
    pub(super) late: BTreeSet<Message>,
    pub(super) mishaps: u8,
    /// A line was committed a second time.
    pub(super) doubled: bool,
    /// An answer was forgotten that is nowhere else.
    pub(super) lost: bool,
}

impl State {
    /// Which of a slot's orders is the latest.
    pub(super) fn latest(&self, machine: usize) -> usize {
        let begun =
            |lease: &Lease| lease.entry != Entry::Absent || lease.instance != Instance::Absent;
        self.leases[machine].iter().rposition(begun).unwrap_or(0)
    }

    pub(super) fn lease(&self, machine: usize) -> &Lease {
        &self.leases[machine][self.latest(machine)]
    }

    pub(super) fn lease_mut(&mut self, machine: usize) -> &mut Lease {
        let latest = self.latest(machine);
        &mut self.leases[machine][latest]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter().flatten()
    }

    /// Everything is done, and nothing costs money.
    pub(super) fn is_over(&self) -> bool {
        let settled = |lease: &Lease| !lease.entry.is_owed() && !lease.is_billed();
        self.synced == ALL && self.all().all(settled)
    }

    pub(super) fn say(&mut self, message: Message) {
        let (machine, way) = match message {
            Message::Prompt { machine, .. } | Message::Forget { machine, .. } => (machine, 0),
            Message::Answer { machine, .. } => (machine, 1),
        };
        self.wires[machine][way].push(message);
    }

    pub(super) fn hear(&mut self, message: Message) {
        let mut ways = self.wires.iter_mut().flatten();
        let way = ways.find(|way| way.first() == Some(&message));
        way.expect("it is the next").remove(0);
    }

    /// Hangs up on both sides.
    pub(super) fn hang_up(&mut self, machine: usize) {
        let wires = std::mem::take(&mut self.wires[machine]);
        self.late.extend(wires.into_iter().flatten());
        let link = std::mem::take(&mut self.lease_mut(machine).worker.link);
        for program in self.programs.iter_mut().flatten() {
            let hold = &mut program.holds[machine];
            if hold.link == link {
                (hold.link, hold.heard) = (0, 0);
            }
        }
    }
}

/// A program takes the run up: what is synced is done, and all else waits.
pub(super) fn take_up(state: &mut State) {
    state.generation += 1;
    let (generation, done) = (state.generation, state.synced);
    let (waiting, holds) = (ALL & !done, Default::default());
    let free = state.programs.iter_mut().find(|program| program.is_none());
    *free.expect("one is dead") = Some(Program { generation, waiting, written: 0, done, holds });
}

/// What a listing that isn't late, or an answer, makes of an order.
pub(super) fn look(lease: &mut Lease) {
    lease.entry = if lease.is_billed() { Entry::Held } else { Entry::Over };
}

/// A worker and a program greet each other: what was said before is said anew.
pub(super) fn attach(state: &mut State, who: usize, machine: usize) {
    state.links += 1;
    let (link, generation) = (state.links, program(state, who).generation);
    let worker = &mut state.lease_mut(machine).worker;
    (worker.link, worker.generation) = (link, generation);
    let (has, spool) = (worker.has(), worker.spool.clone());
    let program = program(state, who);
    let hold = &mut program.holds[machine];
    hold.link = link;
    hold.held |= has & program.waiting;
    program.waiting &= !has;
    let unheard = hold.held & !has;
    for line in lines(unheard) {
        state.say(Message::Prompt { machine, link, line });
    }
    for (number, line) in spool {
        state.say(Message::Answer { machine, link, number, line });
    }
}

pub(super) fn give(state: &mut State, who: usize, machine: usize, line: u8) {
    let hold = &mut program(state, who).holds[machine];
    hold.held |= 1 << line;
    let prompt = Message::Prompt { machine, link: hold.link, line };
    state.say(prompt);
}

pub(super) fn program(state: &mut State, who: usize) -> &mut Program {
    state.programs[who].as_mut().expect("it acts")
}
