//! A hub and its content network, on loopback: the real protocol, scripted faults, and a record
//! of what was asked.

use serde_json::json;
use sha1::Digest as _;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::Receiver,
    },
    thread::JoinHandle,
};

pub(crate) const REPO: &str = "acme/tiny";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What happens to one request for a large file's bytes, in the order of the requests.
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The connection is cut after this many bytes of the body.
    Cut(usize),
    /// One bit of the body is turned.
    Flip,
    /// Another status, with headers.
    Status(u16, &'static str),
    /// The answer waits for a word.
    Hold(Receiver<()>),
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at_hub: bool,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: VecDeque<Fault>,
    /// Answers to everything, in place of the hub's own.
    refusal: Option<(u16, &'static str)>,
    asked: Vec<Asked>,
    token: Option<String>,
    page: Option<usize>,
    cdn: String,
    hub: String,
}

pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

impl Hub {
    /// A hub with one repository of these files.
    pub(crate) fn with(files: &[(&str, Vec<u8>)]) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses: Vec<_> = listeners.iter().map(|it| it.local_addr().unwrap()).collect();
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let [hub, cdn] = [addresses[0], addresses[1]].map(|address| format!("http://{address}"));
        let state = Arc::new(Mutex::new(State { files, cdn, hub, ..State::default() }));
        let over = Arc::new(AtomicBool::new(false));
        let threads = listeners.into_iter().enumerate().map(|(number, listener)| {
            let (state, over) = (Arc::clone(&state), Arc::clone(&over));
            std::thread::spawn(move || serve(&listener, number == 0, &state, &over))
        });
        let threads = threads.collect();
        Self { state, over, addresses, threads }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addresses[0])
    }

    pub(crate) fn strike(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// From now on, the hub answers everything with this.
    pub(crate) fn refuse(&self, status: u16, headers: &'static str) {
        self.state.lock().unwrap().refusal = Some((status, headers));
    }

    /// From now on, files are only for who shows this.
    pub(crate) fn gate(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    /// From now on, listings come in pages of this many files.
    pub(crate) fn page(&self, files: usize) {
        self.state.lock().unwrap().page = Some(files);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The ranges asked of the content network, in order.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let asked = self.asked().into_iter().filter(|asked| !asked.at_hub);
        asked.map(|asked| asked.headers.get("range").cloned()).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for address in &self.addresses {
            // Wakes the listener, which then sees that it is over.
            drop(TcpStream::connect(address));
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn serve(listener: &TcpListener, at_hub: bool, state: &Arc<Mutex<State>>, over: &AtomicBool) {
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            if over.load(Relaxed) {
                return;
            }
            let state = Arc::clone(state);
            // A client that goes away in the middle is no failure of the hub.
            scope.spawn(move || drop(answer(&stream.unwrap(), at_hub, &state)));
        }
    });
}

fn answer(stream: &TcpStream, at_hub: bool, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        match line?.split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let asked = Asked { at_hub, path, headers };
    state.lock().unwrap().asked.push(asked.clone());
    let reply = if at_hub { hub(&asked, state) } else { cdn(&asked, state) };
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    write!(head, "content-length: {}\r\n{}\r\n", reply.body.len(), reply.headers).unwrap();
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    stream.shutdown(Shutdown::Write)
}

#[derive(Default)]
struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Reply {
    fn empty(status: u16, headers: &str) -> Self {
        Self { status, headers: headers.to_owned(), ..Self::default() }
    }

    fn json(value: &serde_json::Value, headers: String) -> Self {
        Self { status: 200, headers, body: value.to_string().into_bytes(), cut: None }
    }
}

fn hub(asked: &Asked, state: &Mutex<State>) -> Reply {
    let state = state.lock().unwrap();
    if let Some((status, headers)) = state.refusal {
        return Reply::empty(status, headers);
    }
    let tree = format!("/api/models/{REPO}/tree/{COMMIT}");
    let resolve = format!("/{REPO}/resolve/{COMMIT}/");
    if asked.path == format!("/api/models/{REPO}/revision/main") {
        return Reply::json(&json!({"id": REPO, "sha": COMMIT, "private": false}), String::new());
    }
    if let Some(rest) = asked.path.strip_prefix(&tree) {
        return list(&state, rest);
    }
    if let Some(name) = asked.path.strip_prefix(&resolve) {
        let shown = asked.headers.get("authorization");
        if state.token.as_ref().is_some_and(|token| shown != Some(&format!("Bearer {token}"))) {
            return Reply::empty(401, "X-Error-Code: GatedRepo\r\n");
        }
        return match state.files.get(name) {
            Some(_) if is_large(name) => {
                Reply::empty(302, &format!("location: {}/signed/{name}?key=1\r\n", state.cdn))
            }
            Some(bytes) => Reply { status: 200, body: bytes.clone(), ..Reply::default() },
            None => Reply::empty(404, "X-Error-Code: EntryNotFound\r\n"),
        };
    }
    if asked.path.starts_with(&format!("/api/models/{REPO}/")) {
        return Reply::empty(404, "X-Error-Code: RevisionNotFound\r\n");
    }
    Reply::empty(401, "X-Error-Code: RepoNotFound\r\n")
}

/// A page of the files directly in a folder, as the hub lists them.
fn list(state: &State, rest: &str) -> Reply {
    let (folder, query) = rest.split_once('?').unwrap_or((rest, "from=0"));
    let folder = folder.trim_start_matches('/');
    let from: usize = query.trim_start_matches("from=").parse().unwrap();
    let inside = state
        .files
        .iter()
        .filter(|(name, _)| name.rsplit_once('/').map_or("", |(parent, _)| parent) == folder);
    let entries: Vec<_> = inside.map(|(name, bytes)| entry(name, bytes)).collect();
    let page = state.page.unwrap_or(entries.len().max(1));
    let end = (from + page).min(entries.len());
    let next = if end < entries.len() {
        let url = format!("{}/api/models/{REPO}/tree/{COMMIT}?from={end}", state.hub);
        format!("link: <{url}>; rel=\"next\"\r\n")
    } else {
        String::new()
    };
    Reply::json(&json!(entries[from..end]), next)
}

fn entry(name: &str, bytes: &[u8]) -> serde_json::Value {
    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
    blob.extend(bytes);
    let mut entry = json!({"type": "file", "path": name, "size": bytes.len(),
        "oid": hex(&sha1::Sha1::digest(&blob))});
    if is_large(name) {
        entry["oid"] = json!("the name of a pointer");
        entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
    }
    entry
}

fn cdn(asked: &Asked, state: &Mutex<State>) -> Reply {
    let fault = state.lock().unwrap().faults.pop_front().unwrap_or(Fault::None);
    if let Fault::Hold(word) = &fault {
        word.recv().unwrap();
    }
    let name = asked.path.trim_start_matches("/signed/").trim_end_matches("?key=1");
    let bytes = state.lock().unwrap().files[name].clone();
    let range = asked.headers.get("range");
    let from =
        range.and_then(|it| it.trim_start_matches("bytes=").trim_end_matches('-').parse().ok());
    let mut reply = match from {
        Some(from) if bytes.len() <= from => Reply::empty(416, ""),
        Some(from) => Reply {
            status: 206,
            headers: format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()),
            body: bytes[from..].to_vec(),
            cut: None,
        },
        None => Reply { status: 200, body: bytes, ..Reply::default() },
    };
    match fault {
        Fault::None | Fault::Hold(_) => {}
        Fault::Cut(at) => reply.cut = Some(at.min(reply.body.len())),
        Fault::Flip => {
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 1;
        }
        Fault::Status(status, headers) => reply = Reply::empty(status, headers),
    }
    reply
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf"].iter().any(|end| name.ends_with(end))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
