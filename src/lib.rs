//! llmproxy: one OpenAI-compatible address in front of several model servers.
//!
//! A client connection ([`http::connection`]) is owned by exactly one thread at a time and moves by value. The event
//! loop ([`http::server`]) is a single thread that owns the parked ones: it accepts, reads heads and bodies within
//! limits and deadlines, and has the handler check the key before a body is read. When a request is complete, its
//! connection moves, inside the [`http::response`], to a worker of one of two fixed pools ([`http::workers`]):
//! `control` answers from memory, `proxy` forwards. The worker answers, reads the next request of the same connection
//! if it arrives within a millisecond, and otherwise returns the connection to the event loop. There are two
//! exceptions: the rest of a large body at a raw listener is read by the worker that forwards it ([`http::upload`]),
//! and a response that another thread finishes (a health check on demand, disk access, the live page) takes its
//! connection along.
//!
//! The worker ([`proxy::serve`]) uses one snapshot ([`routing::snapshot`]) of configuration, health and model catalog;
//! a newer one is loaded only for an unknown model, and while a request is queued or a machine is being woken. It
//! finds the route, reads the body as far as routing needs it, and makes a plan ([`routing::plan`]): the candidates.
//! `proxy::select` orders them by the strategy and takes a slot at the first one that has one free, or a position in
//! the queue ([`routing::slots`]). The attempts (`proxy::forward`) send the request through an endpoint's client
//! ([`upstream`]) until one gives an answer to forward. The first byte of its body (`proxy::first_byte`) is the point
//! of no return: before it, every failure can become another attempt or a clean status (or, once a ping has sent the
//! head, an error event); after it, the relay (`proxy::relay`) writes each chunk as it arrives and can only finish the
//! answer or abort it visibly. The slot is released with the last byte, and the request's record is printed as access
//! line, metrics and a row of the page.
//!
//! If all candidates are asleep (`wake`), the worker first sends a magic packet and waits until a probe of one of them
//! succeeds (`proxy::wake`).
//!
//! While a worker waits for that, a slot, the upstream, or the next round of attempts, it polls its client's socket
//! too ([`util::cancel`]): a disconnect ends the wait and closes the upstream connection (unless `onClientGone:
//! finish`). The slot is then released at once, or, if the server may still be computing, when it is seen idle. Until
//! the first byte of a stream's first event, these waits also send pings, comment lines, to the client
//! (`proxy::downstream`).
//!
//! The health thread ([`health`]) is the only one that probes, and the only one that changes health states and the
//! catalog. Requests report to it what they see; it publishes a new snapshot, whole.
//!
//! Two modules stand behind the proxy and are reached through traits of its own, so that it does not depend on them:
//! [`jobs`] keeps requests on disk and sends them behind all others; [`admin`] serves the page and edits routes.
//! `reload` applies a configuration: the file's, with the routes of the page.
//!
//! [`jobs`], [`admin`], `demo` and the formats of older proxies are cargo features. In a build without one, a file of
//! `src/without/` stands in for the module, and a configuration that asks for it is refused.
//!
//! Imports go one way: `util` <- `config` <- `api` <- `routing` <- `http`, `upstream`, `observe` <- `proxy`, `health`
//! <- `jobs`, `reload` <- `admin` <- `app` <- `process`; `scripts/check` proves it.
//!
//! # The path of a prompt and of a key
//!
//! These 33 files, 7977 lines without tests, are all that ever sees a request's body, an answer or a key on its way; in reading
//! order. `tests/structure.rs` keeps the numbers true and proves that no other file imports the types that carry them.
//!
//! | file | lines | |
//! | --- | --- | --- |
//! | `http/head.rs` | 198 | the head, credentials in it |
//! | `http/connection.rs` | 441 | bytes of the client become a request |
//! | `http/upload.rs` | 207 | the rest of a large body |
//! | `api/chunked.rs` | 211 | chunks |
//! | `http/request.rs` | 126 | the request as a worker gets it |
//! | `http/workers.rs` | 290 | moves it to the handler |
//! | `http/handler.rs` | 93 | the handler's trait |
//! | `proxy/listener.rs` | 299 | who may use a listener |
//! | `proxy/auth.rs` | 94 | the keys that a request shows |
//! | `routing/keys.rs` | 128 | compares their hashes |
//! | `util/secret.rs` | 68 | a value that never prints itself |
//! | `proxy/serve.rs` | 436 | one request from head to access line |
//! | `proxy/body.rs` | 223 | model and stream; the body as a candidate gets it |
//! | `api/body.rs` | 253 | one pass over JSON |
//! | `api/json.rs` | 87 | walks it |
//! | `api/edit.rs` | 169 | edits it in place |
//! | `api/prompt.rs` | 97 | finds images; replaces changing checksums |
//! | `api/multipart.rs` | 176 | forms |
//! | `routing/affinity.rs` | 340 | hashes of the messages |
//! | `proxy/state.rs` | 186 | the traits of jobs and page |
//! | `proxy/outcome.rs` | 127 | what attempts are given, and their results |
//! | `proxy/select.rs` | 274 | slot and queue |
//! | `proxy/forward.rs` | 450 | attempts |
//! | `upstream/headers.rs` | 305 | which fields cross, the endpoint's key |
//! | `upstream/client.rs` | 399 | the request to an endpoint |
//! | `upstream/transport.rs` | 446 | the connection: TCP, TLS |
//! | `upstream/response.rs` | 237 | the answer's framing |
//! | `proxy/first_byte.rs` | 102 | until the first byte of the body |
//! | `proxy/relay.rs` | 413 | the answer, chunk by chunk |
//! | `api/answer.rs` | 329 | ends of streams, token counts |
//! | `proxy/downstream.rs` | 309 | pings and error events |
//! | `http/response.rs` | 393 | the answer to the client |
//! | `http/unsent.rs` | 71 | what a client has not taken yet |
//!
//! With the feature `jobs`, bodies and answers are also in `jobs/` (on disk, below `jobs.dir`), by way of `proxy/job_store.rs`
//! and `proxy/background.rs`; with `admin`, the page's requests and its token are in `admin/`. Keys of endpoints are read by
//! `config/`, and never printed.

#![warn(unreachable_pub)]
#![cfg_attr(
    not(all(feature = "jobs", feature = "admin", feature = "legacy")),
    allow(dead_code, reason = "a few functions serve only a part that this build leaves out")
)]

#[cfg_attr(not(feature = "admin"), path = "without/admin.rs")]
mod admin;
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
#[cfg_attr(not(feature = "demo"), path = "without/demo.rs")]
mod demo;
pub mod discover;
mod health;
pub mod http;
#[cfg_attr(not(feature = "jobs"), path = "without/jobs.rs")]
pub mod jobs;
mod observe;
pub mod process;
mod proxy;
mod reload;
pub mod routing;
pub mod upstream;
pub mod util;
