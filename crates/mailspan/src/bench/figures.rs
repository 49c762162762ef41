//! Figures of one load, their medians over the rounds, and ratios.

use hdrhistogram::Histogram;

/// Two minutes: what waits longer counts as this.
const MICROS_MAX: u64 = 120_000_000;
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Ms,
    PerSecond,
    Micros,
}

/// One number with what it is: the member of the JSON object, the line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: String,
    pub unit: Unit,
    pub value: f64,
}

impl Figure {
    pub fn new(name: &str, unit: Unit, value: f64) -> Figure {
        Figure { name: name.to_owned(), unit, value }
    }
}

/// `acknowledge p50` and so on, in milliseconds; nothing where nothing was measured.
pub fn quantiles(name: &str, micros: &[u64]) -> Vec<Figure> {
    if micros.is_empty() {
        return Vec::new();
    }
    let mut histogram = Histogram::<u64>::new_with_bounds(1, MICROS_MAX, 3)
        .expect("one microsecond to two minutes at three digits are bounds that a histogram takes");
    for value in micros {
        histogram.saturating_record(*value);
    }
    let figure = |(word, quantile)| {
        let value = histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Figure { name: format!("{name} {word}"), unit: Unit::Ms, value }
    };
    QUANTILES.into_iter().map(figure).collect()
}

/// Of each figure the median over the rounds.
pub fn medians(rounds: &[Vec<Figure>]) -> Vec<Figure> {
    let Some(first) = rounds.first() else { return Vec::new() };
    let of = |figure: &Figure| {
        let values = rounds.iter().filter_map(|round| value(round, &figure.name)).collect();
        Figure { value: median(values), ..figure.clone() }
    };
    first.iter().map(of).collect()
}

/// The value of a figure by its name.
pub fn value(figures: &[Figure], name: &str) -> Option<f64> {
    figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => 0.0,
        (1, Some(value)) => *value,
        (_, Some(value)) => {
            values.get(middle.wrapping_sub(1)).map_or(*value, |before| (before + value) / 2.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_rounds() {
        let check =
            |values: &[f64], expected: f64| assert_eq!(median(values.to_vec()), expected, "{values:?}");
        check(&[], 0.0);
        check(&[3.0], 3.0);
        check(&[9.0, 1.0], 5.0);
        check(&[9.0, 1.0, 2.0], 2.0);
        let round = |value| vec![Figure::new("a", Unit::Ms, value)];
        assert_eq!(medians(&[round(4.0), round(1.0), round(2.0)]), round(2.0));
    }

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let micros: Vec<u64> = (1..=10_000).collect();
        for (name, expected) in [("x p50", 5.0), ("x p95", 9.5), ("x p99", 9.9), ("x p99.9", 9.99)] {
            let found = value(&quantiles("x", &micros), name).unwrap();
            assert!((found / expected - 1.0).abs() < 0.002, "{name}: {found} ms");
        }
        assert!(quantiles("x", &[]).is_empty());
    }
}
