//! How long plans took, by the operator's histogram.

use anyhow::{Result, ensure};

/// A cumulative histogram: upper bounds in seconds, and how many plans were not longer.
pub(super) struct PlanTimes(Vec<(f64, u64)>);

impl PlanTimes {
    /// Finds it in the text of `/metrics`.
    pub(super) fn parse(metrics: &str) -> Result<Self> {
        let bucket = |line: &str| {
            let rest = line.strip_prefix("drop_plan_duration_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.parse().ok()?))
        };
        let buckets: Vec<(f64, u64)> = metrics.lines().filter_map(bucket).collect();
        ensure!(buckets.last().is_some_and(|(bound, _)| bound.is_infinite()), "no histogram of plan times");
        Ok(Self(buckets))
    }

    pub(super) fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// Seconds within which this share of the plans was ready, as Prometheus's
    /// `histogram_quantile` estimates it: evenly spread within a bucket, and not longer than the
    /// longest bound.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.count() as f64;
        let mut below = (0.0, 0);
        for &(bound, count) in &self.0 {
            if count as f64 >= wanted && count > below.1 {
                if bound.is_infinite() {
                    return below.0;
                }
                let within = (wanted - below.1 as f64) / (count - below.1) as f64;
                return below.0 + within * (bound - below.0);
            }
            below = (bound, count);
        }
        below.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let metrics = "# HELP drop_plan_duration_seconds x
drop_plan_duration_seconds_sum 1.0
drop_plan_duration_seconds_bucket{le=\"0.001\"} 60
drop_plan_duration_seconds_bucket{le=\"0.003\"} 100
drop_plan_duration_seconds_bucket{le=\"+Inf\"} 101
";
        let times = PlanTimes::parse(metrics).unwrap();
        assert_eq!(times.count(), 101);
        assert!((times.quantile(0.5) - 0.001 * 50.5 / 60.0).abs() < 1e-9);
        assert!((times.quantile(0.8) - (0.001 + 0.002 * 20.8 / 40.0)).abs() < 1e-9);
        assert_eq!(times.quantile(1.0), 0.003);
    }
}
