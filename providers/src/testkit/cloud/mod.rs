//! Six marketplaces on this computer: each speaks its own dialect over the truth in its books,
//! enforces what the real one enforces, and fails as it is told to.
//!
//! Nothing here costs anything. An instance is a process on this computer, or only a line in the
//! books where no [`Machines`] are given.

mod books;
mod confine;
mod dialect;
mod fault;
mod inference;
mod lambda;
mod machines;
mod prime;
mod rental;
mod runpod;
mod server;
mod shadeform;
mod shown;
mod vast;
mod verda;

pub use confine::{Confinement, be_instance};
pub use fault::{Call, Defect, Fault, Mishap, Planned};
pub use inference::be_vllm;
pub use machines::Machines;

use crate::PROVIDERS;
use books::Books;
use dialect::Stub;
use fault::Plan;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// The key of the only account. Where two are wanted, both are this.
pub const KEY: &str = "fakecloud-key";

/// The stub of each marketplace.
const STUBS: [(&str, &dyn Stub); 6] = [
    ("vast", &vast::Vast),
    ("runpod", &runpod::Runpod),
    ("lambda", &lambda::Lambda),
    ("verda", &verda::Verda),
    ("shadeform", &shadeform::Shadeform),
    ("prime", &prime::Prime),
];

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Cloud {
    address: SocketAddr,
    state: Arc<State>,
    tasks: Vec<JoinHandle<()>>,
}

/// What all connections share.
#[derive(Debug)]
struct State {
    address: SocketAddr,
    books: BTreeMap<&'static str, Mutex<Books>>,
    plan: Mutex<Plan>,
    /// Prompts a second that a GPU answers, by the name that marketplaces give it.
    paces: Mutex<BTreeMap<String, f64>>,
    machines: Option<Machines>,
}

impl Cloud {
    /// Begins to listen. `many` asks for about that many offers at the marketplace that lists
    /// single hosts.
    pub async fn start(
        listen: SocketAddr,
        many: usize,
        machines: Option<Machines>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let with_machines = machines.is_some();
        let books = |stub: &dyn Stub| Books {
            key: KEY.to_owned(),
            wares: stub.stock(many),
            machines: with_machines,
            billing: stub.billing(),
            ..Books::default()
        };
        let books = STUBS.iter().map(|(name, stub)| (*name, Mutex::new(books(*stub)))).collect();
        let state = Arc::new(State {
            address,
            books,
            plan: Mutex::default(),
            paces: Mutex::default(),
            machines,
        });
        let tasks = vec![
            tokio::spawn(server::serve(listener, Arc::clone(&state))),
            tokio::spawn(machines::keep(Arc::clone(&state))),
        ];
        Ok(Self { address, state, tasks })
    }

    /// The address of a marketplace's own API, to use instead of the real one's.
    pub fn url(&self, provider: &str) -> String {
        self.state.url(provider)
    }

    /// Every marketplace's address, by name, and where the truth is shown.
    pub fn urls(&self) -> Value {
        let urls = PROVIDERS
            .iter()
            .map(|provider| (provider.name.to_owned(), json!(self.url(provider.name))));
        let mut urls: Map<_, _> = urls.collect();
        urls.insert("world".into(), json!(format!("http://{}/world", self.address)));
        urls.into()
    }

    /// The truth about every marketplace.
    pub fn world(&self) -> Value {
        self.state.world()
    }

    /// The truth about one of them.
    pub fn truth(&self, provider: &str) -> Value {
        self.state.books.get(provider).map_or(Value::Null, truth)
    }

    /// How many instances are being billed there, whatever anyone has been told.
    pub fn billed(&self, provider: &str) -> usize {
        let billed = self.truth(provider)["billed"].as_u64().unwrap_or(0);
        usize::try_from(billed).unwrap_or(usize::MAX)
    }

    /// How often it was asked for this.
    pub fn requests(&self, provider: &str, call: Call) -> u64 {
        self.truth(provider)["requests"][call.word()].as_u64().unwrap_or(0)
    }

    /// Gives an account another key than [`KEY`].
    pub fn set_key(&self, provider: &str, key: &str) {
        if let Some(books) = self.state.books.get(provider) {
            key.clone_into(&mut lock(books).key);
        }
    }

    /// Puts a public key on an account, as somebody else would.
    pub fn put_key(&self, provider: &str, name: &str, public_key: &str) {
        if let Some(books) = self.state.books.get(provider) {
            lock(books).add_key(name, public_key);
        }
    }

    /// Forgets what was planned to go wrong, and plans this.
    pub fn plan(&self, planned: Vec<Planned>) {
        lock(&self.state.plan).replace(planned);
    }

    /// Ends every rental and the process behind it. Fails if one can't be ended.
    pub async fn end_all(&self) -> io::Result<()> {
        for books in self.state.books.values() {
            lock(books).end_all();
        }
        self.tasks.iter().for_each(JoinHandle::abort);
        match &self.state.machines {
            Some(machines) => machines.end_all().await,
            None => Ok(()),
        }
    }

    /// How many requests have still to meet what was planned.
    pub fn planned(&self) -> usize {
        lock(&self.state.plan).left().iter().filter(|planned| 0 < planned.times).count()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl State {
    fn url(&self, provider: &str) -> String {
        // Some have a path of their own, which their clients count on.
        let path = PROVIDERS.iter().find(|row| row.name == provider).map_or("", |row| {
            let url = row.url.trim_start_matches("https://");
            url.find('/').map_or("", |from| &url[from..])
        });
        format!("http://{}/{provider}{path}", self.address)
    }

    fn world(&self) -> Value {
        let books = self.books.iter();
        books.map(|(name, books)| ((*name).to_owned(), truth(books))).collect()
    }
}

/// What is true now, and not when somebody last asked.
fn truth(books: &Mutex<Books>) -> Value {
    let mut books = lock(books);
    books.expire();
    books.to_json()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}
