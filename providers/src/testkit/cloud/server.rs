//! The server: takes requests apart, finds whose they are, and lets things go wrong.

use super::{
    STUBS, State,
    books::Books,
    dialect::{Ask, Caller, Reply, Stub},
    fault::{Call, Fault, Planned},
    lock,
};
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpListener, time::sleep};

/// Answers whoever connects.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        // One that was gone before it was taken is no reason to stop.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(Arc::clone(&state), request));
            // How a connection ends is its client's affair; some are broken off on purpose.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

/// An answer's body, which may break off.
struct Text {
    rest: Option<Bytes>,
    promised: u64,
    breaks_off: bool,
}

impl Body for Text {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match (self.rest.take(), self.breaks_off) {
            (Some(rest), _) => Poll::Ready(Some(Ok(Frame::data(rest)))),
            (None, true) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            (None, false) => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Text>> {
    let mut ask = take_apart(request).await?;
    let Some((provider, path)) = ask.path.trim_start_matches('/').split_once('/') else {
        return whole(about_the_world(&state, &ask), None, false);
    };
    let Some((name, stub)) = STUBS.iter().find(|(name, _)| *name == provider) else {
        return whole(about_the_world(&state, &ask), None, false);
    };
    ask.path = path.to_owned();
    ask.base = state.url(name);
    let call = stub.call(&ask);
    let (fault, mishap) = lock(&state.plan).strike(name, call);
    match fault {
        Some(Fault::Drop) => return broken(),
        Some(Fault::Status { code, retry_after }) => {
            let reply = Reply::json(code, &json!({ "error": "as planned", "msg": "as planned" }));
            count(&mut lock(&state.books[name]), call);
            return whole(reply, retry_after, false);
        }
        Some(Fault::Echo { code }) => {
            count(&mut lock(&state.books[name]), call);
            return whole(Reply::text(code, &format!("can't do {ask:?}")), None, false);
        }
        _ => {}
    }
    let reply = {
        let mut books = lock(&state.books[name]);
        count(&mut books, call);
        books.expire();
        books.mishap = mishap;
        let first = reply(*stub, &mut books, &ask, call);
        if fault == Some(Fault::Twice) {
            drop(reply(*stub, &mut books, &ask, call));
        }
        first
    };
    match fault {
        Some(Fault::Slow { millis }) => {
            sleep(Duration::from_millis(millis)).await;
            whole(reply, None, false)
        }
        Some(Fault::LoseReply) => broken(),
        Some(Fault::Truncate) => whole(reply, None, true),
        Some(Fault::Late5xx { code }) => whole(Reply::text(code, "bad gateway"), None, false),
        Some(Fault::Garble) => {
            let text = format!("<html>{}", &reply.body[..reply.body.len() / 3]);
            whole(Reply::text(reply.status, &text), None, false)
        }
        _ => whole(reply, None, false),
    }
}

fn count(books: &mut Books, call: Call) {
    *books.requests.entry(call.word()).or_default() += 1;
}

/// The stub's answer, to whoever may have one.
fn reply(stub: &dyn Stub, books: &mut Books, ask: &Ask, call: Call) -> Reply {
    if ask.headers.get("user-agent").is_none_or(String::is_empty) {
        return Reply::text(403, "<html><h1>403 Forbidden</h1></html>");
    }
    let key = stub.key(ask);
    let own = books.rentals.iter().find(|rental| rental.own_key == key);
    let caller = match own {
        _ if key == books.key => Caller::Account,
        Some(rental) => Caller::Instance(rental.id.clone()),
        None => Caller::Stranger,
    };
    let allowed = match &caller {
        Caller::Account => true,
        Caller::Stranger => key.is_empty() && stub.is_open(call) || call == Call::Token,
        // An instance may end itself, and nothing else.
        Caller::Instance(id) => call == Call::Release && stub.is_about(ask, id),
    };
    if allowed { stub.answer(books, ask, &caller) } else { stub.turn_away() }
}

/// The truth, and what is to go wrong.
fn about_the_world(state: &State, ask: &Ask) -> Reply {
    match (ask.method.as_str(), ask.parts().as_slice()) {
        ("GET", ["world"]) => Reply::json(200, &state.world()),
        ("GET", ["world", "faults"]) => Reply::json(200, &json!(lock(&state.plan).left())),
        ("POST" | "PUT", ["world", "faults"]) => {
            match serde_json::from_str::<Vec<Planned>>(&ask.body) {
                Ok(planned) => {
                    lock(&state.plan).replace(planned);
                    Reply::json(200, &json!(lock(&state.plan).left()))
                }
                Err(error) => Reply::text(400, &error.to_string()),
            }
        }
        ("POST", ["world", "prices"]) => {
            match serde_json::from_str::<BTreeMap<String, u32>>(&ask.body) {
                Ok(factors) => {
                    for (name, factor) in factors {
                        if let Some(books) = state.books.get(name.as_str()) {
                            lock(books).raise_prices(factor);
                        }
                    }
                    Reply::json(200, &state.world())
                }
                Err(error) => Reply::text(400, &error.to_string()),
            }
        }
        ("POST", ["world", "paces"]) => {
            match serde_json::from_str::<BTreeMap<String, f64>>(&ask.body) {
                Ok(paces) => {
                    *lock(&state.paces) = paces;
                    Reply::json(200, &state.world())
                }
                Err(error) => Reply::text(400, &error.to_string()),
            }
        }
        _ => Reply::text(
            404,
            "there is /world, /world/faults, /world/prices, /world/paces, and a path for each \
             marketplace",
        ),
    }
}

async fn take_apart(request: Request<Incoming>) -> io::Result<Ask> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let text = |value: &header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    Ok(Ask {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: form_urlencoded::parse(query).into_owned().collect(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), text(value)))
            .collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        base: String::new(),
    })
}

/// No answer at all: the connection is closed instead.
fn broken() -> io::Result<Response<Text>> {
    Err(io::ErrorKind::ConnectionReset.into())
}

fn whole(reply: Reply, retry_after: Option<u64>, breaks_off: bool) -> io::Result<Response<Text>> {
    let bytes = Bytes::from(reply.body);
    let promised = bytes.len() as u64;
    let rest = if breaks_off { bytes.slice(..bytes.len() / 2) } else { bytes };
    let mut response = Response::builder().status(reply.status);
    response = response.header(header::CONTENT_TYPE, reply.kind);
    if let Some(seconds) = retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    if let Some(location) = reply.location {
        response = response.header(header::LOCATION, location);
    }
    let body = Text { rest: Some(rest), promised, breaks_off };
    response.body(body).map_err(io::Error::other)
}
