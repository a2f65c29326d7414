//! The speaking half of a conversation: what the runner wants said, in the worker's words.

use super::{Broken, Said, Say, outgoing::Outgoing};
use crate::{clock, remote::Stdin, shards::WorkerId};
use jiff::Timestamp;
use providers::crash;
use std::time::Duration;
use tokio::{
    sync::mpsc::{Sender, UnboundedReceiver},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use wire::{FrameWriter, ToWorker};

/// How often an instance is told that it is needed.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// The speaking half of a conversation.
pub(super) struct Mouth<'a> {
    pub(super) id: WorkerId,
    pub(super) conversation: u64,
    /// Until when the instance may be kept.
    pub(super) expires: Timestamp,
    /// What the runner wants said.
    pub(super) orders: &'a mut UnboundedReceiver<Say>,
    pub(super) said: Sender<(WorkerId, Said)>,
    pub(super) writer: FrameWriter<Stdin>,
}

/// What is said next.
enum Next {
    /// How long the machine may go on by itself.
    Lease { seconds: u64 },
    /// What the runner wants said.
    Order(Say),
    /// Some of the prompts that wait.
    Prompts,
}

impl Mouth<'_> {
    /// Says it until `ear` hears no more.
    pub(super) async fn speak(
        mut self,
        mut ear: JoinHandle<Result<(), Broken>>,
    ) -> Result<(), Broken> {
        let mut renewal = interval(RENEW_EVERY);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut prompts = Outgoing::default();
        loop {
            let order = tokio::select! {
                // What keeps a machine going and what ends its work don't stand behind prompts that a
                // slow link takes minutes for.
                biased;
                ended = &mut ear => return ended.unwrap_or(Err(Broken::HungUp)),
                _ = renewal.tick() => {
                    let left = clock::between(clock::now(), self.expires);
                    Some(Next::Lease { seconds: left.as_secs() })
                }
                order = self.orders.recv() => order.map(Next::Order),
                () = std::future::ready(()), if !prompts.is_empty() => Some(Next::Prompts),
            };
            let sent = match order {
                None => Err(Broken::Unheard),
                Some(Next::Lease { seconds }) => {
                    self.writer.send(&ToWorker::Lease { seconds }).await.map_err(Broken::from)
                }
                Some(Next::Prompts) => {
                    crash::point("worker: before it gets prompts");
                    self.writer.send(&ToWorker::Prompts(prompts.next())).await.map_err(Broken::from)
                }
                Some(Next::Order(order)) => self.obey(order, &mut prompts).await,
            };
            if let Err(broken) = sent {
                ear.abort();
                return Err(broken);
            }
        }
    }

    /// Does what the runner wants said, but for prompts, which only get in line.
    async fn obey(&mut self, order: Say, prompts: &mut Outgoing) -> Result<(), Broken> {
        match order {
            Say::Prompts(more) => prompts.add(more),
            Say::Forget { conversation, through } if conversation == self.conversation => {
                crash::point("worker: before it forgets");
                self.writer.send(&ToWorker::Forget { through }).await?;
            }
            Say::Forget { .. } => {}
            Say::Drain => {
                // Those that it never got it can't give up itself.
                let given_up = Said::GivenUp(prompts.give_up());
                self.said.send((self.id, given_up)).await.map_err(|_| Broken::Unheard)?;
                self.writer.send(&ToWorker::Drain).await?;
            }
        }
        Ok(())
    }
}
