//! One controller's connection: the handshake, and the two tasks that move its messages.

use std::time::Duration;
use tokio::{
    net::{UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    sync::mpsc::{Receiver, Sender, channel},
    task::AbortHandle,
    time::timeout,
};
use wire::{CodecError, FrameReader, FrameWriter, ToController, ToWorker};

/// How long a controller may take to say hello.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages in flight to a slow controller. The spool holds the rest.
const IN_FLIGHT: usize = 2;

/// A controller that has said hello.
#[derive(Debug)]
pub struct Arrival {
    /// Which start of the controller it is. Higher is later.
    pub generation: u64,
    /// Its version of the messages.
    pub version: u16,
    /// The run it works for.
    pub run: String,
    reader: FrameReader<OwnedReadHalf>,
    stream: OwnedWriteHalf,
}

/// What was heard in a conversation. None is its end.
pub type Heard = (u64, Option<ToWorker>);

impl Arrival {
    /// Greets whoever connected, and waits for its hello.
    pub async fn greet(stream: UnixStream) -> Result<Self, CodecError> {
        let (read, write) = stream.into_split();
        let mut writer = FrameWriter::new(write, 0);
        writer.preamble().await?;
        let mut reader = FrameReader::new(read);
        let hello = timeout(PATIENCE, reader.next::<ToWorker>());
        let hello = hello.await.map_err(|_| CodecError::Truncated)??;
        let Some((generation, ToWorker::Hello { version, run })) = hello else {
            return Err(CodecError::Truncated);
        };
        Ok(Self { generation, version, run, reader, stream: writer.into_inner() })
    }

    /// Says one last thing.
    pub async fn dismiss(self, message: ToController) {
        // It may have hung up already, and then needn't be told.
        drop(FrameWriter::new(self.stream, self.generation).send(&message).await);
    }

    /// Starts moving messages: what the controller says goes to `heard`, marked with `id`.
    pub fn converse(self, id: u64, heard: Sender<Heard>) -> Conversation {
        let (out, messages) = channel(IN_FLIGHT);
        let ear = tokio::spawn(listen(self.reader, self.generation, id, heard.clone()));
        let writer = FrameWriter::new(self.stream, self.generation);
        tokio::spawn(speak(writer, messages, id, heard));
        Conversation { id, out, ear: ear.abort_handle() }
    }
}

/// The conversation with the current controller. Dropping it hangs up.
#[derive(Debug)]
pub struct Conversation {
    /// Tells it from earlier ones.
    pub id: u64,
    /// Takes what the controller is to be told.
    pub out: Sender<ToController>,
    ear: AbortHandle,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.ear.abort();
    }
}

async fn listen(
    mut reader: FrameReader<OwnedReadHalf>,
    generation: u64,
    id: u64,
    heard: Sender<Heard>,
) {
    // A damaged message ends the conversation as a lost connection does; the controller comes
    // back and says it again.
    while let Ok(Some((from, message))) = reader.next::<ToWorker>().await {
        if from != generation || heard.send((id, Some(message))).await.is_err() {
            break;
        }
    }
    drop(heard.send((id, None)).await);
}

async fn speak(
    mut writer: FrameWriter<OwnedWriteHalf>,
    mut messages: Receiver<ToController>,
    id: u64,
    heard: Sender<Heard>,
) {
    while let Some(message) = messages.recv().await {
        if writer.send(&message).await.is_err() {
            drop(heard.send((id, None)).await);
            break;
        }
    }
}
