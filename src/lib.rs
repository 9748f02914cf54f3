//! llmproxy: one OpenAI-compatible address in front of several model servers.
//!
//! One request, one straight line. The **front** ([`http::front`]) is a single thread that owns every client
//! connection nobody works on. It reads heads and bodies within bounds and deadlines, and when a request is
//! complete it lends the connection to a **worker** of one of two fixed lanes ([`http::pool`]): `control` for
//! what is answered from memory, `proxy` for what is forwarded. While a worker serves, the front still hears
//! the client hang up and sets the request's [`base::gone::Gone`], which closes the upstream socket the worker
//! is blocked on. One exception: the end of a large body at a raw listener is read by its worker as it is sent on
//! ([`http::upload`]).
//!
//! The worker ([`proxy::serve`]) loads the **snapshot** ([`model::snapshot`]) once: configuration, standing of
//! every endpoint, catalogue of models. It finds the route, passes the gate, reads what is asked (model,
//! stream), and makes a **plan** ([`model::plan`]): the finite order of candidates. The attempts
//! (`proxy::forward`) send the request through an endpoint's **channel** ([`upstream`]) until one gives an
//! answer worth passing on. That is the line of no return: before it every fault may still become another
//! attempt or a clean status; after it the relay (`proxy::relay`) passes each piece when it arrives and can
//! only finish the answer or cut it, visibly.
//!
//! Beside this runs the **health** thread ([`health`]): the only one that probes, the only one that changes
//! standings and catalogue. Requests tell it what they see; it publishes a new snapshot, whole.
//!
//! Two rooms stand behind the proxy and are reached through a trait of its own, so that it knows nothing of them:
//! **jobs** ([`jobs`], [`proxy::later`]) keeps requests on disk and sends them as a client would, behind all others;
//! **admin** ([`admin`], [`proxy::page`]) shows what is going on and edits routes. The **helm** brings a
//! configuration into force: the file's, with what the page adds.
//!
//! Rooms import one way only: `base` <- `config` <- `model` <- `http`, `upstream`, `observe` <- `proxy`,
//! `health` <- `jobs`, `admin` <- `helm` <- `app` <- `run`; `scripts/check` tests it.

pub mod admin;
pub mod app;
pub mod base;
pub mod cli;
pub mod config;
pub mod demo;
pub mod discover;
pub mod health;
mod helm;
pub mod http;
pub mod jobs;
pub mod model;
pub mod observe;
pub mod proxy;
pub mod run;
pub mod upstream;
