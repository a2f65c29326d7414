//! A run on local machines that are reached through something of ours: a proxy, or a slow link.

use async_trait::async_trait;
use piecework::{
    clock,
    label::{Owner, RunId},
    leases::Markets,
    prompts::{Input, Options, Source, survey},
    run::{Home, NewPlan, Plan, Setting},
    shards::OutFormat,
    shortlist::Search,
    template::Patience,
    wish::Wish,
};
use providers::{
    Capabilities, Endpoint, Instance, InstanceId, InstanceState, Local, Marketplace, Need, Offer,
    Order, Result,
};
use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use wire::{EngineKind, Job, Limits, Model};

/// Gives the port that leads to a machine's port.
type Before = Box<dyn Fn(u16) -> u16 + Send + Sync>;

/// The local marketplace, whose machines are somewhere else.
pub(crate) struct Elsewhere {
    local: Local,
    before: Before,
    ports: Mutex<HashMap<u16, u16>>,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl Elsewhere {
    fn seen(&self, mut instance: Instance) -> Instance {
        if let InstanceState::Running(endpoint) = &instance.state {
            let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            let port = *ports.entry(endpoint.port).or_insert_with(|| (self.before)(endpoint.port));
            instance.state = InstanceState::Running(Endpoint { port, ..endpoint.clone() });
        }
        instance
    }
}

#[async_trait]
impl Marketplace for Elsewhere {
    fn capabilities(&self) -> Capabilities {
        self.local.capabilities()
    }

    async fn offers(&self, need: &Need) -> Result<Vec<Offer>> {
        self.local.offers(need).await
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        self.local.rent(order).await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let instances = self.local.instances().await?;
        Ok(instances.into_iter().map(|instance| self.seen(instance)).collect())
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        self.local.release(id).await
    }
}

/// A run of `prompts`, a text, in this folder: on so many machines, each of which echoes so many
/// prompts a second and is reached through the port that `before` gives for its own.
pub(crate) fn setting(
    folder: &Path,
    prompts: &str,
    (machines, pace): (u32, u32),
    before: impl Fn(u16) -> u16 + Send + Sync + 'static,
) -> Setting {
    let path = folder.join("prompts.jsonl");
    std::fs::write(&path, prompts).expect("it can be written");
    let source = Source::file(&path).expect("there is a folder to be in");
    let input = Input { sources: vec![source], options: Options::default() };
    let survey = survey(&input, |_| {}).expect("the prompts are good");
    let home = Home::open(&folder.join("home")).expect("it opens");
    let id = RunId::random(clock::now());
    let program = env!("CARGO_BIN_EXE_piecework");
    let market = Elsewhere {
        local: Local::new(home.instances(), vec![program.into(), "local-instance".into()]),
        before: Box::new(before),
        ports: Mutex::default(),
    };
    let new = NewPlan {
        input,
        fingerprint: survey.fingerprint.clone(),
        prompts: survey.prompts,
        bytes: survey.bytes,
        job: Job {
            engine: EngineKind::Echo { pace: Some(pace) },
            model: Model { name: "echo".into(), sources: Vec::new() },
            precision: None,
            limits: Limits::default(),
            seed: 0,
            defaults: "{}".into(),
        },
        search: Search {
            providers: vec!["local".into()],
            wish: Wish::default(),
            engine: "echo".into(),
            task: None,
        },
        machines,
        budget: None,
        deadline: Duration::from_hours(1),
        out: Some(folder.join("out.jsonl")),
        out_format: OutFormat::default(),
        estimate: None,
        at_most: None,
        shape: None,
    };
    Setting {
        folder: home.create(&id).expect("it is new"),
        plan: Plan::new(id, clock::now(), new),
        owner: Owner::random(),
        markets: Markets::new([Arc::new(market) as Arc<dyn Marketplace>]),
        program: program.into(),
        worker: Path::new(program).with_file_name("piecework-worker"),
        retry_failed: false,
        survey: Some(survey),
        patience: Patience::default(),
        measured: Vec::new(),
        access: None,
    }
}
