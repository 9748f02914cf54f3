//! One probe of an endpoint: its requests, and what the answers mean. It opens new connections, since only those show
//! that the endpoint still accepts any.

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

/// Longest answer in bytes.
const MAX_ANSWER: usize = 8 << 20;
/// Instances read per model of LM Studio.
const MAX_INSTANCES: usize = 16;
/// llama-server's properties.
const PROPS: &str = "/props";

/// What to request.
pub(super) struct Task {
    pub(super) endpoint: Arc<Endpoint>,
    /// The path of the health check.
    pub(super) path: Option<String>,
    pub(super) list: bool,
    pub(super) props: bool,
    pub(super) slots: bool,
    /// Requests of this proxy in progress there, without abandoned ones.
    pub(super) ours: usize,
    pub(super) started: Instant,
    pub(super) timeout: Duration,
    pub(super) connect: Duration,
}

/// The results; `None` for what was not requested.
#[derive(Default)]
pub(super) struct Found {
    /// `props` and `slots` follow in another report.
    pub(super) is_first: bool,
    pub(super) seen: Option<Observation>,
    pub(super) list: Option<Listing>,
    pub(super) props: Option<Extra>,
    pub(super) slots: Option<Slots>,
}

pub(super) enum Listing {
    Models(Vec<Model>),
    /// A successful answer that is not a list, and why.
    Bad(String),
    Failed,
}

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

/// Calls `ask`; a panic is a failed probe.
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

/// Sends the requests. `first` reports health and the list before `props` and `slots` are requested, so that an
/// endpoint that answers these slowly still counts as healthy.
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
    // An empty list does not tell which server it is.
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

/// The path of a server's properties. `owned_by` in the list identifies Ollama and LM Studio, which report the models
/// in memory.
fn props_path(models: &[Model]) -> &'static str {
    let mut paths = models.iter().filter_map(|model| match model.owned_by.as_deref()? {
        "library" => Some("/api/ps"),
        "organization_owner" => Some("/api/v1/models"),
        _ => None,
    });
    paths.next().unwrap_or(PROPS)
}

/// Reads only these members: the tree of a large answer would take many times its size.
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

/// The names of the models in memory: Ollama's running models, or LM Studio's models with instances, and these
/// instances.
fn loaded(answer: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let read = each_element(member(answer, "models")?, |model| {
        let model = model.get();
        let mut add = |object: &str, key: &str| {
            let name = member(object, key).and_then(name).filter(|_| names.len() < MAX_MODELS);
            names.extend(name);
        };
        let Some(instances) = member(model, "loaded_instances") else {
            return ["name", "model"].into_iter().for_each(|key| add(model, key));
        };
        let mut count = 0;
        let _ = each_element(instances, |instance| {
            count += 1;
            if count <= MAX_INSTANCES {
                add(instance.get(), "id");
            }
        });
        if count > 0 {
            add(model, "key");
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

/// What the answer to a health check means (SPEC section 6).
fn judge(got: &Got, endpoint: &Endpoint) -> Observation {
    use Observation::{Busy, Down, Loading, Refused, Unreachable, Up};
    let UpstreamError { kind, cause } = match got {
        // An endpoint that answers 429 is up.
        Ok((status, _)) if status.is_success() || *status == StatusCode::TOO_MANY_REQUESTS => return Up,
        Ok((StatusCode::SERVICE_UNAVAILABLE, body)) if is_loading(body) => return Loading,
        Ok((status, text)) if status.is_redirection() => return Down(String::from_utf8_lossy(text).into_owned()),
        Ok((status, _)) => return Down(format!("answered {}", status.as_u16())),
        Err(error) => error,
    };
    match kind {
        UpstreamErrorKind::Timeout(Stage::Connect) => Unreachable("could not be connected to in time".into()),
        UpstreamErrorKind::Timeout(_) if endpoint.live.is_working(time::now()) => Busy,
        UpstreamErrorKind::Timeout(_) => Down("did not answer in time".into()),
        UpstreamErrorKind::Refused => {
            // Ends attempts that still wait for this endpoint (SPEC 5).
            endpoint.live.note_refused(time::now());
            Refused(cause.clone())
        }
        UpstreamErrorKind::Connect => Unreachable(cause.clone()),
        _ => Down(cause.clone()),
    }
}

fn get(client: &UpstreamClient, task: &Task, path: &str) -> Got {
    let until = task.started + task.timeout;
    let total = until.saturating_duration_since(time::now()).max(Duration::from_millis(1));
    // Less than the total, so that a connect time-out is reported as one.
    let connect = Some(task.connect.min(total - total / 16));
    let timeouts = Timeouts { connect, first_byte: None, idle: None, total: Some(total) };
    let headers = || headers::own(&task.endpoint.config);
    let mut answer = client.send(&UpstreamRequest::own(Method::GET, path, &headers, timeouts))?;
    if answer.status.is_redirection() {
        // Not followed; the target shows what is wrong with the base URL.
        return Ok((answer.status, headers::answered(answer.status, &answer.headers).into_bytes()));
    }
    let mut body = Vec::new();
    match answer.read_to_end(&mut body, MAX_ANSWER)? {
        true => Ok((answer.status, body)),
        false => Err(UpstreamError { kind: UpstreamErrorKind::Garbled, cause: "the answer is too long".into() }),
    }
}

#[cfg(test)]
mod tests;
