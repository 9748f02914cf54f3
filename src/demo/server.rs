//! One toy server: its routes, the pace of its answers, its counters. It answers as llama-server would, but never runs a
//! model; its texts come from `answer`. A relay in front of tiny_http notices disconnects and aborts connections, since
//! tiny_http hides its sockets.

use super::answer::{self, Text, Toy};
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tiny_http::{Method, Request};

/// Open connections of one toy. Each costs four descriptors and four threads; two toys stay far below the usual limit of
/// 1,024 descriptors.
const CONNECTIONS: usize = 64;
/// The longest body read: what the proxy lets through by default.
const MAX_BODY: usize = 32 << 20;
/// How long `/demo/stats?COUNTER=N` waits at most.
const STATS_WAIT: Duration = Duration::from_secs(10);

// The empty CORS field is llama-server's, for the proxy to replace.
const HEAD: &str = "Server: llmproxy-demo\r\nAccess-Control-Allow-Origin: \r\n";
const STREAM_HEAD: &str =
    "X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

struct Shared {
    toy: Arc<Toy>,
    /// Open connections, by the address under which tiny_http sees them.
    open: Mutex<HashMap<SocketAddr, Arc<Connection>>>,
    counts: Mutex<Counts>,
    changed: Condvar,
}

/// Requests for text so far, as `/demo/stats` shows them.
#[derive(Default, Serialize)]
struct Counts {
    paused: bool,
    started: u64,
    in_flight: u64,
    finished: u64,
    cancelled: u64,
    /// Ended by a pause.
    cut: u64,
    #[serde(skip)]
    closing: bool,
}

/// The client's socket and the one to tiny_http.
struct Connection {
    client: Arc<TcpStream>,
    inner: TcpStream,
    /// Cancelled when the client closes the connection or its sending side: llama-server takes a half-close for a
    /// disconnect too.
    cancel: CancelToken,
}

impl Connection {
    /// Closes both sides at once, whatever is under way.
    fn abort(&self) {
        self.cancel.cancel();
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.inner.shutdown(Shutdown::Both);
    }
}

/// A running toy; dropping it closes its port and its connections.
pub(super) struct Server {
    shared: Arc<Shared>,
    http: Arc<tiny_http::Server>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts a server named `name` on a free loopback port.
pub(super) fn start(name: &'static str, models: [&'static str; 2]) -> io::Result<(Arc<Toy>, Server)> {
    let http = Arc::new(tiny_http::Server::http((Ipv4Addr::LOCALHOST, 0)).map_err(io::Error::other)?);
    let inner = http.server_addr().to_ip().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (addr, created) = (listener.local_addr()?, time::unix().as_secs());
    let toy = Arc::new(Toy { name, addr, models, created });
    let (open, counts, changed) = Default::default();
    let shared = Arc::new(Shared { toy: Arc::clone(&toy), open, counts, changed });
    let (serving, taken) = (Arc::clone(&shared), Arc::clone(&http));
    let serving = spawn(name, move || serving.serve_all(&taken))?;
    let accepting = Arc::clone(&shared);
    let accepting = spawn("demo-accept", move || accepting.accept(&listener, inner))?;
    Ok((toy, Server { shared, http, threads: vec![serving, accepting] }))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work)
}

impl Drop for Server {
    fn drop(&mut self) {
        lock(&self.shared.counts).closing = true;
        self.http.unblock();
        // Only a connection wakes a blocked accept; if none can be made, the thread lives until the process ends.
        if TcpStream::connect(self.shared.toy.addr).is_ok() {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
        self.shared.abort_all_but(None);
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener, inner: SocketAddr) {
        for client in listener.incoming() {
            if lock(&self.counts).closing {
                return;
            }
            // A connection that cannot be served is closed: the client sees a server that went away.
            if client.and_then(|client| self.relay(client, inner)).is_err() {
                // Out of descriptors, perhaps: others will be closed.
                CancelToken::default().wait_until(time::now() + Duration::from_millis(100), time::now);
            }
        }
    }

    fn relay(self: &Arc<Self>, client: TcpStream, inner: SocketAddr) -> io::Result<()> {
        if lock(&self.open).len() >= CONNECTIONS {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let inner = TcpStream::connect(inner)?;
        client.set_nodelay(true)?;
        inner.set_nodelay(true)?;
        let (peer, client) = (inner.local_addr()?, Arc::new(client));
        let cancel = CancelToken::of_client(Arc::clone(&client), Arc::default());
        let connection = Arc::new(Connection { client, inner, cancel });
        // Known before the first byte goes in, so tiny_http has no request whose connection is unknown.
        lock(&self.open).insert(peer, Arc::clone(&connection));
        for is_up in [true, false] {
            let (shared, own) = (Arc::clone(self), Arc::clone(&connection));
            let copy = move || {
                let (client, inner) = (&mut &*own.client, &mut &own.inner);
                // A failed read and a failed write mean the same: one side is gone, so the other is closed too.
                let _ = if is_up { io::copy(client, inner) } else { io::copy(inner, client) };
                own.abort();
                lock(&shared.open).remove(&peer);
            };
            spawn("demo-relay", copy).inspect_err(|_| {
                connection.abort();
                lock(&self.open).remove(&peer);
            })?;
        }
        Ok(())
    }

    fn abort_all_but(&self, kept: Option<&Arc<Connection>>) {
        for connection in lock(&self.open).values() {
            if kept.is_none_or(|kept| !Arc::ptr_eq(kept, connection)) {
                connection.abort();
            }
        }
    }

    fn serve_all(self: &Arc<Self>, http: &tiny_http::Server) {
        // An error is `unblock`, or a failed accept, after which tiny_http accepts no more: this toy is dead.
        while let Ok(request) = http.recv() {
            let connection = request.remote_addr().and_then(|peer| lock(&self.open).get(peer).cloned());
            if request.body_length().is_some_and(|length| length > MAX_BODY) {
                // tiny_http allocates the unread rest of a declared length when the request is dropped: it never is.
                std::mem::forget(request);
                let _ = connection.map(|connection| connection.abort());
                continue;
            }
            let Some(connection) = connection else { continue };
            let shared = Arc::clone(self);
            let serve = move || {
                if shared.serve(request, &connection).is_err() {
                    connection.abort();
                }
            };
            let _ = spawn("demo-request", serve);
        }
    }

    /// Answers one request; after an error its connection cannot be used any more.
    fn serve(&self, mut request: Request, connection: &Arc<Connection>) -> io::Result<()> {
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        if lock(&self.counts).paused && !path.starts_with("/demo/") {
            // Before the request is dropped: tiny_http would answer 500.
            connection.abort();
            return Ok(());
        }
        let mut body = Vec::new();
        request.as_reader().take(MAX_BODY as u64 + 1).read_to_end(&mut body)?;
        if body.len() > MAX_BODY {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let method = request.method().clone();
        let out = &mut *request.into_writer();
        match (method, path.as_str()) {
            (Method::Get, "/health") => answer(out, 200, &json!({"status": "ok"})),
            (Method::Get, "/v1/models") => answer(out, 200, &answer::models(&self.toy)),
            (Method::Get, "/props") => answer(out, 200, &answer::props(&self.toy)),
            (Method::Post, "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings") => {
                match answer::parse(&body, &self.toy) {
                    Err(why) => answer(out, 400, &answer::error(400, "invalid_request_error", &why)),
                    Ok((body, model)) if path == "/v1/embeddings" => {
                        answer(out, 200, &answer::embeddings(&body, &model))
                    }
                    Ok((body, model)) => self.generate(path.contains("chat"), &body, &model, connection, out),
                }
            }
            (Method::Get, "/demo/stats") => answer(out, 200, &self.stats(&query)),
            (Method::Post, "/demo/pause" | "/demo/resume") => {
                let is_pause = path == "/demo/pause";
                lock(&self.counts).paused = is_pause;
                if is_pause {
                    self.abort_all_but(Some(connection));
                }
                answer(out, 200, &self.stats(""))
            }
            _ => answer(out, 404, &answer::error(404, "not_found_error", "File Not Found")),
        }
    }

    fn generate(
        &self,
        is_chat: bool,
        body: &Value,
        model: &str,
        connection: &Connection,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut counts = lock(&self.counts);
        counts.started += 1;
        counts.in_flight += 1;
        let text = Text::new(is_chat, body, model, &self.toy, counts.started);
        drop(counts);
        self.changed.notify_all();
        let written = write_text(&text, super::pace(model), &connection.cancel, out);
        let mut counts = lock(&self.counts);
        counts.in_flight -= 1;
        match written {
            Ok(()) => counts.finished += 1,
            Err(_) if counts.paused => counts.cut += 1,
            Err(_) => counts.cancelled += 1,
        }
        drop(counts);
        self.changed.notify_all();
        written
    }

    /// The counters; `cancelled=2` in the query waits until that counter has reached 2.
    fn stats(&self, query: &str) -> Value {
        let (counter, reached) = query.split_once('=').unwrap_or_default();
        let reached: u64 = reached.parse().unwrap_or(0);
        let short = |counts: &mut Counts| json!(*counts)[counter].as_u64().is_some_and(|count| count < reached);
        let waited = self.changed.wait_timeout_while(lock(&self.counts), STATS_WAIT, short);
        let mut stats = json!(*waited.unwrap_or_else(PoisonError::into_inner).0);
        stats["name"] = self.toy.name.into();
        stats
    }
}

/// Writes an answer at the model's pace, and stops as soon as the client is gone.
fn write_text(text: &Text, pace: Duration, cancel: &CancelToken, out: &mut dyn Write) -> io::Result<()> {
    let pause = |time: Duration| match cancel.wait_until(time::now() + time, time::now) {
        true => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
        false => Ok(()),
    };
    let began = time::now();
    pause(text.queued)?;
    if text.stream {
        send(out, &format!("HTTP/1.1 200 OK\r\n{HEAD}{STREAM_HEAD}"))?;
    }
    pause(text.prompt)?;
    let first = time::now();
    for index in 0..text.words.len() {
        if index > 0 {
            pause(pace)?;
        }
        if text.stream {
            send(out, &chunk(&text.events(index)))?;
        }
    }
    let (prompt, predicted) = (first - began, time::now() - first);
    match text.stream {
        true => send(out, &(chunk(&text.ending(prompt, predicted)) + &chunk("data: [DONE]\n\n") + "0\r\n\r\n")),
        false => answer(out, 200, &text.whole(prompt, predicted)),
    }
}

fn answer(out: &mut dyn Write, status: u16, body: &Value) -> io::Result<()> {
    let (reason, body) = (tiny_http::StatusCode(status).default_reason_phrase(), body.to_string());
    let framing = format!("Content-Type: application/json; charset=utf-8\r\nContent-Length: {}", body.len());
    send(out, &format!("HTTP/1.1 {status} {reason}\r\n{HEAD}{framing}\r\n\r\n{body}"))
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

// In one write and flushed: tiny_http never sets TCP_NODELAY, so a second small write would wait for an ACK.
fn send(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}
