//! The data directory: how it is made, who may use it, and the small files in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use raven_engine::Entropy;

/// Only its owner may use the directory.
const DIR_MODE: u32 = 0o700;
/// Only their owner may read the files.
const FILE_MODE: u32 = 0o600;
/// Nodes on one data directory that share a PostgreSQL.
const NODES_MAX: usize = 64;

/// Makes the data directory, closed to others, if there is none.
pub(crate) fn make_data_dir(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .with_context(|| format!("the data directory {} can't be made", path.display()))
}

/// Permission bits of a file that others than its owner have.
pub(crate) fn open_to_others(path: &Path) -> std::io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077)
}

/// A lock on a file, held until it is dropped (or the process ends, however it does).
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Takes the data directory of an embedded database for one server.
///
/// # Errors
/// When another process has it.
pub(crate) fn lock_data_dir(data_dir: &Path) -> anyhow::Result<Lock> {
    let path = data_dir.join("raven.lock");
    let mut file = open_private(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (process {pid})"),
            };
            bail!(
                "another server{holder} uses {} and holds {}: one server for each embedded database; stop that one, or choose another directory with --data-dir",
                data_dir.display(),
                path.display()
            );
        }
        Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("{} can't be locked", path.display())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("{} can't be written", path.display()))?;
    Ok(Lock(file))
}

/// The id of this node, kept in the data directory so that a restart finds what it left behind. Several processes may share
/// a directory when they share a PostgreSQL: each takes the first id that no other holds.
///
/// # Errors
/// When the directory can't be used, or all of them are held.
pub(crate) fn node_id(data_dir: &Path, entropy: &dyn Entropy) -> anyhow::Result<(String, Lock)> {
    make_data_dir(data_dir)?;
    for n in 1..=NODES_MAX {
        let path = data_dir.join(if n == 1 { "node-id".to_owned() } else { format!("node-id.{n}") });
        let mut file = open_private(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("{} can't be locked", path.display())),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("{} can't be read", path.display()))?;
        let kept = text.trim();
        if !kept.is_empty() {
            let id = crate::config::parse::node_id(kept).map_err(|reason| anyhow::anyhow!("{}: {reason}", path.display()))?;
            return Ok((id, Lock(file)));
        }
        let id = format!("node-{}", hex(&random::<8>(entropy)?));
        writeln!(file, "{id}").and_then(|()| file.sync_all()).with_context(|| format!("{} can't be written", path.display()))?;
        return Ok((id, Lock(file)));
    }
    bail!("{NODES_MAX} processes hold the node ids in {}: give this one its own with RAVEN_NODE_ID", data_dir.display())
}

/// Makes an empty file that only its owner can read, unless there is one.
pub(crate) fn touch_private(path: &Path) -> anyhow::Result<()> {
    open_private(path).map(drop)
}

/// Writes a file that only its owner can read: whole, or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = with_suffix(path, ".new");
    let written = (|| {
        // What an earlier, interrupted try left may have another mode.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.with_context(|| format!("{} can't be written", path.display()))
}

/// `N` random bytes.
pub(crate) fn random<const N: usize>(entropy: &dyn Entropy) -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

/// A random id (UUIDv4).
pub(crate) fn random_uuid(entropy: &dyn Entropy) -> anyhow::Result<uuid::Uuid> {
    Ok(uuid::Builder::from_random_bytes(random(entropy)?).into_uuid())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn open_private(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .with_context(|| format!("{} can't be opened", path.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use raven_engine::OsEntropy;

    #[test]
    fn the_directory_and_its_files_are_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        make_data_dir(&data).unwrap();
        write_private(&data.join("x"), "one").unwrap();
        write_private(&data.join("x"), "two").unwrap();
        assert_eq!(fs::read_to_string(data.join("x")).unwrap(), "two");
        assert_eq!((open_to_others(&data).unwrap(), open_to_others(&data.join("x")).unwrap()), (0, 0));
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_locked_once_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock_data_dir(dir.path()).unwrap();
        let refused = lock_data_dir(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("raven.lock") && refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(lock);
        lock_data_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_node_keeps_its_id_and_its_neighbour_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let (first, lock) = node_id(dir.path(), &OsEntropy).unwrap();
        let (second, other) = node_id(dir.path(), &OsEntropy).unwrap();
        assert_ne!(first, second);
        drop((lock, other));
        assert_eq!(node_id(dir.path(), &OsEntropy).unwrap().0, first);
    }
}
