//! Medians, spreads and ratios.

use std::time::Duration;

use serde_json::{Value, json};

use super::load::Sample;

/// Measurements of one side.
#[derive(Default)]
pub struct Series(Vec<Sample>);

impl Series {
    /// Adds one.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    fn of(&self, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.0.iter().map(figure).collect()
    }
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
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

/// The median of `values` with the smallest and the largest.
pub fn median_and_spread(values: Vec<f64>) -> Value {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    json!({ "median": round(median(values), 0), "min": round(least, 0), "max": round(most, 0) })
}

/// Calls and their times, each the median over the rounds.
pub fn summary(series: &Series) -> Value {
    let calls: u64 = series.0.iter().map(|sample| sample.calls).sum();
    let allowed: u64 = series.0.iter().map(|sample| sample.allowed).sum();
    json!({
        "per_second": median_and_spread(series.of(Sample::rate)),
        "p50_us": median(series.of(|sample| f64::from(sample.quantile_us(0.5)))),
        "p99_us": median(series.of(|sample| f64::from(sample.quantile_us(0.99)))),
        "allowed_part": round(allowed as f64 / calls.max(1) as f64, 4),
        "server_cpu_us_per_call": round(median(series.of(|sample| per_call_us(sample, sample.server_cpu))), 1),
        "client_cpu_us_per_call": round(median(series.of(|sample| per_call_us(sample, sample.client_cpu))), 1),
    })
}

fn per_call_us(sample: &Sample, spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e6 / sample.calls.max(1) as f64
}

/// One figure as a part of another.
pub fn ratio_of(value: f64, base: f64) -> Value {
    json!(round(value / base.max(f64::MIN_POSITIVE), 3))
}

/// Adds how `series` compares with `base`: more is better for throughput, less for times.
pub fn compare(value: &mut Value, series: &Series, base: &Series) {
    let ratio = |figure: &dyn Fn(&Sample) -> f64| {
        let base = median(base.of(figure));
        round(median(series.of(figure)) / base.max(f64::MIN_POSITIVE), 3)
    };
    value["throughput_ratio"] = json!(ratio(&Sample::rate));
    value["p50_ratio"] = json!(ratio(&|sample| f64::from(sample.quantile_us(0.5))));
    value["p99_ratio"] = json!(ratio(&|sample| f64::from(sample.quantile_us(0.99))));
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
