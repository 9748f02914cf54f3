//! The order in which candidates are tried: a pure function of the candidates, their loads, the route's turn and
//! chance (SPEC section 5).

use crate::config::Strategy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CandidateLoad {
    /// Its position on the route, counting unavailable ones; turns are remembered by it.
    pub(crate) position: usize,
    pub(crate) weight: u16,
    pub(crate) load: Load,
    pub(crate) rank: Rank,
}

/// Takes precedence over the strategy; the lowest comes first as long as it has room. By the length of the prompt
/// (`under`), then by whether the server would have to load the model.
pub(crate) type Rank = (u64, bool);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests in progress.
    pub(crate) in_flight: u32,
    /// `maxConcurrent`; `None` if unknown.
    pub(crate) limit: Option<u32>,
}

impl Load {
    pub(crate) fn has_room(self) -> bool {
        self.limit.is_none_or(|limit| self.in_flight < limit)
    }
}

/// The round-robin state of one route, kept across snapshots; a few bytes per candidate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    last: Option<usize>,
    /// The credit of each position, for smooth weighted round robin.
    credits: Vec<i64>,
}

/// Indexes into `loads` in order of preference: by rank, then by the strategy. Candidates without room come last. Only
/// candidates of the first rank take a turn, since the others are tried only when those are full or fail.
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

/// Starts after the last one that was chosen.
fn rotate(group: &mut [usize], loads: &[CandidateLoad], turn: &mut Turn) {
    let after = |&index: &usize| turn.last.is_some_and(|last| loads[index].position > last);
    group.rotate_left(group.iter().position(after).unwrap_or(0));
    turn.last = Some(loads[group[0]].position);
}

/// nginx's smooth weighted round robin: each candidate gains its weight, and the one with the most credit is chosen
/// and loses the sum of all weights.
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
    // A stable sort keeps equals in order.
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

/// The fewest requests in progress relative to its limit first; equals in rotation.
fn least_busy(group: &mut [usize], loads: &[CandidateLoad], turn: &mut Turn) {
    rotate(group, loads, turn);
    // A candidate without a known limit counts as being as large as the largest one.
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
