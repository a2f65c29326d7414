//! The leases and the conversation as a model, in which all that can happen happens in every order:
//! two programs that want the run, two machines, three lines, and a number of mishaps. A mishap is a
//! program, a worker or a machine that ends, a link that breaks, a message that comes twice, and a
//! request or an answer of the marketplace that is lost. What was said over a link that is gone may
//! arrive at any later time. A listing shows an instance late, at a time of its choosing.
//!
//! What is modelled is what `leases.rs`, `ledger`, `shards` and the worker's `serve.rs` promise each
//! other. A promise that is left out must be missed, or the model would prove nothing.

mod state;

use state::{
    ALL, ATTEMPTS, Entry, Instance, Lease, MACHINES, Message, Program, State, Worker, attach, give,
    lines, look, program, take_up,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// A promise that isn't kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// A worker is told to forget what isn't synced.
    AckBeforeSync,
    /// An order counts as refused as soon as a listing doesn't show it.
    EarlyListing,
    /// What comes over an old link is heard.
    Fence,
    /// Whoever wants the run takes it up.
    Lock,
    /// The order is sent before it is in the ledger.
    SendBeforeLedger,
    /// A second answer for a line counts as well.
    TwoAnswers,
    /// A machine is taken for gone once it was asked to go.
    GoneUnseen,
}

/// What may happen; by which program, and to which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    TakeUp,
    Order(usize, usize),
    Send(usize, usize),
    Told(usize, usize),
    Look(usize, usize),
    GiveBack(usize, usize),
    End(usize, usize),
    LookGone(usize, usize),
    Attach(usize, usize),
    Feed(usize, usize),
    Steal(usize, usize),
    Acknowledge(usize, usize),
    Sync(usize),
    Carry(usize),
    Show(usize),
    Work(usize),
    Deliver(Message),
    Late(Message),
    // From here on, mishaps.
    Repeat(Message),
    Kill(usize),
    LoseAnswer(usize, usize),
    Refuse(usize),
    Reclaim(usize),
    Die(usize),
    HangUp(usize),
}

/// The model: how much may go wrong, and which promise isn't kept.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    mishaps: u8,
    broken: Option<Broken>,
}

impl Protocol {
    fn breaks(self, promise: Broken) -> bool {
        self.broken == Some(promise)
    }

    /// What happens where nothing goes wrong.
    fn regular(self, state: &State, actions: &mut Vec<Action>) {
        if let Some(action) = self.at_once(state) {
            return actions.push(action);
        }
        for (who, program) in state.programs.iter().enumerate() {
            match program {
                Some(program) => self.of_program(state, who, program, actions),
                None if state.programs.iter().all(Option::is_none) => actions.push(Action::TakeUp),
                None if self.breaks(Broken::Lock) => actions.push(Action::TakeUp),
                None => {}
            }
        }
        for machine in 0..MACHINES {
            let lease = state.lease(machine);
            match lease.instance {
                Instance::Asked => actions.push(Action::Carry(machine)),
                Instance::Hidden => actions.push(Action::Show(machine)),
                Instance::Listed if lease.worker.doing != 0 => actions.push(Action::Work(machine)),
                Instance::Absent | Instance::Listed | Instance::Gone => {}
            }
        }
        for way in state.wires.iter().flatten().filter(|way| !way.is_empty()) {
            actions.push(Action::Deliver(way[0]));
        }
        let late = state.late.iter().filter(|message| self.is_heard(state, **message));
        actions.extend(late.map(|message| Action::Late(*message)));
    }

    /// What a program has to do before it waits for anything. It may be killed before each.
    fn at_once(self, state: &State) -> Option<Action> {
        let programs = state.programs.iter().enumerate();
        programs.filter_map(|(who, program)| Some((who, program.as_ref()?))).find_map(
            |(who, it)| {
                let safe = it.written == 0 || self.breaks(Broken::AckBeforeSync);
                (0..MACHINES).find_map(|machine| {
                    let (hold, others) = (it.holds[machine], it.holds[1 - machine].held);
                    let idle = hold.link != 0 && hold.held == 0;
                    let ours = state.lease(machine).entry == Entry::Held;
                    let action = if hold.unsent {
                        Action::Send
                    } else if hold.heard != 0 && safe {
                        Action::Acknowledge
                    } else if ours && it.done == ALL {
                        Action::GiveBack
                    } else if idle && it.waiting != 0 {
                        Action::Feed
                    } else if idle && others != 0 {
                        Action::Steal
                    } else {
                        return None;
                    };
                    Some(action(who, machine))
                })
            },
        )
    }

    fn of_program(self, state: &State, who: usize, program: &Program, actions: &mut Vec<Action>) {
        let left = ALL & !(program.done | program.written);
        if program.written != 0 {
            actions.push(Action::Sync(who));
        }
        for (machine, hold) in program.holds.iter().enumerate() {
            let (latest, lease) = (state.latest(machine), state.lease(machine));
            let mut may = |action: fn(usize, usize) -> Action, allowed: bool| {
                if allowed {
                    actions.push(action(who, machine));
                }
            };
            let (entry, instance) = (lease.entry, lease.instance);
            let clear = !hold.unsent && !hold.asked;
            let vacant = match entry {
                Entry::Absent => instance == Instance::Absent,
                Entry::Over => latest + 1 < ATTEMPTS,
                Entry::Ordered | Entry::Held | Entry::Releasing => false,
            };
            // The slots are alike, so the first one is the first to be ordered.
            let turn = machine == 0 || state.leases[0][0].entry != Entry::Absent;
            may(Action::Order, vacant && clear && left != 0 && turn);
            may(Action::Told, hold.asked && (lease.is_billed() || instance == Instance::Gone));
            // A listing that doesn't show it says something once it can't be late any more.
            let late = matches!(instance, Instance::Asked | Instance::Hidden);
            let looks = !late || self.breaks(Broken::EarlyListing);
            may(Action::Look, entry == Entry::Ordered && clear && looks);
            may(Action::GiveBack, entry == Entry::Held && instance == Instance::Gone);
            may(Action::End, entry == Entry::Releasing && lease.is_billed());
            let gone = instance == Instance::Gone || self.breaks(Broken::GoneUnseen);
            may(Action::LookGone, entry == Entry::Releasing && gone);
            let runs = entry == Entry::Held && instance == Instance::Listed;
            let later = lease.worker.generation <= program.generation;
            may(Action::Attach, runs && later && hold.link == 0 && left != 0);
        }
    }

    /// What goes wrong.
    fn mishaps(state: &State, actions: &mut Vec<Action>) {
        for (who, program) in state.programs.iter().enumerate() {
            let Some(program) = program else { continue };
            actions.push(Action::Kill(who));
            let asked = (0..MACHINES).filter(|machine| program.holds[*machine].asked);
            actions.extend(asked.map(|machine| Action::LoseAnswer(who, machine)));
        }
        for machine in 0..MACHINES {
            let lease = state.lease(machine);
            match lease.instance {
                Instance::Asked => actions.push(Action::Refuse(machine)),
                Instance::Hidden => actions.push(Action::Reclaim(machine)),
                Instance::Listed => {
                    actions.push(Action::Reclaim(machine));
                    if lease.worker.link != 0 {
                        actions.extend([Action::HangUp(machine), Action::Die(machine)]);
                    }
                }
                Instance::Absent | Instance::Gone => {}
            }
        }
        for way in state.wires.iter().flatten().filter(|way| !way.is_empty()) {
            actions.push(Action::Repeat(way[0]));
        }
    }

    /// Whether somebody hears a message.
    fn is_heard(self, state: &State, message: Message) -> bool {
        match message {
            Message::Prompt { machine, link, .. } | Message::Forget { machine, link, .. } => {
                let lease = state.lease(machine);
                let listens = lease.worker.link == link || self.breaks(Broken::Fence);
                lease.instance == Instance::Listed && listens
            }
            Message::Answer { machine, link, .. } => self.hearer(state, machine, link).is_some(),
        }
    }

    /// Which program hears what comes over a link.
    fn hearer(self, state: &State, machine: usize, link: u8) -> Option<usize> {
        let hears = |program: &Program| {
            let own = program.holds[machine].link;
            own != 0 && (own == link || self.breaks(Broken::Fence))
        };
        state.programs.iter().position(|program| program.as_ref().is_some_and(hears))
    }

    fn deliver(self, state: &mut State, message: Message) {
        match message {
            Message::Prompt { machine, line, .. } => {
                let worker = &mut state.lease_mut(machine).worker;
                if worker.has() & 1 << line == 0 {
                    worker.doing |= 1 << line;
                }
            }
            Message::Forget { machine, through, .. } => {
                let synced = state.synced;
                let spool = &mut state.lease_mut(machine).worker.spool;
                let forgotten = spool.iter().filter(|(number, _)| *number <= through);
                let lost = forgotten.map(|(_, line)| 1 << line).any(|line| synced & line == 0);
                spool.retain(|(number, _)| through < *number);
                state.lost |= lost;
            }
            Message::Answer { machine, link, number, line } => {
                let who = self.hearer(state, machine, link).expect("it is heard");
                let program = program(state, who);
                let heard = &mut program.holds[machine].heard;
                *heard = number.max(*heard);
                program.waiting &= !(1 << line);
                program.holds.iter_mut().for_each(|hold| hold.held &= !(1 << line));
                if program.done & 1 << line == 0 || self.breaks(Broken::TwoAnswers) {
                    program.written |= 1 << line;
                }
            }
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "each action is a few lines, and all are in one place"
    )]
    fn act(self, state: &mut State, action: Action) {
        let late = self.breaks(Broken::SendBeforeLedger);
        match action {
            Action::TakeUp => take_up(state),
            Action::Order(who, machine) => {
                let latest = state.latest(machine);
                let next = latest + usize::from(state.lease(machine).entry == Entry::Over);
                let lease = &mut state.leases[machine][next];
                if late {
                    lease.instance = Instance::Asked;
                } else {
                    lease.entry = Entry::Ordered;
                }
                program(state, who).holds[machine].unsent = true;
            }
            Action::Send(who, machine) => {
                let lease = state.lease_mut(machine);
                if late {
                    lease.entry = Entry::Ordered;
                } else {
                    lease.instance = Instance::Asked;
                }
                let hold = &mut program(state, who).holds[machine];
                (hold.unsent, hold.asked) = (false, true);
            }
            Action::Told(who, machine) => {
                program(state, who).holds[machine].asked = false;
                look(state.lease_mut(machine));
            }
            Action::Look(_, machine) => look(state.lease_mut(machine)),
            Action::GiveBack(who, machine) => {
                state.hang_up(machine);
                state.lease_mut(machine).entry = Entry::Releasing;
                let program = program(state, who);
                let held = std::mem::take(&mut program.holds[machine].held);
                program.waiting |= held & !program.holds[1 - machine].held;
            }
            Action::End(_, machine) | Action::Reclaim(machine) | Action::Refuse(machine) => {
                state.hang_up(machine);
                let lease = state.lease_mut(machine);
                (lease.instance, lease.worker) = (Instance::Gone, Worker::default());
            }
            Action::LookGone(_, machine) => state.lease_mut(machine).entry = Entry::Over,
            Action::Attach(who, machine) => attach(state, who, machine),
            Action::Feed(who, machine) => {
                let program = program(state, who);
                let line = lines(program.waiting).next().expect("some wait");
                program.waiting &= !(1 << line);
                give(state, who, machine, line);
            }
            Action::Steal(who, machine) => {
                let held = program(state, who).holds[1 - machine].held;
                let line = lines(held).last().expect("the other has some");
                give(state, who, machine, line);
            }
            Action::Acknowledge(who, machine) => {
                let hold = &mut program(state, who).holds[machine];
                let (link, through) = (hold.link, std::mem::take(&mut hold.heard));
                state.say(Message::Forget { machine, link, through });
            }
            Action::Sync(who) => {
                let written = std::mem::take(&mut program(state, who).written);
                program(state, who).done |= written;
                state.doubled |= state.synced & written != 0;
                state.synced |= written;
            }
            Action::Carry(machine) => state.lease_mut(machine).instance = Instance::Hidden,
            Action::Show(machine) => state.lease_mut(machine).instance = Instance::Listed,
            Action::Work(machine) => {
                let worker = &mut state.lease_mut(machine).worker;
                let line = lines(worker.doing).next().expect("it does one");
                worker.doing &= !(1 << line);
                worker.last += 1;
                worker.spool.push((worker.last, line));
                let answer =
                    Message::Answer { machine, link: worker.link, number: worker.last, line };
                if worker.link != 0 {
                    state.say(answer);
                }
            }
            Action::Deliver(message) => {
                state.hear(message);
                self.deliver(state, message);
            }
            Action::Repeat(message) => {
                state.late.insert(message);
            }
            Action::Late(message) => {
                state.late.remove(&message);
                self.deliver(state, message);
            }
            Action::Kill(who) => {
                for machine in 0..MACHINES {
                    if program(state, who).holds[machine].link != 0 {
                        state.hang_up(machine);
                    }
                }
                state.programs[who] = None;
            }
            Action::LoseAnswer(who, machine) => program(state, who).holds[machine].asked = false,
            Action::Die(machine) => {
                state.hang_up(machine);
                let worker = &mut state.lease_mut(machine).worker;
                worker.doing = 0;
                // It counts on from what is in its spool.
                worker.last = worker.spool.last().map_or(0, |(number, _)| *number);
            }
            Action::HangUp(machine) => state.hang_up(machine),
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.regular(state, actions);
        if state.mishaps < self.mishaps {
            Self::mishaps(state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.act(&mut next, action);
        let mut mishaps = Vec::new();
        Self::mishaps(state, &mut mishaps);
        next.mishaps += u8::from(mishaps.contains(&action));
        if !self.breaks(Broken::Fence) {
            // Links are never used again, so what isn't heard now will never be.
            let late = std::mem::take(&mut next.late);
            next.late = late.into_iter().filter(|message| self.is_heard(&next, *message)).collect();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no line is committed twice", |_, state: &State| !state.doubled),
            Property::always("no answer is forgotten before it is synced", |_, state: &State| {
                !state.lost
            }),
            Property::always("the ledger owes what is billed", |_, state: &State| {
                let asked = |lease: &&Lease| lease.is_billed() || lease.instance == Instance::Asked;
                state.leases.iter().flatten().filter(asked).all(|lease| lease.entry.is_owed())
            }),
            Property::always("no slot has two machines", |_, state: &State| {
                let billed = |slot: &[Lease; ATTEMPTS]| {
                    slot.iter().filter(|lease| lease.is_billed()).count()
                };
                state.leases.iter().all(|slot| billed(slot) < 2)
            }),
            Property::always(
                "it ends only when all is done and nothing is billed",
                |model: &Self, state: &State| {
                    let mut actions = Vec::new();
                    model.regular(state, &mut actions);
                    !actions.is_empty() || state.is_over()
                },
            ),
            Property::sometimes("it ends", |_, state: &State| state.is_over()),
            Property::sometimes(
                "a program that was killed left an order in doubt",
                |_, state: &State| {
                    let doubt = |lease: &Lease| lease.entry == Entry::Ordered && lease.is_billed();
                    let dead = state.programs.iter().all(Option::is_none);
                    dead && state.leases.iter().flatten().any(doubt)
                },
            ),
        ]
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a figure for whoever asks how much was tried")]
fn whatever_goes_wrong_every_line_is_committed_once_and_nothing_is_billed_in_the_end() {
    let model = Protocol { mishaps: 1, broken: None };
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states visited", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn a_promise_that_is_not_kept_is_missed() {
    for (promise, missed) in [
        (Broken::AckBeforeSync, "no answer is forgotten before it is synced"),
        (Broken::EarlyListing, "the ledger owes what is billed"),
        (Broken::Fence, "no answer is forgotten before it is synced"),
        (Broken::Lock, "no line is committed twice"),
        (Broken::SendBeforeLedger, "the ledger owes what is billed"),
        (Broken::TwoAnswers, "no line is committed twice"),
        (Broken::GoneUnseen, "the ledger owes what is billed"),
    ] {
        let model = Protocol { mishaps: 1, broken: Some(promise) };
        let ends = HasDiscoveries::AnyOf([missed].into());
        let checker = model.checker().threads(2).finish_when(ends).spawn_bfs().join();
        assert!(checker.discovery(missed).is_some(), "{promise:?} isn't missed");
    }
}
