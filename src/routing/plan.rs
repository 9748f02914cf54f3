//! Plans a request: a pure function from a snapshot, the model asked for and the client's scope to the candidate
//! endpoints.

use crate::api::errors::{Failure, Kind};
use crate::api::prompt::PromptInfo;
use crate::config::{Retry, Route, Strategy, UnknownModel};
use crate::routing::candidate::Candidate;
use crate::routing::catalog::{self, Offer};
use crate::routing::endpoint::Endpoint;
use crate::routing::resolve::{self, Meaning};
use crate::routing::scope::Scope;
use crate::routing::snapshot::Snapshot;
use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `Retry-After` when all endpoints are down: about one probe round.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The reason when candidates were left out because the prompt contains an image.
const VISION: &str = "vision";
/// The longest `available_models` in a 404.
const MOST_MODELS: usize = 50;

/// The candidates of a request, and how to choose among them.
pub(crate) struct Plan {
    /// Available endpoints, in configuration order; empty only if some are asleep.
    pub(crate) candidates: Vec<Candidate>,
    /// Endpoints that can be woken, in configuration order.
    pub(crate) asleep: Vec<Candidate>,
    pub(crate) strategy: Strategy,
    /// The key under which the strategy keeps its round-robin state.
    pub(crate) route: String,
    pub(crate) retry: Retry,
    /// `x-llmproxy-reason`, unless the strategy gives a more specific one.
    pub(crate) reason: &'static str,
    /// The model's name is known to be served.
    pub(crate) is_named: bool,
    /// An endpoint that would be a candidate is unavailable.
    is_degraded: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ModelQuery<'a> {
    Named(&'a str),
    /// No name, an empty one, or `auto`.
    Any,
    /// A path that needs no model if there is only one endpoint (`GET /props`).
    Endpoint,
    /// Any endpoint (`mode: raw`).
    Raw,
    /// A request that refers to an earlier response by id, and its model.
    Follow(&'a str, Option<&'a str>),
    Stored(&'a str),
}

pub(crate) type PlanResult = Result<Plan, NoPlan>;

pub(crate) enum NoPlan {
    /// No endpoint is known to serve this name, so their model lists should be refreshed.
    Unknown,
    Refused(Failure),
}

impl From<Failure> for NoPlan {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Whether the request would benefit from an endpoint that is down.
pub(crate) fn is_degraded(planned: &PlanResult) -> bool {
    match planned {
        Ok(plan) => plan.is_degraded,
        Err(NoPlan::Unknown) => false,
        Err(NoPlan::Refused(failure)) => failure.kind == Kind::NoEndpoint,
    }
}

/// A client's text, safe to be echoed: at most 128 characters, control characters escaped (FAULTS B9).
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(128).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl Plan {
    pub(crate) fn has_edits(&self) -> bool {
        self.candidates.iter().chain(&self.asleep).any(|candidate| !candidate.edits.is_empty())
    }

    pub(crate) fn first(&self) -> &Candidate {
        self.candidates.first().unwrap_or_else(|| &self.asleep[0])
    }

    fn keep(&mut self, takes_images: impl Fn(&Candidate) -> bool) {
        let all = self.candidates.len();
        self.candidates.retain(&takes_images);
        self.asleep.retain(takes_images);
        if self.candidates.len() < all {
            self.reason = VISION;
        }
    }

    fn is_empty(&self) -> bool {
        self.candidates.is_empty() && self.asleep.is_empty()
    }

    /// Narrows the candidates: to the endpoint that stores the response referred to, if it is available; to models
    /// known to accept images, if the prompt contains one and any are known; to endpoints that are not cooling down,
    /// if any remain.
    fn narrowed(mut self, query: ModelQuery<'_>, prompt: &dyn PromptInfo, now: Instant) -> Self {
        let tokens = prompt.tokens();
        self.candidates.iter_mut().chain(&mut self.asleep).for_each(|candidate| candidate.rank_for(tokens));
        if let ModelQuery::Follow(id, _) | ModelQuery::Stored(id) = query {
            let made = |candidate: &Candidate| candidate.endpoint.live.responses.get(id).is_some();
            if let Some(home) = self.candidates.iter().position(made) {
                self.candidates = vec![self.candidates.swap_remove(home)];
                self.reason = "response";
            } else if let (Some(home), ModelQuery::Follow(..)) = (self.asleep.iter().position(made), query) {
                // Only this endpoint has the response, so it is woken even if others are awake.
                (self.candidates, self.asleep) = (Vec::new(), vec![self.asleep.swap_remove(home)]);
                self.reason = "response";
            }
        }
        let accepts_images = |candidate: &Candidate| candidate.vision == Some(true);
        let considered = if self.candidates.is_empty() { &self.asleep } else { &self.candidates };
        if considered.iter().any(accepts_images) && !considered.iter().all(accepts_images) && prompt.has_image() {
            self.keep(accepts_images);
        }
        let is_ready = |candidate: &Candidate| !candidate.endpoint.live.is_cooling(now);
        if self.candidates.iter().any(is_ready) && !self.candidates.iter().all(is_ready) {
            self.candidates.retain(is_ready);
            self.reason = "cool_down";
        }
        self
    }
}

/// A snapshot restricted to a scope.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) scope: &'a Scope,
}

impl<'a> View<'a> {
    pub(crate) fn plan(self, query: ModelQuery<'_>, prompt: &dyn PromptInfo, now: Instant) -> PlanResult {
        let plan = match query {
            ModelQuery::Named(name) | ModelQuery::Follow(_, Some(name)) if self.is_name(name) => {
                self.named(name, prompt)?
            }
            ModelQuery::Named(_) | ModelQuery::Any | ModelQuery::Follow(..) => self.default("default_model", prompt)?,
            ModelQuery::Endpoint => self.only()?,
            ModelQuery::Raw => self.any("raw")?,
            ModelQuery::Stored(_) => self.any("search")?,
        };
        Ok(plan.narrowed(query, prompt, now))
    }

    /// Applies `routing.unknownModel` to a name that is still unknown after a refresh.
    pub(crate) fn unknown(self, query: ModelQuery<'_>, prompt: &dyn PromptInfo, now: Instant) -> Result<Plan, Failure> {
        let plan = match (self.snapshot.config.routing.unknown_model, query) {
            (UnknownModel::Default, _) => self.default("unknown_model_default", prompt),
            (UnknownModel::Passthrough, _) => self.any("passthrough"),
            (_, ModelQuery::Named(name) | ModelQuery::Follow(_, Some(name))) => Err(self.not_found(name)),
            _ => Err(self.not_found("")),
        };
        plan.map(|plan| plan.narrowed(query, prompt, now))
    }

    /// The endpoint of this name, with the request unchanged.
    pub(crate) fn at(self, name: &str) -> Option<Plan> {
        let found = self.usable().find(|(_, one)| one.name() == name && one.is_available())?;
        Some(self.without_model(vec![self.candidate(found, "")], "session"))
    }

    /// Whether a text names a model. `auto` does only if a model, a route or a literal pattern has that name.
    fn is_name(self, name: &str) -> bool {
        let is_listed = |route: &Route| route.patterns.iter().any(|pattern| pattern == name);
        let is_known = || self.is_served(name) || self.snapshot.config.models.iter().any(is_listed);
        !name.is_empty() && (name != "auto" || is_known())
    }

    fn is_served(self, name: &str) -> bool {
        resolve::exact(self.snapshot, name).is_some()
    }

    /// Whether the scope includes a name. The scope of a model includes its variants.
    fn has_name(self, name: &str, meaning: &Meaning<'_>) -> bool {
        let is_within = |name: &str| catalog::within(self.scope, name, |bare| self.is_served(bare));
        is_within(name) || meaning.base().is_some_and(is_within)
    }

    /// The endpoints that serve a name, or else the name with the tag `latest`, or else the route whose pattern it
    /// matches.
    fn named(self, asked: &str, prompt: &dyn PromptInfo) -> PlanResult {
        let exact = |name| Some((name, resolve::exact(self.snapshot, name)?));
        let tagged: OnceCell<String> = OnceCell::new();
        let (name, meaning) = exact(asked)
            .or_else(|| exact(tagged.get_or_init(|| catalog::tagged(asked))))
            .or_else(|| Some((asked, resolve::by_pattern(self.snapshot, asked)?)))
            .unwrap_or_else(|| (asked, Meaning::model(asked)));
        if !self.has_name(name, &meaning) {
            return Err(self.not_found(asked).into());
        }
        let (candidates, route) = (self.meant(&meaning, asked), meaning.route);
        if candidates.is_empty() && (route.is_none_or(Route::is_discovered) || !self.scope.is_all()) {
            return Err(if self.snapshot.is_healthy() { NoPlan::Unknown } else { no_endpoint().into() });
        }
        let plan = self.plan_of(candidates, "model", route.map_or(name, |route| &route.name));
        let strategy = route.and_then(|route| route.strategy).unwrap_or(plan.strategy);
        let mut plan = self.accepting_images(Plan { strategy, is_named: true, ..plan }, asked, prompt)?;
        let all = plan.candidates.len();
        plan.candidates.retain(|candidate| candidate.endpoint.is_available());
        if plan.is_empty() {
            let text = format!("Every endpoint that serves the model `{}` is unavailable at the moment.", shown(asked));
            return Err(Failure::new(Kind::NoEndpoint, text).param("model").retry_after(RETRY_AFTER).into());
        }
        plan.is_degraded = plan.candidates.len() < all || !plan.asleep.is_empty();
        if plan.is_degraded && plan.reason == "model" {
            plan.reason = "failover";
        }
        Ok(plan)
    }

    /// The endpoints of a model, available or not. The model is renamed where an endpoint has it under another name.
    fn meant(self, meaning: &Meaning<'_>, asked: &str) -> Vec<Candidate> {
        let candidates = match meaning.route.filter(|route| !route.is_discovered()) {
            Some(route) => self.routed(route),
            None => self.discovered(meaning.model),
        };
        candidates.into_iter().map(|candidate| candidate.meant(meaning, asked)).collect()
    }

    /// Drops models that are known not to accept images, if the prompt contains one.
    fn accepting_images(self, mut plan: Plan, asked: &str, prompt: &dyn PromptInfo) -> Result<Plan, Failure> {
        let rejects_images = |candidate: &Candidate| candidate.vision == Some(false);
        if plan.candidates.iter().chain(&plan.asleep).any(rejects_images) && prompt.has_image() {
            plan.keep(|candidate| !rejects_images(candidate));
            if plan.is_empty() {
                return Err(self.no_vision(asked));
            }
        }
        Ok(plan)
    }

    fn routed(self, route: &Route) -> Vec<Candidate> {
        let backends = route.backends.iter().enumerate().filter(|(_, backend)| backend.enabled);
        let candidates = backends.filter_map(|(position, backend)| {
            let (_, endpoint) = self.endpoints().find(|(_, endpoint)| endpoint.name() == backend.endpoint)?;
            let candidate = self.candidate((position, endpoint), backend.model.as_deref().unwrap_or(&route.name));
            Some(Candidate {
                rename: backend.model.clone(),
                weight: backend.weight.unwrap_or(candidate.weight),
                vision: backend.vision.or(candidate.vision),
                under: backend.under,
                ..candidate
            })
        });
        candidates.collect()
    }

    /// The endpoints with a configured or discovered model of this name.
    fn discovered(self, name: &str) -> Vec<Candidate> {
        let serves = |(_, endpoint): &(usize, &Arc<Endpoint>)| self.offer(name, endpoint).is_some();
        self.endpoints().filter(serves).map(|one| self.candidate(one, name)).collect()
    }

    fn offer(self, model: &str, endpoint: &Endpoint) -> Option<&'a Offer> {
        let mut offers = self.snapshot.catalog.offers(model).iter();
        offers.find(|offer| Arc::ptr_eq(&self.snapshot.endpoints[offer.endpoint].live, &endpoint.live))
    }

    fn default(self, reason: &'static str, prompt: &dyn PromptInfo) -> Result<Plan, Failure> {
        let with_model = self.usable().filter_map(|one @ (position, endpoint)| {
            let model = endpoint.default_model()?;
            let meaning = resolve::exact(self.snapshot, model).unwrap_or_else(|| Meaning::model(model));
            // In format 003 a default model may be a route, which has another name at the endpoint.
            let here = self.meant(&meaning, "").into_iter().find(|other| other.endpoint.name() == endpoint.name());
            let mut backends = meaning.route.iter().flat_map(|route| &route.backends);
            let is_off = here.is_none() && backends.any(|backend| backend.endpoint == endpoint.name());
            if is_off || !self.has_name(model, &meaning) {
                return None;
            }
            let other = || self.candidate(one, meaning.model).meant(&meaning, "");
            let weight = endpoint.config.weight;
            Some(Candidate { position, weight, ..here.unwrap_or_else(other) })
        });
        let candidates: Vec<_> = with_model.collect();
        if !candidates.is_empty() {
            return self.accepting_images(self.without_model(candidates, reason), "", prompt);
        }
        if !self.snapshot.endpoints.iter().any(|endpoint| endpoint.is_available()) {
            return Err(no_endpoint());
        }
        let text = "The request names no model, and there is no default model; set `model` in the body.";
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

    /// All endpoints, with the request unchanged.
    fn any(self, reason: &'static str) -> Result<Plan, Failure> {
        let candidates: Vec<_> = self.usable().map(|one| self.candidate(one, "")).collect();
        if candidates.is_empty() { Err(no_endpoint()) } else { Ok(self.without_model(candidates, reason)) }
    }

    fn without_model(self, candidates: Vec<Candidate>, reason: &'static str) -> Plan {
        let is_degraded = self.endpoints().any(|(_, endpoint)| !endpoint.is_available());
        Plan { is_degraded, ..self.plan_of(candidates, reason, "") }
    }

    fn plan_of(self, mut candidates: Vec<Candidate>, reason: &'static str, name: &str) -> Plan {
        let (config, group) = (&self.snapshot.config, self.scope.group.as_ref().map(|group| &group.config));
        let is_named = candidates.iter().all(|candidate| candidate.rename.is_some());
        Plan {
            asleep: candidates.extract_if(.., |candidate| candidate.endpoint.is_asleep()).collect(),
            strategy: group.and_then(|group| group.strategy).unwrap_or(config.routing.strategy),
            // Each group has its own round-robin state.
            route: group.map_or_else(|| name.to_owned(), |group| format!("{}\0{name}", group.name)),
            retry: group.and_then(|group| group.retry.as_ref()).unwrap_or(&config.retry).clone(),
            reason,
            is_named,
            is_degraded: false,
            candidates,
        }
    }

    /// The enabled endpoints with their positions, in the order of the configuration or of the group.
    fn endpoints(self) -> impl Iterator<Item = (usize, &'a Arc<Endpoint>)> {
        let all = match &self.scope.group {
            // The scope may come from an older snapshot.
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

    /// An endpoint for a model, with the body unchanged.
    fn candidate(self, (position, endpoint): (usize, &Arc<Endpoint>), model: &str) -> Candidate {
        let own = endpoint.props.context.filter(|size| *size > 0);
        let offer = self.offer(model, endpoint);
        let loaded = offer.and_then(|offer| offer.loaded).or_else(|| endpoint.has_loaded(model));
        Candidate {
            endpoint: Arc::clone(endpoint),
            rename: None,
            weight: endpoint.config.weight,
            position,
            context: own.or_else(|| offer?.context),
            edits: Arc::default(),
            stabilize: endpoint.config.stabilize.is_some() && resolve::may_stabilize(endpoint),
            vision: offer.and_then(|offer| offer.vision).or(endpoint.props.vision),
            under: None,
            rank: (0, !model.is_empty() && loaded == Some(false)),
        }
    }

    /// A 400 that names the models that accept images.
    fn no_vision(self, asked: &str) -> Failure {
        let takes_images = |name: &&str| {
            let candidates =
                resolve::exact(self.snapshot, name).map(|meaning| self.meant(&meaning, name)).unwrap_or_default();
            candidates.iter().any(|candidate| candidate.vision == Some(true))
        };
        let listing = self.snapshot.listing(self.scope);
        let names: Vec<String> =
            listing.names().filter(takes_images).take(MOST_MODELS).map(|name| format!("`{}`", shown(name))).collect();
        let others = match names.as_slice() {
            [] => "and no other model here is known to".to_owned(),
            names => format!("these do: {}", names.join(", ")),
        };
        let model = if asked.is_empty() { "default model".into() } else { format!("model `{}`", shown(asked)) };
        Failure::new(Kind::InvalidBody, format!("The {model} takes no images; {others}.")).param("model")
    }

    /// A 404 that names the available models, or a 503 while an unavailable endpoint has not listed its models yet.
    pub(crate) fn not_found(self, name: &str) -> Failure {
        let name = shown(name);
        if self.endpoints().any(|(_, endpoint)| endpoint.is_unheard()) {
            let text = format!(
                "The model `{name}` is not known, but an endpoint that has not listed its models yet is unavailable."
            );
            return Failure::new(Kind::NoEndpoint, text).param("model").retry_after(RETRY_AFTER);
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
        .retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests;
