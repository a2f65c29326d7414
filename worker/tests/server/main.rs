//! The engine that drives inference servers: real processes that are started, killed and stopped,
//! under the real worker.

mod harness;
mod llama;
#[path = "../support/llama.rs"]
mod llama_server;
mod misbehaviour;
mod poison;
mod standin;
mod starting;
#[path = "../support/mod.rs"]
mod support;
