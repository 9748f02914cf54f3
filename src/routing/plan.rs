//! Where a request may go: a pure function of a snapshot, what was asked, and by whom.

use crate::api::errors::{Failure, Kind};
use crate::config::{Retry, Route, Strategy, UnknownModel};
use crate::routing::catalog::{self, Offer};
use crate::routing::endpoint::Endpoint;
use crate::routing::scope::Scope;
use crate::routing::snapshot::Snapshot;
use crate::routing::strategy::CandidateLoad;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon a client should come back when every endpoint is down: a probe round may bring one back.
const COME_BACK: Duration = Duration::from_secs(5);
/// `available_models` in an answer about an unknown one.
const MOST_MODELS: usize = 50;

#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) endpoint: Arc<Endpoint>,
    /// The name to send instead of the client's; `None` leaves the body as it is.
    pub(crate) rename: Option<String>,
    pub(crate) weight: u16,
    /// Its position on the route, available or not.
    pub(crate) position: usize,
    /// How many tokens fit into its context: as it says of itself, else of this model.
    pub(crate) context: Option<u64>,
}

impl Candidate {
    pub(crate) fn load(&self) -> CandidateLoad {
        CandidateLoad { position: self.position, weight: self.weight, load: self.endpoint.live.load() }
    }
}

/// The candidates, and how to choose among them.
pub(crate) struct Plan {
    /// Available, in the order of the file; empty only if some are asleep.
    pub(crate) candidates: Vec<Candidate>,
    /// Those that can be woken, in the order of the file.
    pub(crate) asleep: Vec<Candidate>,
    pub(crate) strategy: Strategy,
    /// The name under which the strategy remembers whose turn it is.
    pub(crate) route: String,
    pub(crate) retry: Retry,
    /// `x-llmproxy-reason`: why the first is the first, as long as the strategy has no word of its own.
    pub(crate) reason: &'static str,
    /// Some endpoint is known to serve the model's name.
    pub(crate) is_named: bool,
    /// An endpoint that is down would be a candidate too.
    is_short: bool,
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
    Stored(&'a str),
}

pub(crate) type PlanResult = Result<Plan, NoPlan>;

pub(crate) enum NoPlan {
    /// No endpoint is known to serve this name: worth asking them once more.
    Unknown,
    Refused(Failure),
}

impl From<Failure> for NoPlan {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Whether an endpoint that is down could be of use.
pub(crate) fn is_short(planned: &PlanResult) -> bool {
    match planned {
        Ok(plan) => plan.is_short,
        Err(NoPlan::Unknown) => false,
        Err(NoPlan::Refused(failure)) => failure.kind == Kind::NoEndpoint,
    }
}

/// A name as it may be echoed: cut to 128 characters, control characters escaped (FAULTS B9).
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(128).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl Plan {
    /// The first candidate, awake or asleep.
    pub(crate) fn first(&self) -> &Candidate {
        self.candidates.first().unwrap_or_else(|| &self.asleep[0])
    }

    /// Only where the response was made, since it is not known elsewhere; all others while that endpoint is away. Without
    /// endpoints that are cooling down, as long as another one remains.
    fn narrowed(mut self, query: ModelQuery<'_>, now: Instant) -> Self {
        if let ModelQuery::Follow(id, _) | ModelQuery::Stored(id) = query {
            let made = |candidate: &Candidate| candidate.endpoint.live.responses.get(id).is_some();
            if let Some(home) = self.candidates.iter().position(made) {
                self.candidates = vec![self.candidates.swap_remove(home)];
                self.reason = "response";
            } else if let (Some(home), ModelQuery::Follow(..)) = (self.asleep.iter().position(made), query) {
                // No other one has that response, so it is woken even if others are awake.
                (self.candidates, self.asleep) = (Vec::new(), vec![self.asleep.swap_remove(home)]);
                self.reason = "response";
            }
        }
        let is_ready = |candidate: &Candidate| !candidate.endpoint.live.is_cooling(now);
        if self.candidates.iter().any(is_ready) && !self.candidates.iter().all(is_ready) {
            self.candidates.retain(is_ready);
            self.reason = "cool_down";
        }
        self
    }
}

/// A snapshot within a scope.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) scope: &'a Scope,
}

impl<'a> View<'a> {
    pub(crate) fn plan(self, query: ModelQuery<'_>, now: Instant) -> PlanResult {
        let plan = match query {
            ModelQuery::Named(name) | ModelQuery::Follow(_, Some(name)) if self.is_name(name) => self.named(name)?,
            ModelQuery::Named(_) | ModelQuery::Any | ModelQuery::Follow(..) => self.default("default_model")?,
            ModelQuery::Endpoint => self.only()?,
            ModelQuery::Raw => self.any("raw")?,
            ModelQuery::Stored(_) => self.any("search")?,
        };
        Ok(plan.narrowed(query, now))
    }

    /// What `routing.unknownModel` makes of a name that no endpoint serves, after a refresh.
    pub(crate) fn unknown(self, query: ModelQuery<'_>, now: Instant) -> Result<Plan, Failure> {
        let plan = match (self.snapshot.config.routing.unknown_model, query) {
            (UnknownModel::Default, _) => self.default("unknown_model_default"),
            (UnknownModel::Passthrough, _) => self.any("passthrough"),
            (_, ModelQuery::Named(name) | ModelQuery::Follow(_, Some(name))) => Err(self.not_found(name)),
            _ => Err(self.not_found("")),
        };
        plan.map(|plan| plan.narrowed(query, now))
    }

    /// The one endpoint that has what is asked about, the request as it is.
    pub(crate) fn at(self, name: &str) -> Option<Plan> {
        let found = self.usable().find(|(_, one)| one.name() == name && one.is_available())?;
        Some(self.without_model(vec![self.candidate(found, "")], "session"))
    }

    /// Whether a text names a model: an empty one does not, and `auto` only if a model is really called that.
    fn is_name(self, name: &str) -> bool {
        !name.is_empty() && (name != "auto" || self.is_served(name))
    }

    fn route(self, name: &str) -> Option<&'a Route> {
        self.snapshot.config.models.iter().find(|route| route.name == name)
    }

    fn is_served(self, name: &str) -> bool {
        !self.snapshot.catalog.offers(name).is_empty() || self.route(name).is_some()
    }

    /// The endpoints that serve a name, or the same name with the tag `latest` where only that is served.
    fn named(self, asked: &str) -> PlanResult {
        let tagged = || Some(catalog::tagged(asked)).filter(|tagged| self.is_served(tagged));
        let tagged = if self.is_served(asked) { None } else { tagged() };
        let name = tagged.as_deref().unwrap_or(asked);
        if !catalog::within(self.scope, name, |bare| self.is_served(bare)) {
            return Err(self.not_found(asked).into());
        }
        let route = self.route(name);
        let mut candidates = match route {
            Some(route) => self.routed(route),
            None => self.discovered(name),
        };
        if candidates.is_empty() && (route.is_none() || !self.scope.is_all()) {
            return Err(if self.snapshot.is_healthy() { NoPlan::Unknown } else { no_endpoint().into() });
        }
        let is_short = !candidates.iter().all(|candidate| candidate.endpoint.is_available());
        candidates.retain(|candidate| is_usable(&candidate.endpoint));
        if candidates.is_empty() {
            let text = format!("Every endpoint that serves the model `{}` is unavailable at the moment.", shown(name));
            return Err(Failure::new(Kind::NoEndpoint, text).param("model").retry_after(COME_BACK).into());
        }
        if let Some(tagged) = &tagged {
            for candidate in &mut candidates {
                candidate.rename.get_or_insert_with(|| tagged.clone());
            }
        }
        let plan = self.plan_of(candidates, if is_short { "failover" } else { "model" }, name);
        let strategy = route.and_then(|route| route.strategy).unwrap_or(plan.strategy);
        Ok(Plan { strategy, is_named: true, is_short, ..plan })
    }

    fn routed(self, route: &Route) -> Vec<Candidate> {
        let backends = route.backends.iter().enumerate().filter(|(_, backend)| backend.enabled);
        let candidates = backends.filter_map(|(position, backend)| {
            let (_, endpoint) = self.endpoints().find(|(_, endpoint)| endpoint.name() == backend.endpoint)?;
            let rename = backend.model.clone().filter(|model| *model != route.name);
            let candidate = self.candidate((position, endpoint), rename.as_deref().unwrap_or(&route.name));
            Some(Candidate { rename, weight: backend.weight.unwrap_or(candidate.weight), ..candidate })
        });
        candidates.collect()
    }

    /// Every endpoint that serves a name, configured or discovered.
    fn discovered(self, name: &str) -> Vec<Candidate> {
        let serves = |(_, endpoint): &(usize, &Arc<Endpoint>)| self.offer(name, endpoint).is_some();
        self.endpoints().filter(serves).map(|one| self.candidate(one, name)).collect()
    }

    fn offer(self, model: &str, endpoint: &Endpoint) -> Option<&'a Offer> {
        let mut offers = self.snapshot.catalog.offers(model).iter();
        offers.find(|offer| Arc::ptr_eq(&self.snapshot.endpoints[offer.endpoint].live, &endpoint.live))
    }

    fn default(self, reason: &'static str) -> Result<Plan, Failure> {
        let with_model = self.usable().filter_map(|one @ (_, endpoint)| {
            let model = endpoint.default_model().filter(|model| self.scope.has_model(model))?;
            // Where the model is a route (format 003), the endpoint knows it by another name.
            let backends = self.route(model).into_iter().flat_map(|route| &route.backends);
            let mut backends = backends.filter(|backend| backend.endpoint == endpoint.name());
            let rename = backends.find_map(|backend| backend.model.as_deref()).unwrap_or(model);
            Some(Candidate { rename: Some(rename.to_owned()), ..self.candidate(one, rename) })
        });
        let candidates: Vec<_> = with_model.collect();
        if !candidates.is_empty() {
            return Ok(self.without_model(candidates, reason));
        }
        if !self.snapshot.endpoints.iter().any(|endpoint| endpoint.is_available()) {
            return Err(no_endpoint());
        }
        let text = "The request names no model, and no endpoint has one to stand in; set `model` in the body.";
        Err(Failure::new(Kind::ModelRequired, text).param("model"))
    }

    fn only(self) -> Result<Plan, Failure> {
        let mut all = self.endpoints();
        match (all.next(), all.next()) {
            (Some(_), Some(_)) => {
                let text = "Several endpoints could answer this; add ?model=NAME to say which.";
                Err(Failure::new(Kind::ModelRequired, text).param("model"))
            }
            (Some(one), None) if one.1.is_available() => {
                Ok(self.without_model(vec![self.candidate(one, "")], "only_endpoint"))
            }
            _ => Err(no_endpoint()),
        }
    }

    /// Any endpoint, the request as it is.
    fn any(self, reason: &'static str) -> Result<Plan, Failure> {
        let candidates: Vec<_> = self.usable().map(|one| self.candidate(one, "")).collect();
        if candidates.is_empty() { Err(no_endpoint()) } else { Ok(self.without_model(candidates, reason)) }
    }

    fn without_model(self, candidates: Vec<Candidate>, reason: &'static str) -> Plan {
        let is_short = self.endpoints().any(|(_, endpoint)| !endpoint.is_available());
        Plan { is_short, ..self.plan_of(candidates, reason, "") }
    }

    fn plan_of(self, mut candidates: Vec<Candidate>, reason: &'static str, name: &str) -> Plan {
        let (config, group) = (&self.snapshot.config, self.scope.group.as_ref().map(|group| &group.config));
        let is_named = candidates.iter().all(|candidate| candidate.rename.is_some());
        Plan {
            asleep: candidates.extract_if(.., |candidate| candidate.endpoint.is_asleep()).collect(),
            strategy: group.and_then(|group| group.strategy).unwrap_or(config.routing.strategy),
            // Each group has turns of its own.
            route: group.map_or_else(|| name.to_owned(), |group| format!("{}\0{name}", group.name)),
            retry: group.and_then(|group| group.retry.as_ref()).unwrap_or(&config.retry).clone(),
            reason,
            is_named,
            is_short: false,
            candidates,
        }
    }

    /// The enabled endpoints with their positions, in the order of the file; a group has an order of its own.
    fn endpoints(self) -> impl Iterator<Item = (usize, &'a Arc<Endpoint>)> {
        let all = match &self.scope.group {
            // As it is in this snapshot: the scope may be an older one's.
            Some(group) => {
                &self.snapshot.groups.iter().find(|one| one.config.name == group.config.name).unwrap_or(group).endpoints
            }
            None => &self.snapshot.endpoints,
        };
        let is_within = move |e: &Endpoint| e.config.enabled && self.scope.has_endpoint(e.name());
        all.iter().enumerate().filter(move |(_, endpoint)| is_within(endpoint))
    }

    fn usable(self) -> impl Iterator<Item = (usize, &'a Arc<Endpoint>)> {
        self.endpoints().filter(|(_, endpoint)| is_usable(endpoint))
    }

    /// An endpoint for a model, the client's body as it is.
    fn candidate(self, (position, endpoint): (usize, &Arc<Endpoint>), model: &str) -> Candidate {
        let own = endpoint.context.filter(|size| *size > 0);
        let context = own.or_else(|| self.offer(model, endpoint)?.context);
        Candidate { endpoint: Arc::clone(endpoint), rename: None, weight: endpoint.config.weight, position, context }
    }

    /// 404 with what could have been asked for instead; 503 while an endpoint is away that has not listed its models yet.
    pub(crate) fn not_found(self, name: &str) -> Failure {
        let name = shown(name);
        if self.endpoints().any(|(_, endpoint)| endpoint.is_unheard()) {
            let text = format!(
                "The model `{name}` is not known, but an endpoint that has not listed its models yet is unavailable."
            );
            return Failure::new(Kind::NoEndpoint, text).param("model").retry_after(COME_BACK);
        }
        let text = format!("The model `{name}` is not served here; GET /v1/models lists what is.");
        let listing = self.snapshot.listing(self.scope);
        let available_models = Some(listing.names().take(MOST_MODELS).map(str::to_owned).collect());
        Failure { available_models, ..Failure::new(Kind::ModelNotFound, text).param("model") }
    }
}

fn is_usable(endpoint: &Endpoint) -> bool {
    endpoint.is_available() || endpoint.is_asleep()
}

fn no_endpoint() -> Failure {
    Failure::new(Kind::NoEndpoint, "No endpoint is available at the moment; GET /health says why.")
        .retry_after(COME_BACK)
}

#[cfg(test)]
mod tests;
