//! The order in which candidates are tried: a pure function of who could, how busy each is, whose turn it is,
//! and chance (SPEC section 5).

use crate::config::Strategy;

/// A candidate as the strategies see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CandidateLoad {
    /// Its position among all of its route, available or not: what a turn is remembered by.
    pub(crate) position: usize,
    /// Its share, at least 1.
    pub(crate) weight: u16,
    pub(crate) load: Load,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests of ours that are there.
    pub(crate) in_flight: u32,
    /// Its `maxConcurrent`; `None` = no limit known.
    pub(crate) limit: Option<u32>,
}

impl Load {
    /// Whether one more may go there.
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

/// Indexes into `contenders`, first choice first. Those without room come last and take no turn: they are
/// passed over, and tried only when they have room again.
pub(crate) fn order(
    strategy: Strategy,
    loads: &[CandidateLoad],
    turn: &mut Turn,
    unit: &mut dyn FnMut() -> f64,
) -> Vec<usize> {
    let (free, full): (Vec<usize>, Vec<usize>) = (0..loads.len()).partition(|&index| loads[index].load.has_room());
    let mut order = Vec::with_capacity(loads.len());
    for (group, is_free) in [(free, true), (full, false)] {
        if group.is_empty() {
            continue;
        }
        // Only who can be taken takes a turn.
        let mut unmoved = turn.clone();
        let turn = if is_free { &mut *turn } else { &mut unmoved };
        order.extend(match strategy {
            Strategy::Failover => group,
            Strategy::RoundRobin => rotated(group, loads, turn),
            Strategy::WeightedRoundRobin => smooth(group, loads, turn),
            Strategy::Random => drawn(group, loads, unit),
            Strategy::LeastBusy | Strategy::Affinity => least_busy(group, loads, turn),
        });
    }
    order
}

/// The one after the last, then the others as they follow it.
fn rotated(mut group: Vec<usize>, loads: &[CandidateLoad], turn: &mut Turn) -> Vec<usize> {
    let after = |&index: &usize| turn.last.is_some_and(|last| loads[index].position > last);
    let first = group.iter().position(after).unwrap_or(0);
    group.rotate_left(first);
    if let Some(&first) = group.first() {
        turn.last = Some(loads[first].position);
    }
    group
}

/// nginx's smooth weighted rotation: each candidate earns its weight, the one with the most credit is next and pays what all earned.
fn smooth(mut group: Vec<usize>, loads: &[CandidateLoad], turn: &mut Turn) -> Vec<usize> {
    let positions = loads.iter().map(|one| one.position + 1).max().unwrap_or(0);
    if turn.credits.len() < positions {
        turn.credits.resize(positions, 0);
    }
    let total: i64 = group.iter().map(|&index| i64::from(loads[index].weight)).sum();
    let mut credits = std::mem::take(&mut turn.credits);
    for &index in &group {
        credits[loads[index].position] += i64::from(loads[index].weight);
    }
    // The richest first, and among equals the one that stands first; a stable sort keeps that.
    group.sort_by_key(|&index| std::cmp::Reverse(credits[loads[index].position]));
    if let Some(&first) = group.first() {
        credits[loads[first].position] -= total;
    }
    turn.credits = credits;
    group
}

/// Drawn by weight, each once.
fn drawn(mut group: Vec<usize>, loads: &[CandidateLoad], unit: &mut dyn FnMut() -> f64) -> Vec<usize> {
    let mut order = Vec::with_capacity(group.len());
    while !group.is_empty() {
        let total: f64 = group.iter().map(|&index| f64::from(loads[index].weight)).sum();
        let mut at = unit() * total;
        let hit = group.iter().position(|&index| {
            at -= f64::from(loads[index].weight);
            at < 0.0
        });
        order.push(group.remove(hit.unwrap_or(group.len() - 1)));
    }
    order
}

/// Fewest in flight for its capacity first; among equals, in rotation.
fn least_busy(group: Vec<usize>, loads: &[CandidateLoad], turn: &mut Turn) -> Vec<usize> {
    let last = turn.last;
    let mut group = rotated(group, loads, &mut turn.clone());
    // Who tells no limit is taken for as large as the largest that does.
    let largest = loads.iter().filter_map(|one| one.load.limit).max().unwrap_or(1);
    let share = |index: usize| {
        let Load { in_flight, limit } = loads[index].load;
        f64::from(in_flight) / f64::from(limit.unwrap_or(largest).max(1))
    };
    group.sort_by(|&a, &b| share(a).total_cmp(&share(b)));
    turn.last = group.first().map(|&first| loads[first].position).or(last);
    group
}

#[cfg(test)]
mod tests;
