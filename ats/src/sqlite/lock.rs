//! Who may write: one writer for a database at a time, over all processes and all names of the file.
//!
//! Two locks, as each alone can be passed by. The lock file beside the database says who has it, but
//! is another one for a hard link, and can be deleted. The lock on the database itself goes by the
//! file, whatever its name, but cannot say who has it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::open::cannot_open;
use crate::store::StoreError;

/// Both locks. To be dropped after all connections.
pub(super) struct Lock {
    pub _database: DatabaseLock,
    pub _file: File,
}

/// How long a lock may still be held by a process that is ending, or by a child that has not yet
/// become another program.
const ENDING_WITHIN: Duration = Duration::from_secs(1);
/// From one try to the next.
const TRIED_EVERY: Duration = Duration::from_millis(20);

/// Takes a lock, with patience for a holder that is on its way out: after a kill -9 the lock goes a
/// moment later than the process that was waited for.
pub(super) async fn patiently<T>(
    take: impl Fn() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let deadline = tokio::time::Instant::now() + ENDING_WITHIN;
    loop {
        match take() {
            Err(StoreError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(TRIED_EVERY).await;
            }
            taken => return taken,
        }
    }
}

/// Takes the lock file beside the database.
pub(super) fn lock_beside(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let cannot = cannot_open(Path::new(&name));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(&cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(path, read_holder(&mut file))),
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(&cannot)?;
    Ok(file)
}

fn in_use(path: &Path, holder: String) -> StoreError {
    StoreError::InUse { path: path.display().to_string(), holder }
}

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok())
    {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// Our handles of databases, by device and inode.
///
/// None is ever closed, because closing any handle of a file lets go of all locks that SQLite holds on
/// it in this process. They are as many as the databases that this process ever opened for writing.
static HANDLES: Mutex<BTreeMap<(u64, u64), Handle>> = Mutex::new(BTreeMap::new());

struct Handle {
    file: File,
    /// Whether a writer of this process has it: the handle itself would let it have it twice.
    is_held: bool,
}

fn handles() -> MutexGuard<'static, BTreeMap<(u64, u64), Handle>> {
    HANDLES.lock().expect("nobody panics while holding the handles")
}

/// The lock on the database file itself.
pub(super) struct DatabaseLock {
    device_and_inode: (u64, u64),
}

impl DatabaseLock {
    /// Takes the lock on a file that is there.
    pub fn take(path: &Path) -> Result<DatabaseLock, StoreError> {
        let cannot = cannot_open(path);
        let mut handles = handles();
        let metadata = path.metadata().map_err(&cannot)?;
        let device_and_inode = (metadata.dev(), metadata.ino());
        let handle = match handles.entry(device_and_inode) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let file = File::open(path).map_err(&cannot)?;
                unknown.insert(Handle { file, is_held: false })
            }
        };
        if handle.is_held {
            return Err(in_use(path, format!("process {}", std::process::id())));
        }
        match handle.file.try_lock() {
            Ok(()) => handle.is_held = true,
            Err(TryLockError::WouldBlock) => {
                return Err(in_use(path, "another process".to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        Ok(DatabaseLock { device_and_inode })
    }
}

impl Drop for DatabaseLock {
    fn drop(&mut self) {
        if let Some(handle) = handles().get_mut(&self.device_and_inode) {
            // It was locked; were it to stay so, the next to open would be told.
            let _ = handle.file.unlock();
            handle.is_held = false;
        }
    }
}
