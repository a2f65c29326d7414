//! A run whose link is cut again and again.

use crate::{
    program::{answers, ids, numbered, numbered_ids},
    proxy::{Mood, Proxy},
};
use async_trait::async_trait;
use piecework::{
    clock,
    event::Events,
    label::{Owner, RunId},
    leases::Markets,
    prompts::{Input, Options, Source, survey},
    run::{Home, Ladder, NewPlan, Plan, Setting, run},
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
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use wire::{EngineKind, Job, Limits, Model};

/// The local marketplace, behind a proxy.
#[derive(Debug)]
struct Proxied {
    local: Local,
    /// The port behind the proxy, and the proxy's own.
    port: Mutex<Option<(u16, u16)>>,
    /// Keeps the proxies of all instances.
    proxies: Mutex<Vec<Arc<Proxy>>>,
}

impl Proxied {
    fn through(&self, mut instance: Instance) -> Instance {
        if let InstanceState::Running(endpoint) = &instance.state {
            let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
            let known = port.filter(|(behind, _)| *behind == endpoint.port);
            let (behind, before) = known.unwrap_or_else(|| {
                let proxy = Arc::new(Proxy::before(endpoint.port));
                let ports = (endpoint.port, proxy.port);
                self.proxies.lock().unwrap_or_else(PoisonError::into_inner).push(proxy);
                ports
            });
            *port = Some((behind, before));
            instance.state = InstanceState::Running(Endpoint { port: before, ..endpoint.clone() });
        }
        instance
    }

    /// Cuts every link that there is.
    fn cut(&self) {
        for proxy in &*self.proxies.lock().unwrap_or_else(PoisonError::into_inner) {
            proxy.set(Mood::CutAfter(1));
        }
    }

    fn mend(&self) {
        for proxy in &*self.proxies.lock().unwrap_or_else(PoisonError::into_inner) {
            proxy.set(Mood::Pass);
        }
    }
}

#[async_trait]
impl Marketplace for Proxied {
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
        Ok(instances.into_iter().map(|instance| self.through(instance)).collect())
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        self.local.release(id).await
    }
}

/// Runs numbered prompts, cutting every link each `period`; returns the completions and the cuts.
async fn run_cut_every(folder: &Path, prompts: usize, period: Option<Duration>) -> u32 {
    let path = folder.join("prompts.jsonl");
    std::fs::write(&path, numbered(prompts)).expect("it can be written");
    let source = Source::file(&path).unwrap();
    let input = Input { sources: vec![source], options: Options::default() };
    let survey = survey(&input, |_| {}).expect("the prompts are good");
    let home = Home::open(&folder.join("home")).expect("it opens");
    let id = RunId::random(clock::now());
    let program = env!("CARGO_BIN_EXE_piecework");
    let market = Arc::new(Proxied {
        local: Local::new(home.instances(), vec![program.into(), "local-instance".into()]),
        port: Mutex::default(),
        proxies: Mutex::default(),
    });
    let new = NewPlan {
        input,
        fingerprint: survey.fingerprint.clone(),
        prompts: survey.prompts,
        bytes: survey.bytes,
        job: Job {
            engine: EngineKind::Echo { pace: Some(100) },
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
        machines: 1,
        budget: None,
        deadline: Duration::from_hours(1),
        out: Some(folder.join("out.jsonl")),
        out_format: OutFormat::default(),
        estimate: None,
        at_most: None,
        shape: None,
    };
    let setting = Setting {
        folder: home.create(&id).expect("it is new"),
        plan: Plan::new(id, clock::now(), new),
        owner: Owner::random(),
        markets: Markets::new([market.clone() as Arc<dyn Marketplace>]),
        program: program.into(),
        worker: Path::new(program).with_file_name("piecework-worker"),
        retry_failed: false,
        survey: Some(survey),
        patience: Patience::default(),
        measured: Vec::new(),
        access: None,
    };
    let running = run(setting, Events::unheard(), Ladder::default());
    tokio::pin!(running);
    let mut cuts = 0;
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome.expect("it can be begun"),
            () = tokio::time::sleep(period.unwrap_or(Duration::MAX)) => {
                market.cut();
                cuts += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                market.mend();
            }
        }
    };
    assert!(outcome.summary.complete && outcome.owed.is_empty(), "{outcome:?}");
    cuts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_every_second_changes_no_completion() {
    let (calm, rough) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("one"));
    run_cut_every(calm.path(), 500, None).await;
    let cuts = run_cut_every(rough.path(), 500, Some(Duration::from_secs(1))).await;
    assert!(3 <= cuts, "it was cut {cuts} times");
    let (calm, rough) = (calm.path().join("out.jsonl"), rough.path().join("out.jsonl"));
    assert_eq!(ids(&rough), numbered_ids(500));
    assert_eq!(answers(&rough), answers(&calm));
}
