//! What a process has used, by /proc (proc_pid_stat(5), proc_pid_status(5)).

use std::fs;

use anyhow::{Context, Result};

/// Ticks of the kernel's CPU accounting per second (USER_HZ), the same on every Linux.
const TICKS: f64 = 100.0;

/// CPU time in user and kernel mode so far, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the operator has ended")?;
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').context("/proc/PID/stat has a name")?.1;
    let times = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(times.sum::<Result<u64, _>>()? as f64 / TICKS)
}

/// The most memory that it had at once, in bytes.
pub(super) fn peak_rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the operator has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let own = std::process::id();
        assert!(peak_rss(own).unwrap() > 1 << 20);
        assert!(cpu_seconds(own).unwrap() >= 0.0);
    }
}
