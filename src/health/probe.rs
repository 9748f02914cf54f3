//! One probe: what an endpoint is asked, and what its answers mean. On a thread of its own, within its own time, on
//! connections of its own, since only a new connection shows that the endpoint still takes any.

use crate::api::errors::is_loading;
use crate::api::json::{each_element, member};
use crate::api::model_list::{MAX_MODELS, Model, list_of, name};
use crate::config::Timeouts;
use crate::routing::endpoint::{Endpoint, Props};
use crate::routing::health_status::Observation;
use crate::upstream::{ClientPool, Stage, UpstreamClient, UpstreamError, UpstreamErrorKind, UpstreamRequest, headers};
use crate::util::time;
use http::{Method, StatusCode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one answer that are read.
const MOST: usize = 8 << 20;
/// Instances of one model that LM Studio lists.
const MOST_INSTANCES: usize = 16;
/// Where llama-server tells how it was started.
const PROPS: &str = "/props";

pub(super) struct Task {
    pub(super) endpoint: Arc<Endpoint>,
    /// The path of the probe itself.
    pub(super) path: Option<String>,
    pub(super) list: bool,
    pub(super) props: bool,
    pub(super) slots: bool,
    /// Our requests in progress there, without abandoned ones.
    pub(super) ours: usize,
    pub(super) started: Instant,
    pub(super) timeout: Duration,
    pub(super) connect: Duration,
}

/// What was found; nothing is there that was not asked.
#[derive(Default)]
pub(super) struct Found {
    /// The extras follow.
    pub(super) is_first: bool,
    pub(super) seen: Option<Observation>,
    pub(super) list: Option<Listing>,
    pub(super) props: Option<Extra>,
    pub(super) slots: Option<Slots>,
}

pub(super) enum Listing {
    Models(Vec<Model>),
    /// An answer with success that is no list; why.
    Bad(String),
    Failed,
}

/// What only some servers tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Extra {
    Known(Props),
    Unsupported,
    Failed,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Slots {
    Working(usize),
    Unknown,
    Failed,
}

type Got = Result<(StatusCode, Vec<u8>), UpstreamError>;

/// Finds out; a panic in `ask` is a failed probe.
pub(super) fn guarded(task: &Task, ask: impl FnOnce() -> Found) -> Found {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| {
        log::error!("endpoint {}: the probe panicked", task.endpoint.name());
        failed(task, "the probe panicked".into())
    })
}

fn failed(task: &Task, why: String) -> Found {
    Found {
        seen: task.path.as_ref().map(|_| Observation::Down(why)),
        list: task.list.then_some(Listing::Failed),
        slots: task.slots.then_some(Slots::Failed),
        ..Found::default()
    }
}

/// Asks. `first` reports health and the list before the extras are asked for: an endpoint that is slow with them is no less
/// healthy.
pub(super) fn ask(clients: &ClientPool, task: &Task, first: impl FnOnce(Found)) -> Found {
    let client = match clients.client(&task.endpoint.config) {
        Ok(client) => client,
        Err(fault) => return failed(task, fault.cause),
    };
    let get = |path: &str| get(&client, task, path);
    let mut found = Found::default();
    let mut listed = None;
    if let Some(path) = &task.path {
        let got = get(path);
        let succeeded = got.as_ref().is_ok_and(|(status, _)| status.is_success());
        found.seen = Some(judge(&got, &task.endpoint));
        if path == "/v1/models" || path == "/models" {
            listed = got.ok();
        }
        if !succeeded {
            return found;
        }
    }
    if task.list || listed.is_some() {
        found.list = Some(listing(listed.map_or_else(|| get("/v1/models"), Ok)));
    }
    let models = match &found.list {
        Some(Listing::Models(models)) => Some(models),
        _ => task.endpoint.models.as_deref(),
    };
    // Without a model it may be any server.
    let path = models.map_or(Some(PROPS), |models| Some(props_path(models)).filter(|_| !models.is_empty()));
    if task.props || task.slots {
        first(Found { is_first: true, ..std::mem::take(&mut found) });
    }
    found.props = path.filter(|_| task.props).map(|path| props(get(path), path));
    found.slots = task.slots.then(|| slots(get("/slots")));
    found
}

fn listing(got: Got) -> Listing {
    match got {
        Ok((status, body)) if status.is_success() => match list_of(&body) {
            Ok(models) => Listing::Models(models),
            Err(why) => Listing::Bad(format!("its list of models {why}")),
        },
        _ => Listing::Failed,
    }
}

/// Where a server tells about itself, known by what its list says: Ollama and LM Studio which models are in their memory.
fn props_path(models: &[Model]) -> &'static str {
    let is_of = |owner: &str| models.iter().any(|model| model.owned_by.as_deref() == Some(owner));
    match () {
        () if is_of("library") => "/api/ps",
        () if is_of("organization_owner") => "/api/v1/models",
        () => PROPS,
    }
}

/// Nothing but these is built: an answer of megabytes would take a hundred times as much.
fn props(got: Got, path: &str) -> Extra {
    match got {
        Ok((status, body)) if status.is_success() => {
            let answer = str::from_utf8(&body).unwrap_or_default();
            let inner = |outer: &str, name: &str| member(member(answer, outer)?, name);
            let props = Props {
                slots: member(answer, "total_slots").and_then(|slots| slots.parse().ok()),
                context: inner("default_generation_settings", "n_ctx").and_then(|size| size.parse().ok()),
                vision: inner("modalities", "vision").and_then(|vision| vision.parse().ok()),
                loaded: loaded(answer),
            };
            if path == PROPS || props.loaded.is_some() { Extra::Known(props) } else { Extra::Unsupported }
        }
        Ok((status, _)) if matches!(status.as_u16(), 404 | 405 | 501) => Extra::Unsupported,
        _ => Extra::Failed,
    }
}

/// The names in Ollama's list of running models, or of the models that LM Studio has instances of, and of these instances.
fn loaded(answer: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let read = each_element(member(answer, "models")?, |model| {
        let model = model.get();
        let mut add = |raw: Option<&str>| {
            let name = raw.and_then(name).filter(|_| names.len() < MAX_MODELS);
            names.extend(name);
        };
        match member(model, "loaded_instances") {
            Some(instances) => {
                let mut count = 0;
                let _ = each_element(instances, |instance| {
                    count += 1;
                    if count <= MOST_INSTANCES {
                        add(member(instance.get(), "id"));
                    }
                });
                if count > 0 {
                    add(member(model, "key"));
                }
            }
            None => ["name", "model"].into_iter().for_each(|key| add(member(model, key))),
        }
    });
    read.is_ok().then_some(names)
}

fn slots(got: Got) -> Slots {
    let Ok((status, body)) = got else { return Slots::Failed };
    let (mut working, mut is_known) = (0, status.is_success());
    let read =
        each_element(str::from_utf8(&body).unwrap_or_default(), |slot| match member(slot.get(), "is_processing") {
            Some("true") => working += 1,
            Some("false") => {}
            _ => is_known = false,
        });
    if read.is_ok() && is_known { Slots::Working(working) } else { Slots::Unknown }
}

/// What an answer to a probe means (SPEC section 6).
fn judge(got: &Got, endpoint: &Endpoint) -> Observation {
    match got {
        // 429 shows that the endpoint is up.
        Ok((status, _)) if status.is_success() || *status == StatusCode::TOO_MANY_REQUESTS => Observation::Up,
        Ok((StatusCode::SERVICE_UNAVAILABLE, body)) if is_loading(body) => Observation::Loading,
        Ok((status, text)) if status.is_redirection() => Observation::Down(String::from_utf8_lossy(text).into_owned()),
        Ok((status, _)) => Observation::Down(format!("answered {}", status.as_u16())),
        Err(UpstreamError { kind: UpstreamErrorKind::Timeout(Stage::Connect), .. }) => {
            Observation::Unreachable("could not be connected to in time".into())
        }
        Err(UpstreamError { kind: UpstreamErrorKind::Timeout(_), .. }) if endpoint.live.is_working(time::now()) => {
            Observation::Busy
        }
        Err(UpstreamError { kind: UpstreamErrorKind::Timeout(_), .. }) => {
            Observation::Down("did not answer in time".into())
        }
        Err(fault) if fault.kind == UpstreamErrorKind::Refused => {
            // An attempt that still waits there is given up (SPEC 5).
            endpoint.live.note_refused(time::now());
            Observation::Refused(fault.cause.clone())
        }
        Err(fault) if fault.kind == UpstreamErrorKind::Connect => Observation::Unreachable(fault.cause.clone()),
        Err(fault) => Observation::Down(fault.cause.clone()),
    }
}

fn get(client: &UpstreamClient, task: &Task, path: &str) -> Got {
    let until = task.started + task.timeout;
    let total = until.saturating_duration_since(time::now()).max(Duration::from_millis(1));
    // Before the total, so that the time-out says which of the two it was.
    let connect = Some(task.connect.min(total - total / 16));
    let timeouts = Timeouts { connect, first_byte: None, idle: None, total: Some(total) };
    let headers = || headers::own(&task.endpoint.config);
    let mut answer = client.send(&UpstreamRequest::own(Method::GET, path, &headers, timeouts))?;
    if answer.status.is_redirection() {
        // Never followed; where it leads says what is wrong with the base URL.
        return Ok((answer.status, headers::answered(answer.status, &answer.headers).into_bytes()));
    }
    let mut body = Vec::new();
    match answer.read_to_end(&mut body, MOST)? {
        true => Ok((answer.status, body)),
        false => Err(UpstreamError { kind: UpstreamErrorKind::Garbled, cause: "the answer is too long".into() }),
    }
}

#[cfg(test)]
mod tests;
