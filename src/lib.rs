//! llmproxy: one OpenAI-compatible address in front of several model servers.
//!
//! One request, one straight line. The event loop ([`http::server`]) is a single thread that owns every parked client
//! connection: it reads heads and bodies within limits and deadlines. When a request is complete, the connection goes to a
//! worker of one of two fixed pools ([`http::workers`]): `control` answers from memory, `proxy` forwards. While a worker
//! serves a request, the event loop still notices when the client disconnects, and cancels the request
//! ([`util::cancel`]), which closes the upstream socket that the worker is blocked on. One exception: the end of a large
//! body at a raw listener is read by the worker that sends it on ([`http::upload`]).
//!
//! The worker ([`proxy::serve`]) loads the snapshot ([`routing::snapshot`]) once: configuration, health of every endpoint,
//! model catalog. It finds the API path, checks the key, reads the body as far as routing needs it, and makes a plan
//! ([`routing::plan`]): the finite order of candidates. The attempts (`proxy::forward`) send the request through an
//! endpoint's client ([`upstream`]) until one gives an answer worth passing on. The first byte of its body
//! (`proxy::first_byte`) is the line of no return: before it every fault may still become another attempt or a clean
//! status; after it the relay (`proxy::relay`) writes each chunk when it arrives and can only finish the answer or abort
//! it, visibly.
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
//! Imports go one way: `util` <- `config` <- `api` <- `routing` <- `http`, `upstream`, `observe` <- `proxy`, `health` <-
//! `jobs`, `admin` <- `reload` <- `app` <- `process`; `scripts/check` proves it.

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
