//! The process, under the names that every Prometheus client library gives them.

use std::fmt;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::picture::Pages;

/// What /proc says of this process (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_files: u64,
    threads: u64,
    /// Since the epoch.
    started_seconds: f64,
}

impl Process {
    /// Reads it; none where /proc is not as expected.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
        Self::parse(&stat, &boot, (ticks, page), open_files)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of a process are far below 2^52 ticks"
    )]
    fn parse(stat: &str, boot: &str, (ticks, page): (u64, u64), open_files: u64) -> Option<Self> {
        // The name is in parentheses and may hold anything; the third field follows.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let boot = boot
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse::<u64>()
            .ok()?;
        let seconds = |count: u64| count as f64 / ticks as f64;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started_seconds: boot as f64 + seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
            open_files,
        })
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut pages = Pages(encoder);
        pages.counter(
            "process_cpu_seconds",
            "CPU time of this process",
            [(vec![], self.cpu_seconds)],
        )?;
        pages.gauge(
            "process_resident_memory_bytes",
            "Resident memory of this process",
            [(vec![], self.resident_bytes)],
        )?;
        pages.gauge(
            "process_virtual_memory_bytes",
            "Virtual memory of this process",
            [(vec![], self.virtual_bytes)],
        )?;
        pages.gauge(
            "process_open_fds",
            "Open files of this process",
            [(vec![], self.open_files)],
        )?;
        pages.gauge(
            "process_threads",
            "Threads of this process",
            [(vec![], self.threads)],
        )?;
        pages.gauge(
            "process_start_time_seconds",
            "When this process started, in seconds since the epoch",
            [(vec![], self.started_seconds)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_shifts_no_field() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 9 0 500 4096000 12 18446744073709551615";
        let boot = "cpu 1 2\nbtime 1000\nprocesses 5\n";
        let process = Process::parse(stat, boot, (100, 4096), 6).unwrap();
        let expected = Process {
            cpu_seconds: 2.0,
            resident_bytes: 12 * 4096,
            virtual_bytes: 4_096_000,
            open_files: 6,
            threads: 9,
            started_seconds: 1005.0,
        };
        assert_eq!(process, expected);
        assert_eq!(Process::parse("77 (a) S", boot, (100, 4096), 6), None);
        assert!(Process::read().unwrap().resident_bytes > 0);
    }
}
