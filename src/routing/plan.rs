//! Where a request may go: a pure function of a snapshot, what was asked, and by whom.

use crate::api::errors::{Failure, Kind};
use crate::config::{Retry, Route, Strategy, UnknownModel};
use crate::routing::catalog;
use crate::routing::endpoint::Endpoint;
use crate::routing::scope::Scope;
use crate::routing::snapshot::Snapshot;
use crate::routing::strategy::CandidateLoad;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon a client should come back when every endpoint is down: a probe round may bring one back.
const COME_BACK: Duration = Duration::from_secs(5);

/// Names that are told to who asks for an unknown one.
const MOST_NAMED: usize = 50;

#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) endpoint: Arc<Endpoint>,
    /// The name to send instead of the client's; `None` leaves the body as it is.
    pub(crate) rename: Option<String>,
    /// Its share where the strategy goes by weight.
    pub(crate) weight: u16,
    /// Its position on the route, available or not.
    pub(crate) place: usize,
    /// How many tokens fit into its context: as it says of itself, else of this model.
    pub(crate) context: Option<u64>,
}

impl Candidate {
    /// How the strategies see it now.
    pub(crate) fn load(&self) -> CandidateLoad {
        CandidateLoad { place: self.place, weight: self.weight, load: self.endpoint.live.load() }
    }
}

/// Who may be tried, never empty, and how to choose among them.
pub(crate) struct Plan {
    /// In the order of the file.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) strategy: Strategy,
    /// Whose turn it is is remembered under this name.
    pub(crate) route: String,
    pub(crate) retry: Retry,
    /// `x-llmproxy-reason`: why the first is the first, as long as the strategy has no word of its own.
    pub(crate) reason: &'static str,
    /// The model's name is one that somebody is known to serve.
    pub(crate) is_named: bool,
    /// An endpoint that is down would be a candidate too.
    pub(crate) is_short: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ModelQuery<'a> {
    Named(&'a str),
    /// Nothing, an empty name, or `auto`.
    Any,
    /// A path that needs no model where there is only one endpoint (`GET /props`).
    Endpoint,
    /// Whatever it is, for any endpoint.
    Raw,
    /// What follows a response, of a model or any.
    Follow(&'a str, Option<&'a str>),
    /// A response that some endpoint keeps.
    Stored(&'a str),
}

/// Candidates that a log line names.
const NAMED: usize = 3;

impl Plan {
    /// Which models of which endpoints stand in for one that nobody serves.
    pub(crate) fn stand_ins(&self) -> String {
        let first = self.candidates.iter().take(NAMED).map(|candidate| match &candidate.rename {
            Some(model) => format!("{} at {} stands in", shown(model), candidate.endpoint.name()),
            None => format!("{} is asked", candidate.endpoint.name()),
        });
        first.collect::<Vec<_>>().join(", or ")
    }
}

pub(crate) enum PlanResult {
    Plan(Plan),
    /// Nobody is known to serve this name: worth asking the endpoints once more.
    Unknown,
    Refused(Failure),
}

impl PlanResult {
    /// Whether an endpoint that is down could be of use.
    pub(crate) fn is_short(&self) -> bool {
        match self {
            Self::Plan(plan) => plan.is_short,
            Self::Unknown => false,
            Self::Refused(failure) => failure.kind == Kind::NoEndpoint,
        }
    }
}

/// Who may be tried for a wish, within a scope.
pub(crate) fn plan(snapshot: &Snapshot, query: ModelQuery<'_>, scope: &Scope, now: Instant) -> PlanResult {
    match wished(snapshot, query, scope) {
        PlanResult::Plan(plan) => PlanResult::Plan(rested(plan, now)),
        other => other,
    }
}

fn wished(snapshot: &Snapshot, query: ModelQuery<'_>, scope: &Scope) -> PlanResult {
    match query {
        ModelQuery::Named(name) if is_name(snapshot, name) => named(snapshot, name, scope),
        ModelQuery::Named(_) | ModelQuery::Any => any(snapshot, scope, "default_model"),
        ModelQuery::Endpoint => only(snapshot, scope),
        ModelQuery::Raw => anyone(snapshot, scope, "raw"),
        ModelQuery::Follow(id, model) => {
            match wished(snapshot, model.map_or(ModelQuery::Any, ModelQuery::Named), scope) {
                PlanResult::Plan(plan) => PlanResult::Plan(at_home(plan, id)),
                other => other,
            }
        }
        ModelQuery::Stored(id) => match anyone(snapshot, scope, "search") {
            PlanResult::Plan(plan) => PlanResult::Plan(at_home(plan, id)),
            other => other,
        },
    }
}

/// Only where the response was made: elsewhere it is not known. All others while that endpoint is away.
fn at_home(mut plan: Plan, response: &str) -> Plan {
    let made = |candidate: &Candidate| candidate.endpoint.live.responses.has(response);
    if let Some(home) = plan.candidates.iter().position(made) {
        plan.candidates = vec![plan.candidates.swap_remove(home)];
        plan.reason = "response";
    }
    plan
}

/// Whether a text names a model: an empty one does not, and `auto` only if a model is really called that.
fn is_name(snapshot: &Snapshot, name: &str) -> bool {
    let is_auto = || name == "auto" && !is_served(snapshot, name);
    !name.is_empty() && !is_auto()
}

fn route<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Route> {
    snapshot.config.models.iter().find(|route| route.name == name)
}

fn is_served(snapshot: &Snapshot, name: &str) -> bool {
    !snapshot.catalog.offers(name).is_empty() || route(snapshot, name).is_some()
}

/// The name, or the one with the tag `latest` where only that is served.
fn served<'a>(snapshot: &Snapshot, name: &'a str) -> Cow<'a, str> {
    if is_served(snapshot, name) {
        return Cow::Borrowed(name);
    }
    let tagged = catalog::tagged(name);
    if is_served(snapshot, &tagged) { Cow::Owned(tagged) } else { Cow::Borrowed(name) }
}

/// Without those that asked to be left alone, as long as anybody else remains.
fn rested(mut plan: Plan, now: Instant) -> Plan {
    let rested = |candidate: &Candidate| !candidate.endpoint.live.is_cooling(now);
    if plan.candidates.iter().any(rested) && !plan.candidates.iter().all(rested) {
        plan.candidates.retain(rested);
        plan.reason = "cool_down";
    }
    plan
}

fn named(snapshot: &Snapshot, name: &str, scope: &Scope) -> PlanResult {
    let asked = name;
    let name = &*served(snapshot, asked);
    if !catalog::within(scope, name, |bare| is_served(snapshot, bare)) {
        return PlanResult::Refused(not_found(snapshot, asked, scope));
    }
    let route = route(snapshot, name);
    let mut known = match route {
        Some(route) => routed(snapshot, route, scope),
        None => discovered(snapshot, name, scope),
    };
    if known.is_empty() && route.is_none_or(|_| !scope.is_all()) {
        return if snapshot.is_healthy() { PlanResult::Unknown } else { PlanResult::Refused(nobody()) };
    }
    let all = known.len();
    known.retain(|candidate| candidate.endpoint.is_available());
    if known.is_empty() {
        let text = format!("Every endpoint that serves the model `{}` is unavailable at the moment.", shown(name));
        return PlanResult::Refused(Failure::new(Kind::NoEndpoint, text).param("model").retry_after(COME_BACK));
    }
    if name != asked {
        for candidate in &mut known {
            candidate.rename.get_or_insert_with(|| name.to_owned());
        }
    }
    PlanResult::Plan(Plan {
        reason: if known.len() < all { "failover" } else { "model" },
        strategy: route.and_then(|route| route.strategy).unwrap_or(strategy(snapshot, scope)),
        route: turn(name, scope),
        retry: retry(snapshot, scope),
        is_named: true,
        is_short: known.len() < all,
        candidates: known,
    })
}

/// The backends of a route that are switched on.
fn routed(snapshot: &Snapshot, route: &Route, scope: &Scope) -> Vec<Candidate> {
    let backends = route.backends.iter().enumerate().filter(|(_, backend)| backend.enabled);
    let candidates = backends.filter_map(|(place, backend)| {
        let endpoint = snapshot.enabled().find(|endpoint| endpoint.name() == backend.endpoint)?;
        let seen = candidate(place, endpoint, scope)?;
        let weight = backend.weight.unwrap_or(seen.weight);
        let rename = backend.model.clone().filter(|model| *model != route.name);
        let context = seen.context.or_else(|| context(snapshot, rename.as_deref().unwrap_or(&route.name), endpoint));
        Some(Candidate { rename, weight, place, context, ..seen })
    });
    candidates.collect()
}

/// Everybody who serves a name, configured or discovered.
fn discovered(snapshot: &Snapshot, name: &str, scope: &Scope) -> Vec<Candidate> {
    let offers = snapshot.catalog.offers(name).iter();
    in_order(offers.filter_map(|offer| {
        let seen = candidate(offer.endpoint, &snapshot.endpoints[offer.endpoint], scope)?;
        Some(Candidate { context: seen.context.or(offer.context), ..seen })
    }))
}

/// The context of a model at an endpoint, as its list tells it.
fn context(snapshot: &Snapshot, model: &str, endpoint: &Endpoint) -> Option<u64> {
    let offers = snapshot.catalog.offers(model).iter();
    offers
        .filter_map(|offer| snapshot.endpoints[offer.endpoint].name().eq(endpoint.name()).then_some(offer.context))
        .next()?
}

/// The strategy of everything that has none of its own.
fn strategy(snapshot: &Snapshot, scope: &Scope) -> Strategy {
    let of_group = scope.group.as_ref().and_then(|group| group.config.strategy);
    of_group.unwrap_or(snapshot.config.routing.strategy)
}

fn retry(snapshot: &Snapshot, scope: &Scope) -> Retry {
    let of_group = scope.group.as_ref().and_then(|group| group.config.retry.clone());
    of_group.unwrap_or_else(|| snapshot.config.retry.clone())
}

/// Each group has turns of its own.
fn turn(name: &str, scope: &Scope) -> String {
    scope.group.as_ref().map_or_else(|| name.to_owned(), |group| format!("{}\0{name}", group.config.name))
}

/// Endpoints with a model of their own to stand in.
fn any(snapshot: &Snapshot, scope: &Scope, reason: &'static str) -> PlanResult {
    let with_model = open(snapshot, scope).into_iter().filter_map(|candidate| {
        let model = candidate.endpoint.default_model().filter(|model| scope.has_model(model))?;
        // Where the model is a route (format 003), the endpoint knows it by another name.
        let backends = route(snapshot, model).into_iter().flat_map(|route| &route.backends);
        let mut backends = backends.filter(|backend| backend.endpoint == candidate.endpoint.name());
        let rename = backends.find_map(|backend| backend.model.clone()).unwrap_or_else(|| model.to_owned());
        let context = candidate.context.or_else(|| context(snapshot, &rename, &candidate.endpoint));
        Some(Candidate { rename: Some(rename), context, ..candidate })
    });
    let candidates: Vec<_> = with_model.collect();
    if !candidates.is_empty() {
        return PlanResult::Plan(anywhere(snapshot, scope, candidates, reason));
    }
    if !snapshot.is_healthy() {
        return PlanResult::Refused(nobody());
    }
    let text = "The request names no model, and no endpoint has one to stand in; set `model` in the body.";
    PlanResult::Refused(Failure::new(Kind::ModelRequired, text).param("model"))
}

fn only(snapshot: &Snapshot, scope: &Scope) -> PlanResult {
    let enabled = snapshot.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.config.enabled);
    let mut enabled = enabled.filter_map(|(n, endpoint)| candidate(n, endpoint, scope));
    match (enabled.next(), enabled.next()) {
        (Some(one), None) if one.endpoint.is_available() => {
            PlanResult::Plan(anywhere(snapshot, scope, vec![one], "only_endpoint"))
        }
        (Some(_), None) | (None, _) => PlanResult::Refused(nobody()),
        (Some(_), Some(_)) => {
            let text = "Several endpoints could answer this; add ?model=NAME to say which.";
            PlanResult::Refused(Failure::new(Kind::ModelRequired, text).param("model"))
        }
    }
}

/// The one endpoint that has what is asked about, the request as it is.
pub(crate) fn at(snapshot: &Snapshot, name: &str, scope: &Scope) -> Option<Plan> {
    let found = open(snapshot, scope).into_iter().find(|candidate| candidate.endpoint.name() == name)?;
    Some(anywhere(snapshot, scope, vec![found], "session"))
}

/// Any endpoint, the request as it is.
fn anyone(snapshot: &Snapshot, scope: &Scope, reason: &'static str) -> PlanResult {
    match open(snapshot, scope) {
        none if none.is_empty() => PlanResult::Refused(nobody()),
        candidates => PlanResult::Plan(anywhere(snapshot, scope, candidates, reason)),
    }
}

/// A plan that belongs to no model.
fn anywhere(snapshot: &Snapshot, scope: &Scope, candidates: Vec<Candidate>, reason: &'static str) -> Plan {
    let (strategy, retry) = (strategy(snapshot, scope), retry(snapshot, scope));
    let is_named = candidates.iter().all(|candidate| candidate.rename.is_some());
    let is_short =
        snapshot.enabled().any(|endpoint| !endpoint.is_available() && candidate(0, endpoint, scope).is_some());
    Plan { candidates, strategy, route: turn("", scope), retry, reason, is_named, is_short }
}

/// Every endpoint that could be used now.
fn open(snapshot: &Snapshot, scope: &Scope) -> Vec<Candidate> {
    let all = snapshot.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.is_available());
    in_order(all.filter_map(|(place, endpoint)| candidate(place, endpoint, scope)))
}

/// A group has an order of its own.
fn in_order(candidates: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
    let mut candidates: Vec<_> = candidates.collect();
    candidates.sort_by_key(|candidate| candidate.place);
    candidates
}

/// What `routing.unknownModel` makes of a name that nobody serves, after a refresh.
pub(crate) fn unknown(
    snapshot: &Snapshot,
    query: ModelQuery<'_>,
    scope: &Scope,
    now: Instant,
) -> Result<Plan, Failure> {
    let (name, response) = match query {
        ModelQuery::Named(name) => (name, None),
        ModelQuery::Follow(id, name) => (name.unwrap_or_default(), Some(id)),
        _ => ("", None),
    };
    let planned = match snapshot.config.routing.unknown_model {
        UnknownModel::Error => return Err(not_found(snapshot, name, scope)),
        UnknownModel::Default => any(snapshot, scope, "unknown_model_default"),
        UnknownModel::Passthrough => anyone(snapshot, scope, "passthrough"),
    };
    match planned {
        PlanResult::Plan(plan) => {
            let plan = match response {
                Some(id) => at_home(plan, id),
                None => plan,
            };
            Ok(rested(plan, now))
        }
        PlanResult::Refused(failure) => Err(failure),
        PlanResult::Unknown => Err(not_found(snapshot, name, scope)),
    }
}

/// 404 with what could have been asked for instead; 503 while an endpoint is away that has not told yet what it serves.
pub(crate) fn not_found(snapshot: &Snapshot, name: &str, scope: &Scope) -> Failure {
    if snapshot.enabled().any(|endpoint| endpoint.is_unheard() && candidate(0, endpoint, scope).is_some()) {
        let text = format!(
            "The model `{}` is not known, but an endpoint that has not listed its models yet is unavailable.",
            shown(name)
        );
        return Failure::new(Kind::NoEndpoint, text).param("model").retry_after(COME_BACK);
    }
    let text = format!("The model `{}` is not served here; GET /v1/models lists what is.", shown(name));
    let mut failure = Failure::new(Kind::ModelNotFound, text).param("model");
    failure.available_models = Some(snapshot.listing(scope).names().take(MOST_NAMED).map(str::to_owned).collect());
    failure
}

fn nobody() -> Failure {
    Failure::new(Kind::NoEndpoint, "No endpoint is available at the moment; GET /health says why.")
        .retry_after(COME_BACK)
}

/// An endpoint as it is used within a scope, the client's body as it is.
fn candidate(place: usize, endpoint: &Arc<Endpoint>, scope: &Scope) -> Option<Candidate> {
    let (place, endpoint) = scope.view(place, endpoint)?;
    let context = endpoint.context.filter(|size| *size > 0);
    Some(Candidate { weight: endpoint.config.weight, endpoint, rename: None, place, context })
}

/// A name as it may be echoed: cut to 128 characters, control characters escaped (FAULTS B9).
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(128).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests;
