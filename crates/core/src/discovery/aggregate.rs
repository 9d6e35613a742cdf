//! Aggregates many numbers to one.

use drop_api::discovery_policy::{AggregationMethod, EventStatistic};

/// Returns `values` as one number; `None` if there are none, or if they overflow.
///
/// Callers pass finite values only. A NaN among the points of a series says that a division had nothing to divide at
/// that time. It says nothing about the other points.
pub fn aggregate(method: AggregationMethod, values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values = values.filter(|value| value.is_finite());
    let first = values.next()?;
    let value = match method {
        AggregationMethod::Sum => values.fold(first, |sum, value| sum + value),
        AggregationMethod::Count => 1.0 + values.count() as f64,
        AggregationMethod::Avg => {
            let (sum, count) = values.fold((first, 1.0), |(sum, count), value| (sum + value, count + 1.0));
            sum / count
        }
        AggregationMethod::Max => values.fold(first, f64::max),
        AggregationMethod::Min => values.fold(first, f64::min),
    };
    Some(value).filter(|value| value.is_finite())
}

/// Returns a statistic of `values`, in any order; `None` if there are none.
pub fn statistic(statistic: EventStatistic, mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match statistic {
        EventStatistic::P50 => percentile(&values, 50),
        EventStatistic::P90 => percentile(&values, 90),
        EventStatistic::P95 => percentile(&values, 95),
        EventStatistic::Avg => aggregate(AggregationMethod::Avg, values.into_iter()),
        EventStatistic::Max => values.last().copied(),
        EventStatistic::Count => aggregate(AggregationMethod::Count, values.into_iter()),
    }
}

/// The `p`-th percentile of `sorted`, interpolated linearly between the two values around
/// position `p / 100 · (n − 1)`: type 7 of Hyndman and Fan, "Sample Quantiles in Statistical
/// Packages" (1996), the default of NumPy and R. Of 1, 2, … 10: p50 5.5, p90 9.1, p95 9.55.
fn percentile(sorted: &[f64], p: usize) -> Option<f64> {
    // In whole hundredths, so that 9.55 is not 9.549999999999999.
    let position = p * sorted.len().checked_sub(1)?;
    let below = *sorted.get(position / 100)?;
    let above = *sorted.get(position.div_ceil(100))?;
    Some(below + (above - below) * ((position % 100) as f64 / 100.0))
}
