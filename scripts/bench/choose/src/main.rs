//! CPU time of everything between a complete request and its endpoint: the body is parsed and hashed, the plan made, the
//! order chosen. 8 endpoints, 100 models each, a conversation of 100 messages and 200 KB. Prints a Markdown table.
//! Run: cargo run --release --manifest-path scripts/bench/choose/Cargo.toml

use llmproxy::util::time;
use llmproxy::config::{Config, Endpoint, Strategy};
use llmproxy::routing::affinity::Affinity;
use llmproxy::routing::endpoint;
use llmproxy::routing::plan::{self, PlanResult, ModelQuery};
use llmproxy::routing::scope::Scope;
use llmproxy::routing::snapshot::Snapshot;
use llmproxy::routing::strategy::{self, Turn};
use llmproxy::api::body;
use std::sync::Arc;

const ROUNDS: u32 = 500;

fn main() {
    let message = |n: usize| {
        let role = ["user", "assistant"][n % 2];
        format!(r#"{{"role":"{role}","content":"{}"}}"#, format!("word {n} of \\\"it\\\"\\n").repeat(110))
    };
    let messages: Vec<String> = (0..100).map(message).collect();
    let body = format!(r#"{{"model":"m50","stream":true,"messages":[{}]}}"#, messages.join(","));
    println!("body: {} KB\n\n| strategy | parse | hash and look up | plan and order | all |\n| --- | ---: | ---: | ---: | ---: |", body.len() >> 10);
    let strategies = [Strategy::Failover, Strategy::RoundRobin, Strategy::WeightedRoundRobin, Strategy::Random, Strategy::LeastBusy, Strategy::Affinity];
    for strategy in strategies {
        let mut config = Config::default();
        config.routing.strategy = strategy;
        for n in 0..8 {
            let mut one = Endpoint::plain(format!("e{n}"), "127.0.0.1", 1);
            one.models = (0..100).map(|m| format!("m{m}")).collect();
            config.endpoints.push(one);
        }
        let endpoints = config.endpoints.iter().map(|one| Arc::new(endpoint::Endpoint::new(one.clone(), time::now()))).collect();
        let snapshot = Snapshot::new(Arc::new(config), endpoints);
        let (affinity, mut turn) = (Affinity::default(), Turn::default());
        let mut times = [0.0; 3];
        for _ in 0..ROUNDS {
            let begun = time::now();
            let peek = body::json(body.as_bytes()).expect("JSON");
            let parsed = time::now();
            let hashes = (strategy == Strategy::Affinity).then(|| affinity.hashes(body.as_bytes(), "m50", std::iter::empty()));
            if let Some(hashes) = &hashes {
                affinity.favourite(hashes, &[1, 2, 3, 4, 5, 6, 7, 8]);
                affinity.remember(hashes, 3);
            }
            let hashed = time::now();
            let name = peek.model.expect("a model").name;
            let PlanResult::Plan(plan) = plan::plan(&snapshot, ModelQuery::Named(&name), &Scope::default(), hashed) else { panic!("a plan") };
            let loads: Vec<_> = plan.candidates.iter().map(|one| one.load()).collect();
            assert_eq!(strategy::order(strategy, &loads, &mut turn, &mut || 0.5).len(), 8);
            let done = time::now();
            for (time, (from, to)) in times.iter_mut().zip([(begun, parsed), (parsed, hashed), (hashed, done)]) {
                *time += (to - from).as_secs_f64() * 1e6 / f64::from(ROUNDS);
            }
        }
        let [parse, hash, choose] = times;
        println!("| {} | {parse:.0} µs | {hash:.0} µs | {choose:.1} µs | {:.0} µs |", strategy.as_str(), parse + hash + choose);
    }
}
