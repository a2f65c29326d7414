//! A plain client: so many threads, each with one request after the other.

use super::{body, steady::Steady};
use serde_json::Value;
use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// A server of its own.
pub(super) struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub(super) fn start(program: &str, model: &str, slots: u32, context: u32) -> Self {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new(program)
            .args(["--model", model, "--port", &port.to_string(), "--parallel", &slots.to_string()])
            .args(["--ctx-size", &(slots * context).to_string(), "--metrics"])
            .env("LLAMA_ARG_CACHE_RAM", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server's program runs");
        let server = Self { child, url: format!("http://127.0.0.1:{port}") };
        while ureq::get(format!("{}/health", server.url)).call().is_err() {
            thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Tokens a second, of prompts and answers, of `count` prompts, so many at once.
    pub(super) fn rate(&self, at_once: u32, count: u64) -> f64 {
        let (next, steady) = (AtomicU64::new(0), Mutex::new(Steady::new(at_once, count)));
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Relaxed);
                        if count <= index {
                            return;
                        }
                        let tokens = self.ask(u64::from(at_once) * 100 + index + 4000);
                        steady.lock().unwrap().answer(tokens, true);
                    }
                });
            }
        });
        steady.into_inner().unwrap().rate()
    }

    fn ask(&self, index: u64) -> u64 {
        let request = ureq::post(format!("{}/v1/completions", self.url));
        let request = request.header("content-type", "application/json");
        let mut response = request.send(body(index).to_string()).expect("the server answers");
        let text = response.body_mut().read_to_string().expect("a whole answer");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["usage"]["total_tokens"].as_u64().expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
