//! Metrics of the process, under the names that every client library uses
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use std::fs;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// This process.
#[derive(Debug)]
pub struct Process {
    started_at: Timestamp,
}

/// The fields of `/proc/self/stat`; see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    /// CPU time in clock ticks.
    ticks: u64,
    /// Resident memory in pages.
    pages: u64,
}

impl Process {
    /// Describes this process, which has just started.
    pub fn started_now() -> Self {
        Self { started_at: Timestamp::now() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let started_at = self.started_at.as_duration().as_secs_f64();
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970", started_at)?;
        // Without /proc there are no numbers.
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors", open.count() as f64)?;
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            gauge("process_max_fds", "Most file descriptors that may be open", limit as f64)?;
        }
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse) else { return Ok(()) };
        let memory = stat.pages as f64 * rustix::param::page_size() as f64;
        gauge("process_resident_memory_bytes", "Resident memory", memory)?;
        let seconds = ConstCounter::new(stat.ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        // The encoder adds `_total`.
        let descriptor = encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time, user and system",
            None,
            seconds.metric_type(),
        )?;
        seconds.encode(descriptor)
    }
}

fn parse(stat: &str) -> Option<Stat> {
    // The second field is the program's name in parentheses, and may contain any character.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // The manual counts from 1; its third field is the first one here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat { ticks: field(14)?.saturating_add(field(15)?), pages: field(24)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_whatever_the_program_is_called() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 50 6 70 80 20 0 3 0 12345 99999 321 184467 1 1";
        assert_eq!(parse(stat), Some(Stat { ticks: 56, pages: 321 }));
        assert_eq!(parse("7 (a"), None);
    }
}
