//! Unit tests of `strategy`.

use super::*;

fn weighted(weights: &[u16]) -> Vec<CandidateLoad> {
    let load = Load { in_flight: 0, limit: None };
    weights
        .iter()
        .enumerate()
        .map(|(position, &weight)| CandidateLoad { position, weight, load, rank: Rank::default() })
        .collect()
}

fn loaded(loads: &[(u32, Option<u32>)]) -> Vec<CandidateLoad> {
    let load = |(position, &(in_flight, limit))| CandidateLoad {
        position,
        weight: 1,
        load: Load { in_flight, limit },
        rank: Rank::default(),
    };
    loads.iter().enumerate().map(load).collect()
}

/// The first choices of `n` requests, as letters.
fn firsts(strategy: Strategy, loads: &[CandidateLoad], turn: &mut Turn, n: usize) -> String {
    let mut no_chance = || 0.0;
    let first = |_| loads[order(strategy, loads, turn, &mut no_chance)[0]].position;
    (0..n).map(first).map(|position| char::from(b'a' + position as u8)).collect()
}

#[test]
fn failover_is_the_order_of_the_file() {
    // S003-10
    assert_eq!(firsts(Strategy::Failover, &weighted(&[1, 9, 1]), &mut Turn::default(), 4), "aaaa");
}

#[test]
fn round_robin_is_strict_and_ignores_weights() {
    // S001-05, S001-11, S002-14, S003-11
    let mut turn = Turn::default();
    assert_eq!(firsts(Strategy::RoundRobin, &weighted(&[5, 1, 1]), &mut turn, 7), "abcabca");
    let mut turn = Turn::default();
    let all = order(Strategy::RoundRobin, &weighted(&[1, 1, 1]), &mut turn, &mut || 0.0);
    let next = order(Strategy::RoundRobin, &weighted(&[1, 1, 1]), &mut turn, &mut || 0.0);
    assert_eq!((all, next), (vec![0, 1, 2], vec![1, 2, 0]));
}

#[test]
fn rotation_goes_on_where_it_was_when_one_drops_out_and_comes_back() {
    let all = weighted(&[1, 1, 1]);
    let without_b = [all[0], all[2]];
    let mut turn = Turn::default();
    assert_eq!(firsts(Strategy::RoundRobin, &all, &mut turn, 1), "a");
    assert_eq!(firsts(Strategy::RoundRobin, &without_b, &mut turn, 3), "cac");
    assert_eq!(firsts(Strategy::RoundRobin, &all, &mut turn, 4), "abca");
}

#[test]
fn a_full_one_is_passed_over_and_takes_no_turn() {
    let mut loads = loaded(&[(1, Some(1)), (0, Some(1)), (0, Some(1))]);
    let mut turn = Turn::default();
    assert_eq!(firsts(Strategy::RoundRobin, &loads, &mut turn, 4), "bcbc");
    assert_eq!(order(Strategy::RoundRobin, &loads, &mut turn, &mut || 0.0), [1, 2, 0]);
    loads[0].load.in_flight = 0;
    assert_eq!(firsts(Strategy::RoundRobin, &loads, &mut turn, 3), "cab");
    let all_full = loaded(&[(1, Some(1)), (1, Some(1))]);
    let before = turn.clone();
    order(Strategy::WeightedRoundRobin, &all_full, &mut turn, &mut || 0.0);
    assert_eq!(turn, before);
}

#[test]
fn weights_rotate_smoothly() {
    // S002-14: 2:1 is a b a, not a a b
    let sequence =
        |weights: &[u16], n| firsts(Strategy::WeightedRoundRobin, &weighted(weights), &mut Turn::default(), n);
    assert_eq!(sequence(&[5, 1, 1], 14), "aabacaaaabacaa");
    assert_eq!(sequence(&[2, 1], 6), "abaaba");
    assert_eq!(sequence(&[1, 1, 1], 6), "abcabc");
    let eight_two = sequence(&[8, 2], 1000);
    assert_eq!(eight_two.matches('a').count(), 800);
}

#[test]
fn the_last_of_a_smooth_rotation_are_tried_too() {
    let all = order(Strategy::WeightedRoundRobin, &weighted(&[1, 3, 2]), &mut Turn::default(), &mut || 0.0);
    assert_eq!(all, [1, 2, 0]);
}

#[test]
fn chance_follows_weight_within_three_sigma() {
    // S001-05, S001-11, S003-12
    let mut state = 7u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let loads = weighted(&[5, 1]);
    let n = 10_000;
    let mut hits = 0;
    for _ in 0..n {
        let order = order(Strategy::Random, &loads, &mut Turn::default(), &mut unit);
        assert_eq!(order.len(), 2);
        assert_ne!(order[0], order[1], "without replacement");
        hits += usize::from(order[0] == 0);
    }
    let (expected, sigma) = (n as f64 * 5.0 / 6.0, (n as f64 * 5.0 / 36.0).sqrt());
    assert!((hits as f64 - expected).abs() <= 3.0 * sigma, "{hits}");
}

#[test]
fn a_draw_at_the_very_end_still_hits_somebody() {
    for unit in [0.0, 0.999_999_999_999, 1.0] {
        assert_eq!(order(Strategy::Random, &weighted(&[1, 65_535]), &mut Turn::default(), &mut || unit).len(), 2);
    }
}

#[test]
fn the_least_busy_for_its_size_goes_first_and_ties_rotate() {
    let mut turn = Turn::default();
    assert_eq!(firsts(Strategy::LeastBusy, &loaded(&[(1, Some(2)), (1, Some(4)), (2, Some(4))]), &mut turn, 2), "bb");
    let mut turn = Turn::default();
    assert_eq!(firsts(Strategy::LeastBusy, &loaded(&[(0, None), (0, None), (0, None)]), &mut turn, 7), "abcabca");
    let mut turn = Turn::default();
    assert_eq!(firsts(Strategy::LeastBusy, &loaded(&[(2, None), (1, None), (1, None)]), &mut turn, 4), "bcbc");
    let order = order(Strategy::LeastBusy, &loaded(&[(3, Some(4)), (4, Some(4)), (1, None)]), &mut turn, &mut || 0.0);
    assert_eq!(order, [2, 0, 1], "no limit counts as the largest known, the full one is last");
}

#[test]
fn the_lowest_rank_with_room_is_first_and_the_strategy_orders_equals() {
    // Issue 14, shows 2: under and loaded, as a table.
    let all =
        [Strategy::Failover, Strategy::RoundRobin, Strategy::WeightedRoundRobin, Strategy::Random, Strategy::LeastBusy];
    let ranks: [Rank; 4] = [(5000, true), (4000, false), (2000, true), (9000, false)];
    for strategy in all {
        let mut loads = weighted(&[1, 1, 1, 1]);
        loads.iter_mut().zip(ranks).for_each(|(load, rank)| load.rank = rank);
        let order = |loads: &[CandidateLoad]| super::order(strategy, loads, &mut Turn::default(), &mut || 0.0);
        assert_eq!(order(&loads), [2, 1, 0, 3], "{strategy:?}");
        loads[2].load = Load { in_flight: 1, limit: Some(1) };
        assert_eq!(order(&loads), [1, 0, 3, 2], "a full one is passed over: {strategy:?}");
    }
}

#[test]
fn turns_go_round_among_equals() {
    let ranks = |loads: &mut Vec<CandidateLoad>, ranks: [bool; 4]| {
        loads.iter_mut().zip(ranks).for_each(|(load, must_load)| load.rank.1 = must_load);
    };
    let mut loads = weighted(&[1, 1, 1, 1]);
    ranks(&mut loads, [true, false, true, false]);
    for strategy in [Strategy::RoundRobin, Strategy::WeightedRoundRobin, Strategy::LeastBusy] {
        assert_eq!(firsts(strategy, &loads, &mut Turn::default(), 4), "bdbd", "{strategy:?}");
    }
    let mut turn = Turn::default();
    assert_eq!(firsts(Strategy::RoundRobin, &loads, &mut turn, 1), "b");
    ranks(&mut loads, [false; 4]);
    assert_eq!(firsts(Strategy::RoundRobin, &loads, &mut turn, 4), "cdab", "those that came later took no turn");
}
