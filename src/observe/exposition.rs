//! Prometheus' text format, version 0.0.4. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Upper bounds of histogram buckets in seconds.
const BUCKETS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Separates the label values of a series; removed from the values themselves.
pub(crate) const SEPARATOR: char = '\u{1f}';

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric family.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(f64),
    /// Observations per bucket, the last one unbounded, and their sum in seconds.
    Times([u64; BUCKETS.len() + 1], f64),
}

impl Value {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter | Kind::Gauge => Self::Number(0.0),
            Kind::Histogram => Self::Times([0; BUCKETS.len() + 1], 0.0),
        }
    }

    pub(crate) fn add(&mut self, by: f64) {
        if let Self::Number(value) = self {
            *value += by;
        }
    }

    pub(crate) fn set(&mut self, to: f64) {
        *self = Self::Number(to);
    }

    pub(crate) fn observe(&mut self, seconds: f64) {
        if let Self::Times(counts, sum) = self {
            let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
            counts[bucket] += 1;
            *sum += seconds;
        }
    }
}

/// Writes a family, unless it has no series.
pub(crate) fn family(out: &mut String, spec: &Spec, series: &BTreeMap<String, Value>) {
    if series.is_empty() {
        return;
    }
    let kind = match spec.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let (name, help) = (spec.name, spec.help);
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (values, value) in series {
        let labels: Vec<(&str, &str)> = spec.labels.iter().copied().zip(values.split(SEPARATOR)).collect();
        match value {
            Value::Number(number) => sample(out, name, &labels, *number),
            Value::Times(counts, sum) => {
                let bucket = format!("{name}_bucket");
                let mut total = 0;
                let bounds = BUCKETS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(counts) {
                    total += count;
                    let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
                    sample(out, &bucket, &labels, total as f64);
                }
                sample(out, &format!("{name}_sum"), &labels, *sum);
                sample(out, &format!("{name}_count"), &labels, total as f64);
            }
        }
    }
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    out.push_str(name);
    for (n, (label, text)) in labels.iter().enumerate() {
        let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let _ = write!(out, "{}{label}=\"{text}\"", if n == 0 { '{' } else { ',' });
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_one_block_and_labels_are_escaped() {
        // F12
        let spec = Spec { name: "x_total", kind: Kind::Counter, labels: &["a", "b"], help: "Some." };
        let mut series = BTreeMap::new();
        series.insert("q\"\\\n\u{1f}\u{1f}".to_owned(), Value::Number(2.5));
        let mut out = String::new();
        family(&mut out, &spec, &series);
        assert_eq!(out, "# HELP x_total Some.\n# TYPE x_total counter\nx_total{a=\"q\\\"\\\\\\n\",b=\"\"} 2.5\n");
        family(&mut out, &spec, &BTreeMap::new());
        assert_eq!(out.lines().count(), 3, "a family without series is not there");
    }

    #[test]
    fn buckets_add_up_to_all_observations() {
        // S002-28, W002-11: up to ten minutes
        let mut value = Value::new(Kind::Histogram);
        for seconds in [0.001, 0.005, 0.006, 59.0, 599.0, 5000.0] {
            value.observe(seconds);
        }
        let spec = Spec { name: "t_seconds", kind: Kind::Histogram, labels: &[], help: "T." };
        let mut out = String::new();
        family(&mut out, &spec, &BTreeMap::from([(String::new(), value)]));
        for line in [
            "t_seconds_bucket{le=\"0.005\"} 2",
            "t_seconds_bucket{le=\"0.01\"} 3",
            "t_seconds_bucket{le=\"60\"} 4",
            "t_seconds_bucket{le=\"600\"} 5",
            "t_seconds_bucket{le=\"+Inf\"} 6",
            "t_seconds_count 6",
        ] {
            assert!(out.contains(&format!("{line}\n")), "{line}\n{out}");
        }
    }
}
