//! Putting a copy in a store's place.
//!
//! In: the file of a copy, and where the store is to be. It is copied beside that place and looked
//! through there, so that what was checked is what is put in force; then one rename does it, and what was
//! in the place before is kept under another name. Both locks of the store are held all the while.
//!
//! A crash leaves the old store or the new one, whole. The one exception is an old store that is damaged
//! and has a write-ahead log that cannot be moved into it: it may be found whole, as it was, under its
//! other name alone.
//!
//! Not here: making copies (`backup`), recomputing the audit of one (whoever calls; the tree is not the
//! store's affair).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axwatch_model::Timestamp;
use sqlx::{ConnectOptions, Connection};

use super::backup::{
    COMPANIONS, Checksum, Checksums, Contents, CopyError, Existing, OnProgress, PIECE_BYTES,
    Partial, StopOnDrop, cannot, check_room, read_contents, same_file, telling, with_ending,
};
use super::connect::write_options;
use super::doctor::{self, Examined};
use super::lock::{DatabaseLock, lock_beside, patiently};
use super::open::{Beside, Found, cannot_open, inspect, refuse_network, settle_path, sync_folder};
use crate::store::StoreError;

/// A restored store goes on at the next multiple of this, so that no epoch comes twice: the store that
/// the copy was made of may have been opened often since then, and nobody may be left to say how often.
const EPOCHS_PER_RESTORE: u64 = 1_000_000;

/// Where the header of an SQLite file says how it is written and read, and what it says there of one
/// that has no write-ahead log.
const VERSIONS_AT: u64 = 18;
const WITHOUT_WAL: [u8; 2] = [1, 1];

/// A copy on its way into a store's place. Nothing has changed there until [`Restoring::put_in_place`];
/// dropped before that, it leaves nothing.
pub struct Restoring {
    from: PathBuf,
    to: PathBuf,
    partial: Partial,
    contents: Contents,
    has_checksum: bool,
    _database: Option<DatabaseLock>,
    _beside: File,
}

/// A store that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Its file.
    pub path: PathBuf,
    /// Where what was there before is now; `None` when nothing was.
    pub aside: Option<PathBuf>,
    /// The last epoch that counts as used: the next opening for writing is one more.
    pub epoch: u64,
}

/// Copies `from` beside `to`, and looks at what can be seen at once: whether it is a store whose
/// schema we know, and whole as far as it says of itself.
pub(super) async fn begin(
    from: &Path,
    to: &Path,
    existing: Existing,
    on_progress: OnProgress<'_>,
) -> Result<Restoring, CopyError> {
    let from = from.canonicalize().map_err(cannot("read", from))?;
    look_at_backup(&from).await?;
    let to = settle_path(to).map_err(cannot_open(to))?;
    refuse_network(&to).map_err(cannot_open(&to))?;
    let beside = patiently(|| lock_beside(&to)).await?;
    let database = lock_what_is_there(&from, &to, existing).await?;
    let bytes = from.metadata().map_err(cannot("read", &from))?.len();
    check_room(&to, bytes)?;
    let partial = Partial::make(&to)?;
    let Checksums { found, computed } = copy_file(&from, &partial, bytes, on_progress).await?;
    if found != 0 && found != computed {
        return Err(corrupt(&from, "it is not as it was when it was made: its checksum differs"));
    }
    let contents = read_contents(&partial.path).await;
    let contents = contents.map_err(|error| unfit(&from)(told_of(&from, &partial.path, error)))?;
    let has_checksum = found != 0;
    Ok(Restoring {
        from,
        to,
        partial,
        contents,
        has_checksum,
        _database: database,
        _beside: beside,
    })
}

fn unfit(from: &Path) -> impl Fn(StoreError) -> CopyError + use<> {
    let path = from.display().to_string();
    move |source| CopyError::Unfit { path: path.clone(), source }
}

fn corrupt(from: &Path, reason: &str) -> CopyError {
    let (path, reason) = (from.display().to_string(), reason.to_owned());
    unfit(from)(StoreError::Corrupt { path, reason })
}

async fn look_at_backup(from: &Path) -> Result<(), CopyError> {
    if !from.is_file() {
        return Err(corrupt(from, "it is no regular file"));
    }
    let log = |ending| with_ending(from, ending).metadata().is_ok_and(|log| log.len() > 0);
    if log("-wal") || log("-journal") {
        return Err(CopyError::NotClosed { path: from.display().to_string() });
    }
    match inspect(from, Beside::Nobody).await.map_err(unfit(from))? {
        Found::Nothing => Err(corrupt(from, "nothing was ever written to it")),
        Found::Schema(_) => Ok(()),
    }
}

/// Takes the lock on the store that is there, if there is one, and nobody else has it.
async fn lock_what_is_there(
    from: &Path,
    to: &Path,
    existing: Existing,
) -> Result<Option<DatabaseLock>, CopyError> {
    let Ok(there) = to.metadata() else { return Ok(None) };
    if from.metadata().is_ok_and(|from| same_file(&from, &there)) {
        let reason = "it is the file that is to be restored";
        return Err(CopyError::Name { path: to.display().to_string(), reason });
    }
    let lock = patiently(|| DatabaseLock::take(to)).await?;
    if there.len() > 0 && existing == Existing::Keep {
        return Err(CopyError::Exists { path: to.display().to_string() });
    }
    settle_old(to).await?;
    Ok(Some(lock))
}

async fn copy_file(
    from: &Path,
    partial: &Partial,
    bytes: u64,
    on_progress: OnProgress<'_>,
) -> Result<Checksums, CopyError> {
    let source = File::open(from).map_err(cannot("read", from))?;
    let target = partial.file().map_err(cannot("write", &partial.path))?;
    let (stop, written) = (StopOnDrop::default(), Arc::new(AtomicU64::new(0)));
    let (stopped, so_far) = (Arc::clone(&stop.0), Arc::clone(&written));
    let copying =
        tokio::task::spawn_blocking(move || copy_pieces(&source, &target, &stopped, &so_far));
    let copied = telling(copying, bytes, || written.load(Ordering::Relaxed), on_progress).await;
    copied.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(cannot("copy", from))
}

fn copy_pieces(
    source: &File,
    target: &File,
    stopped: &AtomicBool,
    written: &AtomicU64,
) -> io::Result<Checksums> {
    let mut checksum = Checksum::default();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while !stopped.load(Ordering::Relaxed) {
        let length = source.read_at(&mut piece, at)?;
        if length == 0 {
            // A closed store says that it has a write-ahead log, and who read it would make one.
            target.write_all_at(&WITHOUT_WAL, VERSIONS_AT)?;
            return Ok(checksum.finish());
        }
        // Before the checksum takes itself out of the first.
        target.write_all_at(&piece[..length], at)?;
        checksum.update(&mut piece[..length]);
        at += length as u64;
        written.store(at, Ordering::Relaxed);
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// An error about the copy, told of the file that it was made of.
fn told_of(from: &Path, partial: &Path, error: StoreError) -> StoreError {
    let (path, copy) = (from.display().to_string(), partial.display().to_string());
    match error {
        StoreError::Corrupt { path: told, reason } if told == copy => {
            StoreError::Corrupt { path, reason }
        }
        error => error,
    }
}

impl Restoring {
    /// What the copy holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Whether it carried a checksum, and so is, to the last bit, what a backup wrote.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// The copy, to be read and not to be written to.
    pub fn path(&self) -> &Path {
        &self.partial.path
    }

    /// The refusal of what it was made of, for a reason that the caller found.
    pub fn refusal(&self, reason: &str) -> CopyError {
        corrupt(&self.from, reason)
    }

    /// Looks through the whole copy: the file, every row, and whether they agree. Takes as long as reading
    /// all of it does, and more.
    ///
    /// # Errors
    /// [`CopyError::Unfit`] when that cannot be done; what is wrong is no error, but told.
    pub async fn examine(&self) -> Result<Examined, CopyError> {
        let examined = doctor::examine(&self.partial.path).await;
        examined.map_err(|error| unfit(&self.from)(told_of(&self.from, &self.partial.path, error)))
    }

    /// Puts the copy in force. `at` goes into the name under which the old store is kept.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a process still reads the old store; what a disk says. The old store is
    /// then as it was.
    pub async fn put_in_place(self, at: Timestamp) -> Result<Restored, CopyError> {
        let old_epoch = settle_old(&self.to).await?.unwrap_or(0);
        let epoch = epoch_after(old_epoch.max(self.contents.opened.epoch));
        self.make_a_store(epoch).await?;
        self.partial.sync()?;
        let aside = move_aside(&self.to, at)?;
        self.partial.put_in_place(&self.to, Existing::Replace)?;
        Ok(Restored { path: self.to, aside, epoch })
    }

    /// Makes of the copy what is opened next: a closed store with its new epoch, and no backup any more.
    async fn make_a_store(&self, epoch: u64) -> Result<(), CopyError> {
        let failed = super::failed("write the epoch into the copy");
        let path = &self.partial.path;
        let mut connection = write_options(path).connect().await.map_err(&failed)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        sqlx::query("UPDATE meta SET value = ? WHERE key = 'epoch'")
            .bind(epoch.cast_signed())
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        sqlx::raw_sql("PRAGMA user_version = 0")
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        // The last connection to go moves the write-ahead log into the file and removes it.
        connection.close().await.map_err(&failed)?;
        match has_something(&with_ending(path, "-wal")) {
            false => Ok(()),
            true => Err(cannot("close", path)(io::Error::other("its write-ahead log stays"))),
        }
    }
}

fn epoch_after(last: u64) -> u64 {
    (last / EPOCHS_PER_RESTORE + 1) * EPOCHS_PER_RESTORE
}

fn has_something(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() > 0)
}

/// Moves all of an old store into its one file, and answers its epoch. What cannot be read, or is no
/// store of ours, stays as it is.
async fn settle_old(path: &Path) -> Result<Option<u64>, CopyError> {
    if !has_something(path) {
        return Ok(None);
    }
    let Ok(Found::Schema(_)) = inspect(path, Beside::Nobody).await else { return Ok(None) };
    let Ok(mut connection) = write_options(path).connect().await else { return Ok(None) };
    let busy = sqlx::query_scalar::<_, i64>("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(&mut connection)
        .await;
    let epoch = sqlx::query_scalar::<_, i64>("SELECT value FROM meta WHERE key = 'epoch'")
        .fetch_one(&mut connection)
        .await;
    // One that cannot be closed well is as damaged as one that cannot be opened.
    let _ = connection.close().await;
    if busy.is_ok_and(|busy| busy != 0) {
        let holder = "a process that reads it".to_owned();
        return Err(StoreError::InUse { path: path.display().to_string(), holder }.into());
    }
    Ok(epoch.ok().map(i64::unsigned_abs))
}

/// Gives what is in the place another name too, and takes away what lies beside it, so that one rename
/// can put a copy there.
fn move_aside(path: &Path, at: Timestamp) -> Result<Option<PathBuf>, CopyError> {
    let logs = ["-wal", "-journal"].map(|ending| (ending, with_ending(path, ending)));
    let logs: Vec<_> = logs.into_iter().filter(|(_, log)| has_something(log)).collect();
    let mut aside = None;
    if has_something(path) || !logs.is_empty() {
        let name = free_name(path, at);
        if has_something(path) {
            give_second_name(path, &name).map_err(cannot("keep", path))?;
        }
        for (ending, log) in logs {
            fs::rename(&log, with_ending(&name, ending)).map_err(cannot("keep", &log))?;
        }
        aside = Some(name);
    }
    for ending in COMPANIONS {
        let companion = with_ending(path, ending);
        match fs::remove_file(&companion) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot("remove", &companion)(error));
            }
            _ => {}
        }
    }
    sync_folder(path.parent().unwrap_or(path)).map_err(cannot("write the folder of", path))?;
    Ok(aside)
}

/// `NAME.before-restore-2026-11-21T113000Z`, or the next like it that nothing has.
fn free_name(path: &Path, at: Timestamp) -> PathBuf {
    let seconds = Timestamp::from_ms_clamped(at.ms() - at.ms().rem_euclid(1_000));
    let date = seconds.to_string().replace(':', "");
    let name = |number: u32| {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        with_ending(path, &format!(".before-restore-{date}{more}"))
    };
    let is_free = |name: &PathBuf| {
        ["", "-wal", "-journal"]
            .iter()
            .all(|ending| fs::symlink_metadata(with_ending(name, ending)).is_err())
    };
    (1..).map(name).find(is_free).expect("not all numbers are taken")
}

/// A second name, so that the first one is never without a store. Where files have only one, the first
/// goes.
fn give_second_name(path: &Path, name: &Path) -> io::Result<()> {
    match fs::hard_link(path, name) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::TooManyLinks
            ) =>
        {
            fs::rename(path, name)
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_epoch_comes_twice() {
        for (last, next) in [(0, 1_000_000), (7, 1_000_000), (1_000_012, 2_000_000)] {
            assert_eq!(epoch_after(last), next, "{last}");
        }
    }
}
