//! Processor time of processes, from `/proc/PID/stat` (proc_pid_stat(5)).

use anyhow::{Context, Result};
use serde::Serialize;
use std::ops::{Add, Sub};

/// Processor seconds of a process with all its threads.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Cpu {
    /// In user mode.
    pub user_s: f64,
    /// In the kernel on its behalf.
    pub system_s: f64,
}

impl Cpu {
    /// Both.
    pub fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}

impl Add for Cpu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { user_s: self.user_s + other.user_s, system_s: self.system_s + other.system_s }
    }
}

impl Sub for Cpu {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { user_s: self.user_s - other.user_s, system_s: self.system_s - other.system_s }
    }
}

/// Processes whose time is reported as one.
#[derive(Clone, Debug)]
pub struct Group {
    /// How it is called in the report.
    pub name: &'static str,
    /// Its members.
    pub pids: Vec<u32>,
}

impl Group {
    /// This process: the client, or one end of a connection.
    pub fn own(name: &'static str) -> Self {
        Self { name, pids: vec![std::process::id()] }
    }

    fn used(&self) -> Result<Cpu> {
        self.pids.iter().try_fold(Cpu::default(), |sum, pid| {
            let path = format!("/proc/{pid}/stat");
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            let ticks = rustix::param::clock_ticks_per_second() as f64;
            Ok(sum + parse(&text, ticks).with_context(|| format!("{path} has no processor times"))?)
        })
    }
}

/// Fields 14 and 15. The name in field 2 may hold blanks and parentheses: counting begins behind its last one.
fn parse(stat: &str, ticks_per_s: f64) -> Option<Cpu> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(Cpu { user_s: next()? as f64 / ticks_per_s, system_s: next()? as f64 / ticks_per_s })
}

/// Measures groups from a moment on.
pub struct Meter {
    groups: Vec<(Group, Cpu)>,
}

impl Meter {
    /// Begins now.
    ///
    /// # Errors
    /// One of the processes does not live any more.
    pub fn start(groups: &[Group]) -> Result<Self> {
        let groups = groups.iter().map(|group| Ok((group.clone(), group.used()?)));
        Ok(Self { groups: groups.collect::<Result<_>>()? })
    }

    /// What each group used since [`Meter::start`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self) -> Result<Vec<(&'static str, Cpu)>> {
        self.groups.iter().map(|(group, before)| Ok((group.name, group.used()? - *before))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 3 0 250 50 0 0 20 0 9 0 5";
        assert_eq!(parse(stat, 100.0), Some(Cpu { user_s: 2.5, system_s: 0.5 }));
        assert_eq!(parse("7 (a) S 1 2", 100.0), None);
        assert_eq!(parse("", 100.0), None);
    }

    #[test]
    fn this_process_uses_time() {
        assert!(Group::own("test").used().is_ok());
        assert!(Group { name: "none", pids: vec![u32::MAX] }.used().is_err());
    }
}
