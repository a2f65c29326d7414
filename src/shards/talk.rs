//! The conversation with one worker, from an instance that may not even be up to its last answer.
//!
//! It is a task that holds an address, never a lease. It waits for the instance, puts the worker
//! on it, talks to it, and whenever the link breaks it comes back and goes on. It decides nothing
//! about prompts: it tells the runner what it hears, and says what the runner tells it to.

mod broken;
mod ear;
mod mouth;
mod outgoing;
mod standing;

pub use broken::Loss;

use super::WorkerId;
use crate::{
    event::SlotPhase,
    label::RunId,
    leases::describe,
    ready::Waiting,
    remote::{Dial, Patience, Pins, RunKey, Session, answers, ask, install, quote, under_sh},
    smoke::{self, Promise, Seen},
    template::WATCHDOG_STATE,
};
use broken::Broken;
use ear::Ear;
use jiff::Timestamp;
use mouth::Mouth;
use providers::{Instance, Label, Marketplace, UsdPerHour, crash};
use standing::{Standing, Talked};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc::{Sender, UnboundedReceiver},
    time::{Instant, sleep, timeout},
};
use wire::{
    Completion, EngineFacts, FrameReader, FrameWriter, HubAccess, Job, Prompt, Status,
    ToController, ToWorker, VERSION,
};

/// How long an instance that was promised to be up may be out of reach before it is given up.
const OUTAGE_LIMIT: Duration = Duration::from_mins(10);

/// How long a worker may be silent, which otherwise says something every second.
const SILENCE: Duration = Duration::from_mins(1);

/// How long a machine may take to say what it is: one whose driver hangs never does.
const SMOKE_LIMIT: Duration = Duration::from_mins(1);

/// How long it may take to get the worker: 12 MB at a tenth of a Mbit/s.
const INSTALL_LIMIT: Duration = Duration::from_mins(20);

/// What the runner wants said.
#[derive(Debug)]
pub enum Say {
    /// These prompts are to be answered.
    Prompts(Vec<Prompt>),
    /// Completions of this conversation up to this number are on disk.
    Forget {
        /// The conversation, as in [`Said::Attached`].
        conversation: u64,
        /// The number.
        through: u64,
    },
    /// What isn't begun is to be given up.
    Drain,
}

/// What the runner is told.
#[derive(Debug)]
pub enum Said {
    /// The instance is at something.
    Phase(SlotPhase),
    /// The marketplace says that an hour of the instance costs this, whether it runs yet or not.
    Priced(UsdPerHour),
    /// A conversation has begun. Whatever was said before and isn't in `held` or answered soon
    /// must be said again.
    Attached {
        /// Which conversation, from 1.
        conversation: u64,
        /// The prompts that the worker holds, or has answered and still keeps the answers of.
        held: Vec<u64>,
    },
    /// The engine is up.
    Ready(EngineFacts),
    /// How the worker is doing.
    Status(Status),
    /// Answers.
    Completions {
        /// Which conversation.
        conversation: u64,
        /// To be said in [`Say::Forget`] once they are on disk.
        through: u64,
        /// The answers.
        completions: Vec<Completion>,
    },
    /// Prompts that the worker has given up.
    GivenUp(Vec<u64>),
    /// The link broke, and is being made again.
    Reconnecting(String),
    /// The instance is of no more use.
    Lost(Loss),
}

/// Everything that it takes to talk to one worker.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Tells this conversation from all others of the session.
    pub id: WorkerId,
    /// Which start of the program this is.
    pub generation: u64,
    /// The run.
    pub run: RunId,
    /// What the worker is to do.
    pub job: Job,
    /// What it shows to the hub that has the model.
    pub access: Option<HubAccess>,
    /// Where to ask for the instance's address.
    pub market: Arc<dyn Marketplace>,
    /// The instance.
    pub instance: Instance,
    /// Its label.
    pub label: Label,
    /// The run's key.
    pub key: RunKey,
    /// The run's host keys.
    pub pins: Arc<Pins>,
    /// The worker's binary, on this computer.
    pub worker: PathBuf,
    /// Until when the instance may be kept.
    pub expires: Timestamp,
    /// Whether it was started with a watchdog, which must be armed before it gets any prompt.
    pub watched: bool,
    /// What it was said to be, which it must show before anything is put on it. None for a machine of
    /// our own.
    pub promise: Option<Promise>,
}

/// Talks to a worker until its instance is lost or nobody listens any more.
pub async fn talk(talk: Talk, orders: UnboundedReceiver<Say>, said: Sender<(WorkerId, Said)>) {
    // So that tests can search what a panic shows, and see that it costs nothing.
    assert!(!crash::is_asked("talk"), "as PIECEWORK_CRASH asks: {talk:?}");
    let (alive, begun) = (Instant::now(), Instant::now());
    let (path, up, armed, tested) = (None, false, false, false);
    let (conversation, answered) = (0, Arc::default());
    let talker = Talker {
        talk,
        orders,
        said,
        conversation,
        path,
        up,
        armed,
        tested,
        alive,
        begun,
        answered,
    };
    talker.run().await;
}

struct Talker {
    talk: Talk,
    orders: UnboundedReceiver<Say>,
    said: Sender<(WorkerId, Said)>,
    conversation: u64,
    /// Where the worker's binary is, once it is there.
    path: Option<String>,
    /// Whether the marketplace has ever said that it runs.
    up: bool,
    /// Whether its watchdog was found to be armed.
    armed: bool,
    /// Whether it has shown that it is what was promised.
    tested: bool,
    /// When the instance was last talked to.
    alive: Instant,
    /// When the last conversation began.
    begun: Instant,
    /// Whether anything was answered in it.
    answered: Arc<AtomicBool>,
}

impl Talker {
    async fn run(mut self) {
        let mut standing = Standing::new();
        loop {
            let before = self.conversation;
            let broken = match self.converse().await {
                Ok(()) | Err(Broken::Unheard) => return,
                Err(broken) => broken,
            };
            let mut loss = broken.loss();
            if before < self.conversation {
                let (lasted, answered) = (self.begun.elapsed(), self.answered.load(Relaxed));
                let died = matches!(broken, Broken::HungUp);
                if let Some(deaths) = standing.take_in(Talked { lasted, answered, died }) {
                    let reason =
                        format!("its worker died {deaths} times and did no good in between");
                    loss = loss.or(Some(Loss::Instance(reason)));
                }
            } else if loss.is_none() && OUTAGE_LIMIT < self.alive.elapsed() {
                loss = Some(Loss::Instance(describe(&broken)));
            }
            if let Some(loss) = loss {
                // If nobody is left to hear it, nobody needs to.
                drop(self.tell(Said::Lost(loss)).await);
                return;
            }
            if self.tell(Said::Reconnecting(describe(&broken))).await.is_err() {
                return;
            }
            sleep(standing.pause()).await;
        }
    }

    /// One conversation, from finding the instance to the break of the link.
    async fn converse(&mut self) -> Result<(), Broken> {
        if self.conversation == 0 {
            self.tell(Said::Phase(SlotPhase::Booting)).await?;
        }
        // Asked anew each time, as an address may change, and an instance may be gone.
        let mut waiting = Waiting::new(&*self.talk.market, &self.talk.instance.id);
        let endpoint = loop {
            let seen = waiting.next().await?;
            if let Some(price) = seen.price {
                self.tell(Said::Priced(price)).await?;
            }
            if let Some(endpoint) = seen.endpoint {
                break endpoint;
            }
        };
        if !self.up {
            // From here on it can be out of reach; before it was only not there yet.
            (self.up, self.alive) = (true, Instant::now());
        }
        if self.conversation == 0 {
            self.tell(Said::Phase(SlotPhase::Connecting)).await?;
        }
        let dial = Dial {
            label: self.talk.label.clone(),
            endpoint,
            key: self.talk.key.clone(),
            pins: self.talk.pins.clone(),
            patience: Patience::default(),
        };
        let session = dial.connect().await?;
        crash::point("machine: connected");
        self.see_to_the_watchdog(&session).await?;
        self.test(&session).await?;
        let path = timeout(INSTALL_LIMIT, self.install(&session)).await;
        let path = path.map_err(|_| Broken::Trickle)??;
        crash::point("machine: the worker is there");
        let (path, folder) = (quote(&path), format!("\"$HOME/.piecework/{}\"", self.talk.run));
        let start = under_sh(&format!("exec {path} start --folder {folder}"));
        let start = session.run(&start, b"").await?;
        if !start.status.is_success() {
            // Perhaps it was cleared away; then it is sent again.
            self.path = None;
            return Err(Broken::Start(start.stderr.trim().to_owned()));
        }
        let channel =
            session.exec(&under_sh(&format!("exec {path} attach --folder {folder}"))).await?;
        let mut reader = FrameReader::new(channel.stdout);
        timeout(SILENCE, reader.skip_preamble()).await.map_err(|_| Broken::Silent)??;
        let mut writer = FrameWriter::new(channel.stdin, self.talk.generation);
        let hello = ToWorker::Hello { version: VERSION, run: self.talk.run.to_string() };
        writer.send(&hello).await?;
        let hello = timeout(SILENCE, reader.next()).await.map_err(|_| Broken::Silent)??;
        let held = match hello.ok_or(Broken::HungUp)?.1 {
            ToController::Hello { version: VERSION, held } => held,
            ToController::Hello { version, .. } => {
                let reason = format!("its worker speaks version {version}, and we speak {VERSION}");
                return Err(Broken::Lost(Loss::Instance(reason)));
            }
            ToController::Fenced { .. } => return Err(Broken::Lost(Loss::Fenced)),
            ToController::Broken { fault, reason } => {
                return Err(Broken::Lost(Loss::of(fault, reason)));
            }
            ToController::Status(_)
            | ToController::Ready(_)
            | ToController::Completions { .. }
            | ToController::GivenUp(_) => return Err(Broken::HungUp),
        };
        crash::point("machine: attached");
        writer
            .send(&ToWorker::Work { job: self.talk.job.clone(), access: self.talk.access.clone() })
            .await?;
        self.conversation += 1;
        (self.alive, self.begun) = (Instant::now(), Instant::now());
        // What was to be said in an earlier conversation is said anew by whoever hears this.
        while self.orders.try_recv().is_ok() {}
        let attached = Said::Attached { conversation: self.conversation, held };
        self.tell(attached).await?;
        let (id, conversation, said) = (self.talk.id, self.conversation, self.said.clone());
        self.answered = Arc::default();
        let ear = Ear { id, conversation, said: said.clone(), answered: self.answered.clone() };
        let (orders, expires) = (&mut self.orders, self.talk.expires);
        let mouth = Mouth { id, conversation, expires, orders, said, writer };
        let ended = mouth.speak(tokio::spawn(ear.listen(reader))).await;
        self.alive = Instant::now();
        ended
    }

    /// Asks the watchdog whether it could end the instance. It is there before anything of ours,
    /// and what could be left behind without it isn't used.
    async fn see_to_the_watchdog(&mut self, session: &Session) -> Result<(), Broken> {
        if !self.talk.watched || self.armed {
            return Ok(());
        }
        let asked = session.run(&ask("watchdog", &format!("cat {WATCHDOG_STATE}")), b"").await?;
        let said = String::from_utf8_lossy(&asked.stdout);
        let state = answers(&said, "watchdog").find_map(|line| line.split_whitespace().next());
        let state = state.unwrap_or("it doesn't run");
        self.armed = state == "armed";
        if self.armed { Ok(()) } else { Err(Broken::Unarmed(state.to_owned())) }
    }

    /// Sees whether the machine is what it was said to be. It is billed meanwhile, so what can't do
    /// the work is given up before anything is put on it.
    async fn test(&mut self, session: &Session) -> Result<(), Broken> {
        let Some(promise) = self.talk.promise.as_ref().filter(|_| !self.tested) else {
            return Ok(());
        };
        self.tell(Said::Phase(SlotPhase::Testing)).await?;
        let script = smoke::script(&self.talk.job.model);
        let asked = session.run("exec /bin/sh", script.as_bytes());
        let asked = timeout(SMOKE_LIMIT, asked).await.map_err(|_| Broken::Mute)??;
        smoke::judge(promise, &Seen::read(&String::from_utf8_lossy(&asked.stdout)))?;
        self.tested = true;
        Ok(())
    }

    async fn install(&mut self, session: &Session) -> Result<String, Broken> {
        if let Some(path) = &self.path {
            return Ok(path.clone());
        }
        let (id, said) = (self.talk.id, self.said.clone());
        let progress = |done, total| {
            // A full inbox has more to do than to look at progress.
            drop(said.try_send((id, Said::Phase(SlotPhase::Uploading { done, total }))));
        };
        let installed = install(session, &self.talk.worker, progress).await?;
        self.path = Some(installed.path.clone());
        Ok(installed.path)
    }

    async fn tell(&self, said: Said) -> Result<(), Broken> {
        self.said.send((self.talk.id, said)).await.map_err(|_| Broken::Unheard)
    }
}
