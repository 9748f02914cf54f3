//! Every figure of every round, what is derived from them, and the Markdown table. Knows nothing of how they arose.

use crate::target::{KINDS, Kind};
use std::collections::BTreeMap;

/// What llmproxy is to reach.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Only told.
    LocalResponse,
    /// At most so many times nginx's figure of the same round.
    RatioMax(f64),
    /// At least so many times nginx's.
    RatioMin(f64),
    /// At most, median of the rounds.
    Max(f64),
    /// At most, in every round.
    Worst(f64),
}

struct Row {
    name: String,
    unit: &'static str,
    goal: Goal,
    /// Per kind: round to value.
    values: [BTreeMap<usize, f64>; 3],
}

#[derive(Default)]
pub struct Table {
    pub round: usize,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Table {
    /// Keeps one figure of the present round.
    pub fn put(&mut self, kind: Kind, name: &str, unit: &'static str, goal: Goal, value: f64) {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), unit, goal, values: Default::default() });
            self.rows.len() - 1
        });
        self.rows[at].values[kind as usize].insert(self.round, value);
    }

    pub fn note(&mut self, note: String) {
        eprintln!("bench: {note}");
        self.notes.push(note);
    }

    pub fn failed(&self) -> bool {
        !self.notes.is_empty()
    }

    /// What each proxy adds, in this round, to the direct connection's median: rows from `NAME, p50` and `NAME, p99`.
    /// Both are taken from the direct p50, since the difference of two tails is mostly noise.
    pub fn added(&mut self, name: &str, p50: f64, p99: f64) {
        let Some(base) = self.value(Kind::Direct, &format!("{name}, p50")) else { return };
        for (tail, limit) in [("p50", p50), ("p99", p99)] {
            for kind in [Kind::Nginx, Kind::Llmproxy] {
                if let Some(raw) = self.value(kind, &format!("{name}, {tail}")) {
                    self.put(kind, &format!("{name}, added {tail}"), "µs", Goal::RatioMax(limit), raw - base);
                }
            }
        }
    }

    /// The figure of the present round.
    pub fn value(&self, kind: Kind, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name)?.values[kind as usize].get(&self.round).copied()
    }

    pub fn print(&self) {
        println!("| figure | unit | direct | nginx | llmproxy | x nginx | goal | |");
        println!("| --- | --- | ---: | ---: | ---: | ---: | --- | --- |");
        for row in &self.rows {
            let [direct, nginx, llmproxy] = KINDS.map(|kind| row.over_rounds(kind).map_or("-".to_owned(), number));
            let ratio = row.ratio().map_or("-".to_owned(), number);
            let (goal, verdict) = row.verdict();
            println!(
                "| {} | {} | {direct} | {nginx} | {llmproxy} | {ratio} | {goal} | {verdict} |",
                row.name, row.unit
            );
        }
        for note in &self.notes {
            println!("\nNot measured: {note}");
        }
    }
}

impl Row {
    fn over_rounds(&self, kind: Kind) -> Option<f64> {
        let values = self.values[kind as usize].values().copied();
        match self.goal {
            Goal::Worst(_) => values.reduce(f64::max),
            _ => median(values.collect()),
        }
    }

    /// The median of the rounds' ratios; none where nginx's figure is too close to nothing to divide by.
    fn ratio(&self) -> Option<f64> {
        let [_, nginx, llmproxy] = &self.values;
        let both = llmproxy.iter().filter_map(|(round, ours)| Some((*ours, *nginx.get(round)?)));
        median(both.filter(|(_, theirs)| *theirs > 0.01).map(|(ours, theirs)| ours / theirs).collect())
    }

    fn verdict(&self) -> (String, &'static str) {
        let (goal, met) = match self.goal {
            Goal::LocalResponse => return ("-".to_owned(), ""),
            Goal::RatioMax(limit) => (format!("<= {limit} x"), self.ratio().map(|r| r <= limit)),
            Goal::RatioMin(limit) => (format!(">= {limit} x"), self.ratio().map(|r| r >= limit)),
            Goal::Max(limit) | Goal::Worst(limit) => {
                (format!("<= {limit} {}", self.unit), self.over_rounds(Kind::Llmproxy).map(|v| v <= limit))
            }
        };
        (goal, met.map_or("", |met| if met { "ok" } else { "**short**" }))
    }
}

/// The value below which `share` (0..=1) of the samples lie; sorts them.
pub fn quantile(samples: &mut [f64], share: f64) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().checked_sub(1)?;
    Some(samples[(last as f64 * share).round() as usize])
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    quantile(&mut values, 0.5)
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
