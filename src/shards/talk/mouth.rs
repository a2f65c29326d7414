//! The speaking half of a conversation: what the runner wants said, in the worker's words.

use super::{Broken, Said, Say, outgoing::Outgoing};
use crate::{clock, shards::WorkerId};
use jiff::Timestamp;
use providers::crash;
use std::time::Duration;
use tokio::{
    io::AsyncWrite,
    sync::mpsc::{Sender, UnboundedReceiver},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use wire::{FrameWriter, ToWorker};

/// How often an instance is told that it is needed.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// The speaking half of a conversation.
pub(super) struct Mouth<'a, W> {
    pub(super) id: WorkerId,
    pub(super) conversation: u64,
    /// Until when the instance may be kept.
    pub(super) expires: Timestamp,
    /// What the runner wants said.
    pub(super) orders: &'a mut UnboundedReceiver<Say>,
    pub(super) said: Sender<(WorkerId, Said)>,
    pub(super) writer: FrameWriter<W>,
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

impl<W: AsyncWrite + Unpin> Mouth<'_, W> {
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
            let say = async {
                match order {
                    None => Err(Broken::Unheard),
                    Some(Next::Lease { seconds }) => {
                        self.writer.send(&ToWorker::Lease { seconds }).await.map_err(Broken::from)
                    }
                    Some(Next::Prompts) => {
                        crash::point("worker: before it gets prompts");
                        let message = ToWorker::Prompts(prompts.next());
                        self.writer.send(&message).await.map_err(Broken::from)
                    }
                    Some(Next::Order(order)) => self.obey(order, &mut prompts).await,
                }
            };
            // A worker that hangs takes nothing, and says nothing either, which the ear notices.
            let sent = tokio::select! {
                biased;
                sent = say => sent,
                ended = &mut ear => return ended.unwrap_or(Err(Broken::HungUp)),
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

#[cfg(test)]
mod tests {
    use super::{super::SILENCE, *};
    use tokio::{
        io::duplex,
        sync::mpsc::{channel, unbounded_channel},
        time::sleep,
    };
    use wire::{Form, Prompt};

    /// As behind OpenSSH's server, which takes no more than a channel's window that nobody reads.
    #[tokio::test(start_paused = true)]
    async fn a_worker_that_takes_nothing_any_more_is_noticed_by_its_silence() {
        let (worker, _unread) = duplex(1 << 10);
        let (said, _inbox) = channel(1);
        let (order, mut orders) = unbounded_channel();
        let body = "x".repeat(1 << 12);
        let prompts = (0..9).map(|index| Prompt { index, form: Form::Text, body: body.clone() });
        order.send(Say::Prompts(prompts.collect())).expect("it listens");
        let mouth = Mouth {
            id: WorkerId(1),
            conversation: 1,
            expires: clock::after(clock::now(), Duration::from_hours(1)),
            orders: &mut orders,
            said,
            writer: FrameWriter::new(worker, 1),
        };
        let ear = tokio::spawn(async {
            sleep(SILENCE).await;
            Err(Broken::Silent)
        });
        let ended = tokio::time::timeout(Duration::from_mins(10), mouth.speak(ear)).await;
        assert!(matches!(ended, Ok(Err(Broken::Silent))), "{ended:?}");
    }
}
