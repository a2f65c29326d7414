//! The worker proper: prompts from the controller to the engine, completions to the spool and back.
//!
//! It is one task that owns all state and waits for whatever comes next. It goes on when nobody
//! is connected, and talks to one controller at a time: the latest, by generation.

use crate::{
    bring_up::{News, Running, bring_up},
    conversation::{Arrival, Conversation, Heard},
    engine::EngineError,
    spool::{Spool, SpoolError},
    watchdog,
};
use std::{
    collections::{BTreeSet, VecDeque},
    future::pending,
    io,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use tokio::{
    net::UnixListener,
    sync::mpsc::{OwnedPermit, Receiver, Sender, channel},
    time::{MissedTickBehavior, interval},
};
use wire::{
    Completion, EngineFacts, Fault, Job, Phase, Prompt, Status, ToController, ToWorker, VERSION,
};

/// Bytes of completions that go into one message.
const BATCH_BYTES: usize = 1 << 20;

/// Completions taken from the engine at once.
const GULP: usize = 4096;

/// How often a status is sent.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// How long a device may take for what an engine waits for: far longer than any step does.
const DEVICE_LIMIT: Duration = Duration::from_mins(10);

/// Messages from a controller that wait to be handled.
const INBOX: usize = 4;

/// Serves controllers that connect to `listener`, until one says to quit.
pub async fn serve(listener: UnixListener, spool: Spool) -> Result<(), SpoolError> {
    let (arrivals_end, arrivals) = channel(INBOX);
    tokio::spawn(receive(listener, arrivals_end));
    let (heard_end, heard) = channel(INBOX);
    Worker::new(spool, heard_end).work(arrivals, heard).await
}

async fn receive(listener: UnixListener, arrivals: Sender<Arrival>) {
    loop {
        let stream: io::Result<_> = listener.accept().await;
        let Ok((stream, _)) = stream else {
            // Out of file descriptors, most likely; others may be given back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let arrivals = arrivals.clone();
        tokio::spawn(async move {
            // Whoever can't say hello is no controller, and isn't owed an answer.
            if let Ok(arrival) = Arrival::greet(stream).await {
                drop(arrivals.send(arrival).await);
            }
        });
    }
}

struct Worker {
    spool: Spool,
    generation: u64,
    run: Option<String>,
    job: Option<Job>,
    engine: Option<Running>,
    facts: Option<EngineFacts>,
    phase: Phase,
    /// Not yet given to the engine.
    waiting: VecDeque<Prompt>,
    /// All that are waiting or with the engine, by index.
    held: BTreeSet<u64>,
    conversation: Option<Conversation>,
    conversations: u64,
    heard: Sender<Heard>,
    to_say: VecDeque<ToController>,
    status_due: bool,
    sent_through: u64,
}

impl Worker {
    fn new(spool: Spool, heard: Sender<Heard>) -> Self {
        Self {
            spool,
            generation: 0,
            run: None,
            job: None,
            engine: None,
            facts: None,
            phase: Phase::Idle,
            waiting: VecDeque::new(),
            held: BTreeSet::new(),
            conversation: None,
            conversations: 0,
            heard,
            to_say: VecDeque::new(),
            status_due: false,
            sent_through: 0,
        }
    }

    async fn work(
        mut self,
        mut arrivals: Receiver<Arrival>,
        mut heard: Receiver<Heard>,
    ) -> Result<(), SpoolError> {
        let mut tick = interval(STATUS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let feed = self.engine.as_ref().filter(|_| !self.waiting.is_empty());
            let feed = feed.map(|engine| engine.prompts.clone());
            let out = self.conversation.as_ref().filter(|_| self.has_something_to_say());
            let out = out.map(|conversation| conversation.out.clone());
            tokio::select! {
                Some(arrival) = arrivals.recv() => self.welcome(arrival).await,
                Some((id, message)) = heard.recv() => {
                    if self.conversation.as_ref().is_some_and(|current| current.id == id) {
                        match message {
                            Some(ToWorker::Quit) => return Ok(()),
                            Some(message) => self.hear(message)?,
                            None => self.conversation = None,
                        }
                    }
                }
                Some(permit) = permit(feed) => {
                    permit.send(self.waiting.pop_front().expect("it is fed only then"));
                }
                Some(permit) = permit(out) => drop(permit.send(self.next_to_say())),
                said = said(self.engine.as_mut()) => match said {
                    Said::Completions(completions) => self.keep(completions)?,
                    Said::News(news, mut completions) => {
                        while !completions.is_empty() {
                            let rest = completions.split_off(completions.len().min(GULP));
                            self.keep(std::mem::replace(&mut completions, rest))?;
                        }
                        self.learn(news);
                    }
                },
                _ = tick.tick() => {
                    self.status_due = true;
                    self.look(Instant::now());
                }
            }
        }
    }

    async fn welcome(&mut self, arrival: Arrival) {
        if arrival.version != VERSION {
            arrival.dismiss(ToController::Hello { version: VERSION, held: Vec::new() }).await;
            return;
        }
        if arrival.generation < self.generation {
            arrival.dismiss(ToController::Fenced { generation: self.generation }).await;
            return;
        }
        let run = self.run.get_or_insert_with(|| arrival.run.clone());
        if *run != arrival.run {
            let reason = format!("this worker works for the run {run}, not for {}", arrival.run);
            arrival.dismiss(ToController::Broken { fault: Fault::Work, reason }).await;
            return;
        }
        self.generation = arrival.generation;
        self.conversations += 1;
        self.conversation = Some(arrival.converse(self.conversations, self.heard.clone()));
        // Whatever an earlier controller was told may be lost.
        self.sent_through = 0;
        // What it has answered it still holds, until that is on the controller's disk.
        let held = self.held.iter().copied().chain(self.spool.indices());
        let mut held: Vec<u64> = held.collect();
        held.sort_unstable();
        self.to_say = VecDeque::from([ToController::Hello { version: VERSION, held }]);
        self.say_state();
    }

    fn hear(&mut self, message: ToWorker) -> Result<(), SpoolError> {
        match message {
            ToWorker::Work { job, access } if self.job.is_none() => {
                self.engine = Some(bring_up(job.clone(), access));
                self.job = Some(job);
            }
            ToWorker::Work { job, .. } if self.job.as_ref() != Some(&job) => {
                let reason = "this worker was told to work with another model".to_owned();
                self.to_say.push_back(ToController::Broken { fault: Fault::Work, reason });
            }
            ToWorker::Prompts(prompts) => {
                let fresh = prompts.into_iter().filter(|prompt| {
                    !self.spool.holds(prompt.index) && self.held.insert(prompt.index)
                });
                self.waiting.extend(fresh);
            }
            ToWorker::Forget { through } => self.spool.forget(through)?,
            ToWorker::Drain => {
                let given_up: Vec<u64> =
                    self.waiting.drain(..).map(|prompt| prompt.index).collect();
                for index in &given_up {
                    self.held.remove(index);
                }
                self.to_say.push_back(ToController::GivenUp(given_up));
            }
            ToWorker::Lease { seconds } => {
                let left = Duration::from_secs(seconds);
                // What can't be told now is told in a few seconds; until then it ends too early.
                drop(watchdog::renew(Path::new(watchdog::FOLDER), left));
            }
            // The same work again is no news, a second hello has no meaning, and a quit never
            // gets here.
            ToWorker::Work { .. } | ToWorker::Hello { .. } | ToWorker::Quit => {}
        }
        Ok(())
    }

    fn keep(&mut self, completions: Vec<Completion>) -> Result<(), SpoolError> {
        for completion in &completions {
            self.held.remove(&completion.index);
        }
        self.spool.append(completions)
    }

    /// Gives an engine up that waits for a device which doesn't come back. Its thread may never end.
    fn look(&mut self, now: Instant) {
        let since = self.engine.as_ref().and_then(|engine| engine.gauge.waiting_since());
        if since.is_some_and(|since| DEVICE_LIMIT <= now.saturating_duration_since(since)) {
            let reason = format!(
                "the GPU has hung: it has been at one step for {} minutes; only its machine's owner can \
                 mend that",
                DEVICE_LIMIT.as_secs() / 60
            );
            self.learn(News::Broken(EngineError::machine(reason)));
        }
    }

    fn learn(&mut self, news: News) {
        match news {
            News::Phase(phase) => self.phase = phase,
            News::Up(facts) => {
                self.phase = Phase::Working;
                self.facts = Some(facts);
                self.say_state();
            }
            News::Broken(EngineError { fault, reason }) => {
                self.phase = Phase::Broken { fault, reason };
                self.engine = None;
                self.say_state();
            }
        }
        self.status_due = true;
    }

    /// Queues what a controller must know of the engine.
    fn say_state(&mut self) {
        if let Phase::Broken { fault, reason } = self.phase.clone() {
            self.to_say.push_back(ToController::Broken { fault, reason });
        } else if let Some(facts) = &self.facts {
            self.to_say.push_back(ToController::Ready(facts.clone()));
        }
    }

    fn has_something_to_say(&self) -> bool {
        !self.to_say.is_empty() || self.sent_through < self.spool.last() || self.status_due
    }

    fn next_to_say(&mut self) -> ToController {
        // Bad news ends the conversation, so whatever is answered goes before it.
        let bad_news = matches!(self.to_say.front(), Some(ToController::Broken { .. }));
        if !(bad_news && self.sent_through < self.spool.last())
            && let Some(message) = self.to_say.pop_front()
        {
            return message;
        }
        // Before answers, of which a busy engine and a slow link always have more.
        if std::mem::take(&mut self.status_due) {
            return ToController::Status(self.status());
        }
        if let Some((through, completions)) = self.spool.batch(self.sent_through, BATCH_BYTES) {
            self.sent_through = through;
            return ToController::Completions { through, completions };
        }
        self.sent_through = self.spool.last();
        ToController::Status(self.status())
    }

    fn status(&self) -> Status {
        let gauge = self.engine.as_ref().map(|engine| &engine.gauge);
        Status {
            phase: self.phase.clone(),
            waiting: self.waiting.len() as u64,
            running: (self.held.len() - self.waiting.len()) as u64,
            tokens_in: gauge.map_or(0, |gauge| gauge.tokens_in.load(Relaxed)),
            tokens_out: gauge.map_or(0, |gauge| gauge.tokens_out.load(Relaxed)),
            hungry_micros: gauge.map_or(0, |gauge| gauge.hungry_micros.load(Relaxed)),
        }
    }
}

/// Room for one more in a channel; never, where there is no channel or its end is gone.
async fn permit<T: Send>(sender: Option<Sender<T>>) -> Option<OwnedPermit<T>> {
    match sender {
        Some(sender) => sender.reserve_owned().await.ok(),
        None => pending().await,
    }
}

enum Said {
    Completions(Vec<Completion>),
    /// News, and completions that were there by then.
    News(News, Vec<Completion>),
}

/// The next that an engine says; never, where there is none.
async fn said(engine: Option<&mut Running>) -> Said {
    let Some(engine) = engine else {
        return pending().await;
    };
    let mut completions = Vec::new();
    tokio::select! {
        // That it is up is told before what it answered. After bad news nobody takes completions.
        biased;
        Some(news) = engine.news.recv() => {
            while let Ok(completion) = engine.completions.try_recv() {
                completions.push(completion);
            }
            Said::News(news, completions)
        }
        1.. = engine.completions.recv_many(&mut completions, GULP) => {
            Said::Completions(completions)
        }
        else => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Gauge, Outlet};
    use std::sync::Arc;
    use tokio::sync::mpsc::unbounded_channel;
    use wire::Outcome;

    fn answer(index: u64) -> Completion {
        let body = "x".repeat(BATCH_BYTES);
        Completion { index, outcome: Outcome::Done { body, tokens_in: 1, tokens_out: 1 } }
    }

    #[tokio::test]
    async fn that_an_engine_is_up_or_broken_is_heard_with_all_that_it_answered_by_then() {
        let (news_end, news) = unbounded_channel();
        let (completions_end, completions) = unbounded_channel();
        let mut engine =
            Running { prompts: channel(1).0, completions, news, gauge: Arc::new(Gauge::default()) };
        for index in 0..3 {
            completions_end.send(answer(index)).expect("somebody listens");
        }
        news_end.send(News::Broken(EngineError::work("it broke"))).expect("somebody listens");
        let Said::News(News::Broken(_), kept) = said(Some(&mut engine)).await else {
            panic!("news come first")
        };
        assert_eq!(kept.len(), 3);
    }

    #[test]
    fn an_engine_whose_gpu_never_comes_back_is_given_up_and_the_machine_is_to_blame() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(&folder.path().join("spool")).expect("it opens");
        let mut worker = Worker::new(spool, channel(INBOX).0);
        let (gauge, (outlet, completions)) = (Arc::<Gauge>::default(), unbounded_channel());
        let (prompts, news) = (channel(1).0, unbounded_channel().1);
        worker.engine = Some(Running { prompts, completions, news, gauge: gauge.clone() });
        let outlet = Outlet::new(outlet, gauge.clone());
        let ages_later = Instant::now() + 9 * DEVICE_LIMIT;
        worker.look(ages_later);
        drop(outlet.wait());
        worker.look(ages_later);
        let waiting = outlet.wait();
        let since = gauge.waiting_since().expect("it waits");
        worker.look(since + DEVICE_LIMIT / 2);
        assert!(worker.engine.is_some() && worker.to_say.is_empty(), "nothing is wrong yet");
        worker.look(since + DEVICE_LIMIT);
        assert!(worker.engine.is_none());
        let said = worker.next_to_say();
        let ToController::Broken { fault: Fault::Machine, reason } = said else {
            panic!("{said:?}")
        };
        assert!(reason.contains("the GPU has hung"), "{reason}");
        drop(waiting);
    }

    #[test]
    fn a_controller_is_told_how_it_goes_however_many_answers_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(&folder.path().join("spool")).expect("it opens");
        let mut worker = Worker::new(spool, channel(INBOX).0);
        worker.keep((0..4).map(answer).collect()).expect("they are kept");
        for through in 1..=4 {
            worker.status_due = true;
            assert!(matches!(worker.next_to_say(), ToController::Status(_)));
            let next = worker.next_to_say();
            assert!(
                matches!(next, ToController::Completions { through: last, .. } if last == through)
            );
        }
        assert!(!worker.has_something_to_say());
    }
}
