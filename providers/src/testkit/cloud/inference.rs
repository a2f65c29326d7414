//! A stand-in for `vllm serve` on a machine: it answers as fast as the machine is said to be.

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    env, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep_until},
};

/// Prompts a second, where nobody says how fast a machine is.
pub(super) const USUAL_PACE: f64 = 100.0;

/// Bytes of text for a token.
const BYTES_PER_TOKEN: usize = 4;

/// Tokens of an answer, where a prompt doesn't say.
const ANSWER: u64 = 16;

struct Server {
    key: String,
    /// Between two answers.
    step: Duration,
    /// When the last answer goes out that was begun.
    busy: Mutex<Instant>,
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
}

/// Is the server until it is ended. `arguments` are those of `vllm`, the environment has `VLLM_API_KEY`
/// and, in prompts a second, `FAKECLOUD_PACE`.
pub async fn be_vllm(arguments: &[String]) -> io::Result<()> {
    let value = |name: &str| {
        let at = arguments.iter().position(|word| word == name)?;
        arguments.get(at + 1)
    };
    let port = value("--port").and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other("--port is missing"))?;
    let pace = env::var("FAKECLOUD_PACE").ok().and_then(|pace| pace.parse::<f64>().ok());
    let server = Arc::new(Server {
        key: env::var("VLLM_API_KEY").unwrap_or_default(),
        step: Duration::from_secs_f64(1.0 / pace.unwrap_or(USUAL_PACE)),
        busy: Mutex::new(Instant::now()),
        tokens_in: AtomicU64::new(0),
        tokens_out: AtomicU64::new(0),
    });
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let answer = service_fn(|request| server.answer(request));
            // How a connection ends is its client's affair.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let path = request.uri().path().to_owned();
        let key = request.headers().get(header::AUTHORIZATION).cloned();
        let (status, body) = match path.as_str() {
            "/health" => (200, String::new()),
            "/metrics" => (200, self.metrics()),
            _ if key.is_none_or(|key| key != format!("Bearer {}", self.key)) => {
                (401, json!({ "error": "Unauthorized" }).to_string())
            }
            "/v1/chat/completions" | "/v1/completions" => {
                let body = request.into_body().collect().await.map_err(io::Error::other)?;
                match serde_json::from_slice(&body.to_bytes()) {
                    Ok(asked) => (200, self.complete(&asked).await.to_string()),
                    Err(error) => (400, json!({ "error": error.to_string() }).to_string()),
                }
            }
            _ => (404, json!({ "detail": "Not Found" }).to_string()),
        };
        let response = Response::builder().status(status);
        response.body(Full::new(Bytes::from(body))).map_err(io::Error::other)
    }

    fn metrics(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inbound, outbound) = (count(&self.tokens_in), count(&self.tokens_out));
        format!("vllm:prompt_tokens_total {inbound}\nvllm:generation_tokens_total {outbound}\n")
    }

    async fn complete(&self, asked: &Value) -> Value {
        self.turn().await;
        let text = match asked.get("messages") {
            Some(messages) => messages.to_string(),
            None => asked["prompt"].to_string(),
        };
        let tokens_in = (text.len() / BYTES_PER_TOKEN).max(1) as u64;
        let limit = ["max_tokens", "max_completion_tokens"].iter().find_map(|n| asked[n].as_u64());
        let tokens_out = limit.unwrap_or(ANSWER);
        self.tokens_in.fetch_add(tokens_in, Ordering::Relaxed);
        self.tokens_out.fetch_add(tokens_out, Ordering::Relaxed);
        let content = "and so on ".repeat(usize::try_from(tokens_out / 3).unwrap_or(0));
        let choice = if asked.get("messages").is_some() {
            let message = json!({ "role": "assistant", "content": content });
            json!({ "index": 0, "message": message, "finish_reason": "length" })
        } else {
            json!({ "index": 0, "text": content, "finish_reason": "length" })
        };
        json!({
            "id": "cmpl-1", "object": "chat.completion", "created": 0, "model": asked["model"],
            "choices": [choice],
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
            },
        })
    }

    /// Waits until it is this prompt's turn: they are answered one after the other.
    async fn turn(&self) {
        let until = {
            let mut busy = self.busy.lock().expect("nobody panics while holding it");
            *busy = (*busy).max(Instant::now()) + self.step;
            *busy
        };
        sleep_until(until).await;
    }
}
