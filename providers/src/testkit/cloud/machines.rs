//! The computers behind the books: one process here for each instance that is billed.

use super::{
    STUBS, State,
    inference::USUAL_PACE,
    lock,
    rental::{Phase, Rental, Wish},
    shown,
};
use crate::{InstanceId, InstanceState, Label, Local, Marketplace, Need, Order};
use std::{collections::BTreeMap, ffi::OsString, fs, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// How often the books and the processes are compared.
const LOOK: Duration = Duration::from_millis(200);

/// Where instances live, and what program one is.
#[derive(Clone, Debug)]
pub struct Machines {
    /// Each instance has its own folder in this one, and sees no other.
    pub folder: PathBuf,
    /// What is started for one, with two more arguments: its start script and its folder, which
    /// it is to hand to [`be_instance`](super::be_instance).
    pub program: Vec<OsString>,
}

/// Starts what is billed and has no process, and ends processes that are billed no more.
pub(super) async fn keep(state: Arc<State>) {
    let Some(machines) = &state.machines else { return };
    let mut running = BTreeMap::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Err(error) = machines.compare(&state, &mut running).await {
            // Tests see instances that never run; a person wants to know why.
            let _ = fs::write(machines.folder.join("error"), error.to_string());
        }
    }
}

/// A process, by the marketplace and the rental that it is for.
type Running = BTreeMap<(&'static str, String), InstanceId>;

impl Machines {
    async fn compare(&self, state: &State, running: &mut Running) -> io::Result<()> {
        for (name, stub) in STUBS {
            let (owed, ended) = {
                let mut books = lock(&state.books[name]);
                books.expire();
                // Outbid is billed for its disk, and runs no more.
                let is_over = |rental: &Rental| {
                    let outbid = matches!(rental.phase(true), Phase::Outbid);
                    rental.ended.is_some() || rental.is_halted() || outbid
                };
                let (ended, owed): (Vec<_>, Vec<_>) =
                    books.rentals.iter().cloned().partition(is_over);
                (owed, ended)
            };
            for rental in ended {
                if let Some(id) = running.remove(&(name, rental.id)) {
                    let local = Local::new(self.folder.clone(), Vec::new());
                    local.release(&id).await.map_err(io::Error::other)?;
                }
            }
            for rental in owed {
                let key = (name, rental.id.clone());
                if running.contains_key(&key) || rental.wish.public_key.is_empty() {
                    continue;
                }
                let own = stub.environment(&rental.id, &rental.own_key);
                let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
                let mut env = rental.wish.env.clone();
                env.extend(own);
                let pace = lock(&state.paces).get(&rental.ware.gpu).copied();
                env.extend(shown::facts(&rental, pace.unwrap_or(USUAL_PACE)));
                let id = self.start(&rental.wish, &env).await?;
                running.insert(key, id);
            }
        }
        self.note_ports(state, running).await
    }

    async fn start(&self, wish: &Wish, env: &BTreeMap<String, String>) -> io::Result<InstanceId> {
        let script = self.script(&wish.label, &wish.script)?;
        // The environment of a container is that of all its processes.
        let mut program: Vec<OsString> = vec!["env".into()];
        program.extend(env.iter().map(|(name, value)| format!("{name}={value}").into()));
        program.extend(self.program.iter().cloned());
        program.push(script.into());
        let local = Local::new(self.folder.clone(), program);
        let offers = local.offers(&Need::default()).await.map_err(io::Error::other)?;
        let offer = offers.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
        let order = Order::new(offer, Label(wish.label.clone()), wish.public_key.clone());
        let instance = local.rent(&order).await.map_err(io::Error::other)?;
        Ok(instance.id)
    }

    /// Writes an order's start script beside the instances' folders.
    fn script(&self, label: &str, script: &str) -> io::Result<PathBuf> {
        let scripts = self.folder.join(".scripts");
        fs::create_dir_all(&scripts)?;
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let name: String = label.chars().map(plain).collect();
        let path = scripts.join(format!("{name}.sh"));
        fs::write(&path, script)?;
        Ok(path)
    }

    /// Ends every process.
    pub(super) async fn end_all(&self) -> io::Result<()> {
        let local = Local::new(self.folder.clone(), Vec::new());
        for instance in local.instances().await.map_err(io::Error::other)? {
            local.release(&instance.id).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn note_ports(&self, state: &State, running: &Running) -> io::Result<()> {
        let local = Local::new(self.folder.clone(), Vec::new());
        let instances = local.instances().await.map_err(io::Error::other)?;
        let ports: BTreeMap<_, _> = instances
            .into_iter()
            .filter_map(|instance| {
                let InstanceState::Running(endpoint) = instance.state else { return None };
                Some((instance.id, endpoint.port))
            })
            .collect();
        for ((name, rental), id) in running {
            let mut books = lock(&state.books[name]);
            let rental = books.rentals.iter_mut().find(|known| known.id == *rental);
            if let Some(rental) = rental {
                rental.port = ports.get(id).copied();
            }
        }
        Ok(())
    }
}
