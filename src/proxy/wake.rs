//! Wakes the machines of endpoints (`wake`): sends magic packets and waits, with pings to the client, until a probe
//! succeeds. A waiting request occupies a worker but no slot, so at most `server.workers` requests wait.

use super::outcome::{ForwardContext, Outcome};
use super::retry;
use super::select::Selector;
use crate::api::errors::{Failure, Kind};
use crate::config::{Mac, Prefer, Wake};
use crate::routing::candidate::Candidate;
use crate::routing::health_status::State;
use crate::routing::plan::{NoPlan, Plan, View};
use crate::upstream::UpstreamError;
use crate::util::time;
use crate::util::units::print_duration;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// How often a waiting request checks for an endpoint that is awake.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// Delay of the first check after a failed connection attempt, until the health thread knows of it.
const SETTLE: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Waits until an endpoint of the plan is awake, if all are asleep or the strategy chooses one that is
/// (`wake.prefer: wake`). Returns an up-to-date plan.
///
/// # Errors
/// How the request ends instead.
pub(super) fn awake(ctx: &ForwardContext<'_>, plan: Plan) -> Result<Plan, Box<Outcome>> {
    if plan.asleep.is_empty() { Ok(plan) } else { hold(ctx, plan, time::now(), false) }
}

/// Whether an endpoint that this request may wake has a larger context (any known one if this is unknown), and another
/// attempt is allowed; `retry.attempts: auto` counts only what is awake.
pub(super) fn has_larger(ctx: &ForwardContext<'_>, plan: &Plan, context: Option<u64>, attempts_left: bool) -> bool {
    let is_larger = |one: &Candidate| one.context > context && may_wake(ctx, one);
    (attempts_left || plan.retry.attempts.is_none()) && ctx.takes_slot() && plan.asleep.iter().any(is_larger)
}

/// The plan of the endpoints with a larger context, once one that was asleep is awake; `None` if none can be woken in time.
///
/// # Errors
/// How the request ends instead.
pub(super) fn larger(ctx: &ForwardContext<'_>, mut plan: Plan, context: u64) -> Result<Option<Plan>, Box<Outcome>> {
    let context = Some(context);
    if !has_larger(ctx, &plan, context, true) {
        return Ok(None);
    }
    plan.candidates.clear();
    plan.asleep.retain(|one| one.context > context);
    let mut plan = hold(ctx, plan, time::now(), true)?;
    plan.candidates.retain(|one| one.context > context);
    Ok(Some(plan).filter(|plan| !plan.candidates.is_empty()))
}

/// Whether waking may help: no candidate could be connected to, so that nothing was sent, and one of them can be woken.
pub(super) fn may_help(ctx: &ForwardContext<'_>, plan: &Plan, faults: &[(String, UpstreamError)]) -> bool {
    let is_failed = |one: &Candidate| faults.iter().any(|(name, _)| name == one.endpoint.name());
    plan.candidates.iter().chain(&plan.asleep).any(can_be_woken)
        && ctx.takes_slot()
        && plan.candidates.iter().all(is_failed)
        && faults.iter().all(|(_, fault)| retry::is_unconnected(fault))
}

/// As [`awake`], after [`may_help`] returned true.
pub(super) fn after_failure(ctx: &ForwardContext<'_>, mut plan: Plan) -> Result<Plan, Box<Outcome>> {
    plan.asleep.extend(plan.candidates.drain(..).filter(can_be_woken));
    hold(ctx, plan, time::now() + SETTLE, false)
}

fn can_be_woken(candidate: &Candidate) -> bool {
    candidate.endpoint.config.wake.is_some()
}

/// Whether this request may wake an endpoint, if no other one can answer.
fn may_wake(ctx: &ForwardContext<'_>, candidate: &Candidate) -> bool {
    candidate.endpoint.config.wake.is_some_and(|wake| wake.background || !ctx.background)
}

/// `is_particular`: others that are awake are of no use.
fn hold(ctx: &ForwardContext<'_>, plan: Plan, check_at: Instant, is_particular: bool) -> Result<Plan, Box<Outcome>> {
    let is_last = plan.candidates.is_empty();
    let (plan, targets) = targets(ctx, plan);
    if targets.is_empty() && !is_last {
        return Ok(plan);
    }
    ctx.client.hold_pings(plan.asleep.iter().any(|candidate| ctx.is_streamless(candidate)));
    let hold = Hold { ctx, is_last: is_last && !is_particular, check_at };
    if targets.is_empty() {
        return hold.without_packets(&plan.asleep[0]);
    }
    let mut names = Vec::new();
    for target in targets {
        let Some(Wake { timeout, .. }) = target.endpoint.config.wake else { continue };
        names.push(format!("`{}` (wake.timeout: {})", target.endpoint.name(), print_duration(timeout)));
        let _waking = target.endpoint.live.waking();
        if let Some(plan) = hold.wait(target, true, timeout)? {
            return Ok(plan);
        }
    }
    match fresh_plan(ctx) {
        Ok(plan) if !plan.candidates.is_empty() => Ok(plan),
        _ => Err(failed_with(Kind::UpstreamTimeout, format!("Did not wake in time: {}.", names.join(", ")))),
    }
}

/// The endpoints that this request may wake, in order; if others are awake, only the one that the strategy chooses.
fn targets(ctx: &ForwardContext<'_>, mut plan: Plan) -> (Plan, Vec<Candidate>) {
    let is_last = plan.candidates.is_empty();
    let is_preferred = |wake: Wake| is_last || wake.prefer == Prefer::Wake;
    let is_target =
        |one: &&Candidate| ctx.takes_slot() && may_wake(ctx, one) && one.endpoint.config.wake.is_some_and(is_preferred);
    let mut targets: Vec<Candidate> = plan.asleep.iter().filter(is_target).cloned().collect();
    if !is_last && !targets.is_empty() {
        plan.candidates.append(&mut targets);
        plan.candidates.sort_by_key(|one| one.position);
        let selector = Selector::new(ctx, plan);
        let first = selector.first_choice();
        plan = selector.plan;
        targets.extend(plan.candidates.get(first).filter(|one| !one.endpoint.is_available()).cloned());
        plan.candidates.retain(|one| one.endpoint.is_available());
    }
    // A machine that is already waking up comes first.
    targets.sort_by_key(|one| !one.endpoint.live.is_waking());
    (plan, targets)
}

struct Hold<'a> {
    ctx: &'a ForwardContext<'a>,
    /// No endpoint was awake, so that the first one awake ends the wait.
    is_last: bool,
    check_at: Instant,
}

impl Hold<'_> {
    /// Handles a request that must not wake anything: a background request waits for `queue.timeout`, others fail. A
    /// job fails, too, as it has a queue of its own.
    fn without_packets(&self, sleeper: &Candidate) -> Result<Plan, Box<Outcome>> {
        let ForwardContext { client, snapshot, .. } = self.ctx;
        if !self.ctx.takes_slot() || client.is_collected() {
            let text = "All matching endpoints are asleep (see GET /health); a chat request wakes them.";
            return Err(failed_with(Kind::Asleep, text));
        }
        let text = "No endpoint was awake within queue.timeout, and background requests do not wake them.";
        let plan = self.wait(sleeper.clone(), false, snapshot.config.queue.timeout)?;
        plan.ok_or_else(|| failed_with(Kind::QueueTimeout, text))
    }

    /// Waits until the target is awake; `None` after `limit`.
    fn wait(&self, mut target: Candidate, sends: bool, limit: Duration) -> Result<Option<Plan>, Box<Outcome>> {
        let ctx = self.ctx;
        let name = target.endpoint.name().to_owned();
        let is_target = |one: &Candidate| one.endpoint.name() == name;
        let until = time::now() + limit;
        ctx.active.at(&name);
        loop {
            let now = time::now();
            if ctx.shared.capacity.is_closed() {
                return Err(failed_with(Kind::Draining, "The proxy is being stopped."));
            }
            if now >= self.check_at {
                let mut plan = fresh_plan(ctx).map_err(|failure| Outcome::Failed(failure, None))?;
                let sleeper = plan.asleep.iter().find(|one| is_target(one));
                if !plan.candidates.is_empty() && (self.is_last || sleeper.is_none()) {
                    if sends && plan.candidates.iter().any(is_target) {
                        plan.reason = "woken";
                    }
                    return Ok(Some(plan));
                }
                // A reload may have changed its `wake` settings.
                target = sleeper.cloned().unwrap_or(target);
            }
            if now >= until {
                return Ok(None);
            }
            // An endpoint that is loading its model is awake.
            if sends && target.endpoint.health.state != State::Loading && target.endpoint.live.takes_packet(now) {
                send_packet(&target);
            }
            ctx.shared.want();
            if ctx.pause(CHECK_EVERY.min(until - now)) {
                return Err(Outcome::ClientGone(None).into());
            }
        }
    }
}

fn fresh_plan(ctx: &ForwardContext<'_>) -> Result<Plan, Failure> {
    let (snapshot, query, now) = (ctx.shared.load(), ctx.body.query(), time::now());
    let view = View { snapshot: &snapshot, scope: ctx.scope };
    match view.plan(query, ctx.body, now) {
        Ok(plan) => Ok(plan),
        Err(NoPlan::Refused(failure)) => Err(failure),
        Err(NoPlan::Unknown) => view.unknown(query, ctx.body, now),
    }
}

fn failed_with(kind: Kind, text: impl Into<String>) -> Box<Outcome> {
    Outcome::Failed(Failure::new(kind, text).retry_after(RETRY_AFTER), None).into()
}

fn send_packet(target: &Candidate) {
    let (name, Some(Wake { mac, via, .. })) = (target.endpoint.name(), target.endpoint.config.wake) else { return };
    let sent = UdpSocket::bind(if via.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).and_then(|socket| {
        socket.set_broadcast(true)?;
        socket.send_to(&magic_packet(mac), via)
    });
    match sent {
        Ok(_) => log::info!("endpoint {name}: magic packet sent to {via}"),
        Err(error) => log::warn!("endpoint {name}: cannot send a magic packet to {via}: {error}"),
    }
}

/// Six bytes 0xff, then the address sixteen times (AMD, "Magic Packet Technology", publication 20213).
fn magic_packet(Mac(mac): Mac) -> [u8; 102] {
    std::array::from_fn(|at| if at < 6 { 0xff } else { mac[at % 6] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magic_packet_is_six_bytes_of_ones_and_the_address_sixteen_times() {
        let mac = [0, 0x11, 0x22, 0xaa, 0xbb, 0xcc];
        let packet = magic_packet(Mac(mac));
        assert_eq!(packet[..6], [0xff; 6]);
        assert_eq!(packet[6..].chunks(6).filter(|part| *part == mac).count(), 16);
    }
}
