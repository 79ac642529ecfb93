//! Medians, spreads and ratios.

use std::time::Duration;

use serde_json::{Value, json};

use super::load::Sample;

/// Measurements of an empty handler and of optgate, in turns.
#[derive(Default)]
pub struct Rounds(Vec<Round>);

struct Round {
    empty: Sample,
    ours: Sample,
}

impl Rounds {
    /// Adds a round.
    pub fn push(&mut self, empty: Sample, ours: Sample) {
        self.0.push(Round { empty, ours });
    }

    /// Both sides' figures, and how they compare: more is better for throughput, less for times.
    pub fn summary(&self) -> Value {
        let mut value = summary(self.0.iter().map(|round| &round.ours));
        value["empty"] = summary(self.0.iter().map(|round| &round.empty));
        value["throughput_ratio"] = self.compared(Sample::rate);
        value["p50_ratio"] = self.compared(|sample| f64::from(sample.quantile_us(0.5)));
        value["p99_ratio"] = self.compared(|sample| f64::from(sample.quantile_us(0.99)));
        value
    }

    /// Each round's two sides with each other: they had the same machine, which another round may not have had.
    fn compared(&self, figure: impl Fn(&Sample) -> f64) -> Value {
        let ratio = |round: &Round| figure(&round.ours) / figure(&round.empty).max(f64::MIN_POSITIVE);
        median_and_spread(self.0.iter().map(ratio).collect(), 3)
    }
}

/// The value in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// The median of `values` with the smallest and the largest, rounded.
pub fn median_and_spread(values: Vec<f64>, digits: i32) -> Value {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let rounded = |value| round(value, digits);
    json!({ "median": rounded(median(values)), "min": rounded(least), "max": rounded(most) })
}

/// Calls and their times, each the median over the rounds.
fn summary<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> Value {
    let of = |figure: &dyn Fn(&Sample) -> f64| samples.clone().map(figure).collect::<Vec<_>>();
    let calls: u64 = samples.clone().map(|sample| sample.calls).sum();
    let allowed: u64 = samples.clone().map(|sample| sample.allowed).sum();
    let cpu = |spent: &dyn Fn(&Sample) -> Duration| {
        round(median(of(&|sample| per_call_us(sample, spent(sample)))), 1)
    };
    json!({
        "per_second": median_and_spread(of(&Sample::rate), 0),
        "p50_us": median(of(&|sample| f64::from(sample.quantile_us(0.5)))),
        "p99_us": median(of(&|sample| f64::from(sample.quantile_us(0.99)))),
        "allowed_part": round(allowed as f64 / calls.max(1) as f64, 4),
        "server_cpu_us_per_call": cpu(&|sample| sample.server_cpu),
        "client_cpu_us_per_call": cpu(&|sample| sample.client_cpu),
    })
}

fn per_call_us(sample: &Sample, spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e6 / sample.calls.max(1) as f64
}

/// One figure as a part of another.
pub fn ratio_of(value: f64, base: f64) -> Value {
    json!(round(value / base.max(f64::MIN_POSITIVE), 3))
}

/// `count` in `took`, a second.
pub fn per_second(count: u64, took: Duration) -> Value {
    json!(round(count as f64 / took.as_secs_f64(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_many() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).abs() < f64::EPSILON);
    }
}
