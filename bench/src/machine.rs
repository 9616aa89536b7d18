//! What the figures were measured on.

use std::{fs, path::Path, process::Command};

/// A line for each thing that matters.
pub(crate) fn describe(root: &Path, work: &Path, postgres: &str) -> Vec<(&'static str, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("unknown", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    vec![
        ("CPU", format!("{cores} cores, {model}")),
        ("memory", format!("{:.1} GiB", kib as f64 / f64::from(1 << 20))),
        ("file system", file_system(&mounts, work).unwrap_or_else(|| "unknown".to_owned())),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()),
        ("PostgreSQL", postgres.to_owned()),
        ("rustc", said(Command::new("rustc").arg("--version"))),
        ("commit", commit(root)),
    ]
}

fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| said(Command::new("git").arg("-C").arg(root).arg("--no-optional-locks").args(arguments));
    let id = git(&["rev-parse", "--short=12", "HEAD"]);
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_empty() { id } else { format!("{id}, with changes") }
}

fn said(command: &mut Command) -> String {
    command.output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// Type and device of the file system that a folder is on: an fsync on one in memory costs nothing, and proves nothing.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let lines = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let (device, _, kind) = lines.filter(|(_, at, _)| path.starts_with(at)).max_by_key(|(_, at, _)| at.len())?;
    Some(format!("{kind} on {device}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount_point() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /var/tmp tmpfs rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/var/tmp/x")).as_deref(), Some("tmpfs on tmpfs"));
        assert_eq!(file_system(mounts, Path::new("/var/tmpfoo")).as_deref(), Some("ext4 on /dev/vda"));
        assert_eq!(file_system("", Path::new("/")), None);
    }
}
