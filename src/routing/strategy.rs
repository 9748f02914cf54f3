//! The order in which candidates are tried: a pure function of who could, how busy each is, whose turn it is,
//! and chance (SPEC section 5).

use crate::config::Strategy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CandidateLoad {
    /// Its position among all of its route, available or not: what a turn is remembered by.
    pub(crate) position: usize,
    pub(crate) weight: u16,
    pub(crate) load: Load,
    pub(crate) rank: Rank,
}

/// What comes before the strategy: the lowest is tried first, as long as it has room. By the length of the prompt, and whether
/// the server says that it would have to load the model.
pub(crate) type Rank = (u64, bool);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests of ours that are there.
    pub(crate) in_flight: u32,
    /// Its `maxConcurrent`; `None` = no limit known.
    pub(crate) limit: Option<u32>,
}

impl Load {
    pub(crate) fn has_room(self) -> bool {
        self.limit.is_none_or(|limit| self.in_flight < limit)
    }
}

/// Whose turn it is on one route. Outlives snapshots; a few bytes for each candidate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    last: Option<usize>,
    /// The credit of each position, for the smooth rotation.
    credits: Vec<i64>,
}

/// Indexes into `loads`, first choice first: by rank, and in the order of the strategy among equals. Those without room come
/// last. Only the first group takes a turn: the others are passed over, and tried only when it has no room, or fails.
pub(crate) fn order(
    strategy: Strategy,
    loads: &[CandidateLoad],
    turn: &mut Turn,
    unit: &mut dyn FnMut() -> f64,
) -> Vec<usize> {
    let key = |index: &usize| (!loads[*index].load.has_room(), loads[*index].rank);
    let mut order: Vec<usize> = (0..loads.len()).collect();
    order.sort_by_key(key);
    let before = turn.clone();
    for (n, group) in order.chunk_by_mut(|a, b| key(a) == key(b)).enumerate() {
        let mut unmoved = before.clone();
        let turn = if n == 0 && loads[group[0]].load.has_room() { &mut *turn } else { &mut unmoved };
        match strategy {
            Strategy::Failover => {}
            Strategy::RoundRobin => rotate(group, loads, turn),
            Strategy::WeightedRoundRobin => smooth(group, loads, turn),
            Strategy::Random => draw(group, loads, unit),
            Strategy::LeastBusy | Strategy::Affinity => least_busy(group, loads, turn),
        }
    }
    order
}

/// The one after the last, then the others as they follow it.
fn rotate(group: &mut [usize], loads: &[CandidateLoad], turn: &mut Turn) {
    let after = |&index: &usize| turn.last.is_some_and(|last| loads[index].position > last);
    group.rotate_left(group.iter().position(after).unwrap_or(0));
    turn.last = Some(loads[group[0]].position);
}

/// nginx's smooth weighted rotation: each candidate earns its weight, the one with the most credit is next and pays what
/// all earned.
fn smooth(group: &mut [usize], loads: &[CandidateLoad], turn: &mut Turn) {
    let positions = loads.iter().map(|one| one.position + 1).max().unwrap_or(0);
    let credits = &mut turn.credits;
    credits.resize(credits.len().max(positions), 0);
    let mut total = 0;
    for &index in &*group {
        let CandidateLoad { position, weight, .. } = loads[index];
        credits[position] += i64::from(weight);
        total += i64::from(weight);
    }
    // Among equals the one that stands first; a stable sort keeps that.
    group.sort_by_key(|&index| std::cmp::Reverse(credits[loads[index].position]));
    credits[loads[group[0]].position] -= total;
}

fn draw(mut group: &mut [usize], loads: &[CandidateLoad], unit: &mut dyn FnMut() -> f64) {
    while !group.is_empty() {
        let total: f64 = group.iter().map(|&index| f64::from(loads[index].weight)).sum();
        let mut at = unit() * total;
        let hit = group.iter().position(|&index| {
            at -= f64::from(loads[index].weight);
            at < 0.0
        });
        let hit = hit.unwrap_or(group.len() - 1);
        group[..=hit].rotate_right(1);
        group = &mut group[1..];
    }
}

/// Fewest in flight for its capacity first; among equals, in rotation.
fn least_busy(group: &mut [usize], loads: &[CandidateLoad], turn: &mut Turn) {
    rotate(group, loads, turn);
    // Without a known limit it is taken for as large as the largest that has one.
    let largest = loads.iter().filter_map(|one| one.load.limit).max().unwrap_or(1);
    let share = |index: usize| {
        let Load { in_flight, limit } = loads[index].load;
        f64::from(in_flight) / f64::from(limit.unwrap_or(largest).max(1))
    };
    group.sort_by(|&a, &b| share(a).total_cmp(&share(b)));
    turn.last = Some(loads[group[0]].position);
}

#[cfg(test)]
mod tests;
