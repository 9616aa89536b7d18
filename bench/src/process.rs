//! Child processes that end with whoever holds them, and what `/proc` tells of processes and threads.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Clock ticks a second in `/proc` (`USER_HZ`): 100 on every architecture that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);
/// How long a process may take to stop in order.
const STOP: Duration = Duration::from_secs(35);

/// A child process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, its standard error going to a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        command.stderr(fs::File::create(log).with_context(|| format!("{} can't be written", log.display()))?);
        let child = command.spawn().with_context(|| format!("{} can't be started", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails with what it said last, if it ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended ({status}):\n{}", self.last_words()),
        }
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) -> Result<ExitStatus> {
        // The standard library can only kill; `sh` has `kill` built in.
        Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.id().to_string()]).stderr(Stdio::null()).status()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > STOP {
                bail!("it did not stop within {STOP:?}:\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is fine too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/proc/…/stat` says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time.
    own: Duration,
    /// That of children which ended.
    reaped: Duration,
}

fn parse(stat: &str) -> Option<Stat> {
    // The name in parentheses may itself contain spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<u32>().ok();
    let span = |a, b| Some(TICK * (ticks(a)? + ticks(b)?));
    Some(Stat { parent: ticks(1)?, own: span(11, 12)?, reaped: span(13, 14)? })
}

fn stat(path: &str) -> Option<Stat> {
    parse(&fs::read_to_string(path).ok()?)
}

/// CPU time that a process has used.
pub(crate) fn cpu(pid: u32) -> Duration {
    stat(&format!("/proc/{pid}/stat")).map_or(Duration::ZERO, |s| s.own)
}

/// CPU time that a thread of this process has used.
pub(crate) fn thread_cpu(thread: u32) -> Duration {
    stat(&format!("/proc/self/task/{thread}/stat")).map_or(Duration::ZERO, |s| s.own)
}

/// CPU time that a process and its children, gone or not, have used.
pub(crate) fn family_cpu(pid: u32) -> Duration {
    let Some(head) = stat(&format!("/proc/{pid}/stat")) else { return Duration::ZERO };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = ids.filter_map(|id| stat(&format!("/proc/{id}/stat"))).filter(|s| s.parent == pid);
    head.own + head.reaped + children.map(|s| s.own + s.reaped).sum::<Duration>()
}

/// CPU time that everything on this machine has used, and what a hypervisor took away. Interrupts, which do the work of
/// loopback for whoever happens to run, are left out.
pub(crate) fn machine_cpu() -> Duration {
    total(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
}

fn total(stat: &str) -> Option<Duration> {
    let ticks: Vec<u32> = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    // user, nice, system; idle, iowait, irq, softirq; steal.
    let [user, nice, system, _, _, _, _, steal, ..] = ticks[..] else { return None };
    Some(TICK * (user + nice + system + steal))
}

/// The calling thread's id.
pub(crate) fn thread_id() -> Result<u32> {
    let link = fs::read_link("/proc/thread-self").context("/proc is needed")?;
    link.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).context("/proc/thread-self names no thread")
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    /// All of it.
    pub(crate) all: u64,
    /// What it allocated; the rest is pages of files, of the program itself above all.
    pub(crate) anonymous: u64,
}

/// Reads it.
pub(crate) fn resident(pid: u32) -> Result<Resident> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let value = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kib: u64 = value.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name} is no number"))?;
        Ok(kib * 1024)
    };
    Ok(Resident { all: field("VmRSS:")?, anonymous: field("RssAnon:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_whatever_the_name() {
        let text = "42 (a b) c) S 7 42 42 0 -1 4194560 1 2 3 4 15 5 2 1 20 0 1 0 100 0 0";
        let expected = Stat { parent: 7, own: Duration::from_millis(200), reaped: Duration::from_millis(30) };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn the_machines_time_is_work_and_what_was_stolen() {
        assert_eq!(total("cpu  1 2 3 400 500 600 700 8 0 0\ncpu0 9 9 9"), Some(Duration::from_millis(140)));
        assert_eq!(total("cpu  1 2 3"), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_a_family() {
        let pid = std::process::id();
        assert!(resident(pid).is_ok_and(|r| r.anonymous > 10_000 && r.all > r.anonymous));
        assert!(thread_id().is_ok_and(|id| id > 0));
        // Read first: time goes on between the two.
        let own = cpu(pid);
        assert!(family_cpu(pid) >= own);
        assert_eq!(cpu(u32::MAX), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_process_stops_in_order_and_its_last_words_are_kept() {
        let log = std::env::temp_dir().join(format!("raven-bench-test-{}", std::process::id()));
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap 'echo bye >&2; exit 3' TERM; echo up; while :; do read -r _; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start(command, &log).expect("there is a shell");
        let mut up = [0; 3];
        std::io::Read::read_exact(process.child.stdout.as_mut().expect("it is piped"), &mut up).expect("it says so");
        assert!(process.check().is_ok());
        // The trap runs when the read returns.
        drop(process.child.stdin.take());
        assert_eq!(process.stop().await.expect("it stops").code(), Some(3));
        assert_eq!(fs::read_to_string(&log).expect("it was kept").trim(), "bye");
        let _ = fs::remove_file(&log);
    }
}
