//! One toy server: tiny_http behind a relay, its routes, the pace of its answers, its counters.
//! It answers as llama-server would, but never runs a model; its texts come from `answer`.

use super::Toy;
use super::answer::{self, Kind, Spent, TextRequest, TextResponse};
use super::relay::{Link, Links, Relay, State};
use crate::util::time;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};
use tiny_http::{Method, Request};

/// Requests in progress at one toy; one more is aborted.
const THREADS: usize = 64;
/// The longest body read: what the proxy lets through by default.
const MAX_BODY: usize = 32 << 20;
/// How long `/demo/stats?COUNTER=N` waits at most.
const STATS_WAIT: Duration = Duration::from_secs(10);

// The empty CORS field is llama-server's, for the proxy to replace.
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nServer: llmproxy-demo\r\nAccess-Control-Allow-Origin: \r\n\
    X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A running toy; dropping it closes its port and its connections.
pub(crate) struct Server {
    relay: Option<Relay>,
    http: Arc<tiny_http::Server>,
    thread: Option<JoinHandle<()>>,
}

/// What the threads of one toy share.
struct Shared {
    toy: Toy,
    created: u64,
    links: Arc<Links>,
    counts: Mutex<Counts>,
    changed: Condvar,
}

/// Requests for text so far, as `/demo/stats` shows them.
#[derive(Debug, Clone, Default, Serialize)]
struct Counts {
    paused: bool,
    started: u64,
    in_flight: u64,
    finished: u64,
    cancelled: u64,
    /// Ended by a pause, or by the end of the demo.
    cut: u64,
}

/// Starts a server named `name` on a free loopback port.
pub(super) fn start(name: &'static str, models: [&'static str; 2]) -> io::Result<(Toy, Server)> {
    let http = tiny_http::Server::http((Ipv4Addr::LOCALHOST, 0)).map_err(io::Error::other)?;
    let http = Arc::new(http);
    let inner: SocketAddr = http.server_addr().to_ip().expect("bound to an IP address above");
    let relay = Relay::open(inner)?;
    let toy = Toy { name, addr: relay.addr(), models };
    let created = time::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (counts, changed) = Default::default();
    let shared = Shared { toy: toy.clone(), created, links: relay.links(), counts, changed };
    let taken = Arc::clone(&http);
    let thread = thread::Builder::new().name(name.into()).spawn(move || serve_all(&taken, &Arc::new(shared)))?;
    Ok((toy, Server { relay: Some(relay), http, thread: Some(thread) }))
}

impl Drop for Server {
    fn drop(&mut self) {
        // The relay goes first: without its connections every request in progress ends.
        drop(self.relay.take());
        self.http.unblock();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve_all(http: &tiny_http::Server, shared: &Arc<Shared>) {
    let running = Arc::new(());
    // An error is `unblock`, or a failed accept, after which tiny_http accepts no more: this toy is dead.
    while let Ok(request) = http.recv() {
        let link = request.remote_addr().and_then(|peer| shared.links.find(*peer));
        if request.body_length().is_some_and(|length| length > MAX_BODY) {
            // tiny_http allocates the unread rest of a declared length when the request is dropped: it never is.
            std::mem::forget(request);
            let _ = link.map(|link| link.abort());
            continue;
        }
        let Some(link) = link else { continue };
        if Arc::strong_count(&running) > THREADS {
            link.abort();
            continue;
        }
        let (shared, slot) = (Arc::clone(shared), Arc::clone(&running));
        let serve = move || {
            let _slot = slot;
            if shared.serve(request, &link).is_err() {
                link.abort();
            }
        };
        let _ = thread::Builder::new().name("demo-request".into()).spawn(serve);
    }
}

impl Shared {
    /// Answers one request; after an error its connection cannot be used any more.
    fn serve(&self, mut request: Request, link: &Arc<Link>) -> io::Result<()> {
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        if self.counts().paused && !path.starts_with("/demo/") {
            link.abort();
            return Ok(());
        }
        let mut body = Vec::new();
        request.as_reader().take(MAX_BODY as u64 + 1).read_to_end(&mut body)?;
        if body.len() > MAX_BODY {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let method = request.method().clone();
        let out = &mut *request.into_writer();
        match (&method, path.as_str()) {
            (Method::Get, "/health" | "/v1/health") => answer(out, 200, &json!({"status": "ok"})),
            (Method::Get, "/v1/models" | "/models") => answer(out, 200, &answer::models(&self.toy, self.created)),
            (Method::Get, "/props") => answer(out, 200, &answer::props(&self.toy)),
            (Method::Post, "/v1/chat/completions") => self.generate(Kind::Chat, &body, link, out),
            (Method::Post, "/v1/completions") => self.generate(Kind::Completion, &body, link, out),
            (Method::Post, "/v1/embeddings") => match answer::parse(&body, &self.toy) {
                Ok((body, model)) => answer(out, 200, &answer::embeddings(&body, &model)),
                Err(why) => answer(out, 400, &answer::error(400, "invalid_request_error", &why)),
            },
            (Method::Get, "/demo/stats") => answer(out, 200, &self.stats(&query)),
            (Method::Post, "/demo/pause") => {
                self.counts().paused = true;
                self.links.abort_all_but(Some(link));
                answer(out, 200, &self.stats(""))
            }
            (Method::Post, "/demo/resume") => {
                self.counts().paused = false;
                answer(out, 200, &self.stats(""))
            }
            _ => answer(out, 404, &answer::error(404, "not_found_error", "File Not Found")),
        }
    }

    fn generate(&self, kind: Kind, body: &[u8], link: &Link, out: &mut dyn Write) -> io::Result<()> {
        let (body, model) = match answer::parse(body, &self.toy) {
            Ok(parsed) => parsed,
            Err(why) => return answer(out, 400, &answer::error(400, "invalid_request_error", &why)),
        };
        let mut work = Work::begin(self, link);
        let pace = super::pace(&model);
        let text = TextResponse::new(TextRequest::new(kind, &body, model), self.toy.name, work.number, self.created);
        write_text(&text, pace, link, out)?;
        work.done = true;
        Ok(())
    }

    /// The counters; `cancelled=2` in the query waits until that counter has reached 2.
    fn stats(&self, query: &str) -> Value {
        let (counter, reached) = query.split_once('=').unwrap_or_default();
        let reached: u64 = reached.parse().unwrap_or(0);
        let short = |counts: &mut Counts| json!(*counts)[counter].as_u64().is_some_and(|count| count < reached);
        let waited = self.changed.wait_timeout_while(self.counts(), STATS_WAIT, short);
        let mut stats = json!(*waited.unwrap_or_else(PoisonError::into_inner).0);
        stats["name"] = self.toy.name.into();
        stats
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes an answer at the model's pace, and stops as soon as the client is gone.
fn write_text(text: &TextResponse, pace: Duration, link: &Link, out: &mut dyn Write) -> io::Result<()> {
    let began = time::now();
    let stream = text.request().stream;
    pause(link, text.request().queued)?;
    if stream {
        send(out, STREAM_HEAD.as_bytes())?;
    }
    pause(link, text.request().prompt)?;
    let first = time::now();
    for index in 0..text.words().len() {
        if index > 0 {
            pause(link, pace)?;
        }
        if stream {
            send(out, chunk(&text.events(index)).as_bytes())?;
        }
    }
    let spent = Spent { prompt: first - began, predicted: time::now() - first };
    if !stream {
        return answer(out, 200, &text.whole(spent));
    }
    let ending = chunk(&text.ending(spent)) + &chunk("data: [DONE]\n\n") + "0\r\n\r\n";
    send(out, ending.as_bytes())
}

fn pause(link: &Link, time: Duration) -> io::Result<()> {
    match link.wait(time) {
        State::Open => Ok(()),
        State::ClientGone | State::Aborted => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn answer(out: &mut dyn Write, status: u16, body: &Value) -> io::Result<()> {
    let reason = tiny_http::StatusCode(status).default_reason_phrase();
    let body = body.to_string();
    let whole = format!(
        "HTTP/1.1 {status} {reason}\r\nServer: llmproxy-demo\r\nAccess-Control-Allow-Origin: \r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    send(out, whole.as_bytes())
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

// In one write and flushed: tiny_http never sets TCP_NODELAY, so a second small write would wait for an ACK.
fn send(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// A request for text in progress; dropped, it is counted by how it ended.
struct Work<'a> {
    shared: &'a Shared,
    link: &'a Link,
    number: u64,
    done: bool,
}

impl<'a> Work<'a> {
    fn begin(shared: &'a Shared, link: &'a Link) -> Self {
        let mut counts = shared.counts();
        counts.started += 1;
        counts.in_flight += 1;
        shared.changed.notify_all();
        Self { shared, link, number: counts.started, done: false }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let how = self.link.wait(Duration::ZERO);
        let mut counts = self.shared.counts();
        counts.in_flight -= 1;
        match how {
            _ if self.done => counts.finished += 1,
            State::Aborted => counts.cut += 1,
            State::Open | State::ClientGone => counts.cancelled += 1,
        }
        self.shared.changed.notify_all();
    }
}
