//! Whole copies of a store, made while it is written to.
//!
//! In: a store, and a name that nothing has yet. Out: one file that holds all that was committed when
//! the copy began, on the disk before it gets its name. It is one snapshot of a reader, so no writer waits;
//! meanwhile the write-ahead log grows by what is committed. A copy is kept beside a store, too, before it
//! is brought to a later schema.
//!
//! A copy carries a checksum of itself where SQLite keeps a number of the application (`user_version`),
//! so that `restore` finds every flipped bit. Opening it for writing takes the checksum away.
//!
//! A crash leaves a file named `….partial-…` and never half a copy under the name that was asked for. The
//! next copy to that name removes it.
//!
//! Not here: putting a copy in a store's place (`restore`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axwatch_failpoints::Point;
use axwatch_model::Timestamp;
use rustix::fs::RenameFlags;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection};

use super::connect::read_options;
use super::failpoint;
use super::open::{Beside, Found, cannot_open, inspect, read_meta, sync_folder, unreadable};
use super::rows::{SELECT_AUDIT_HEAD, read_audit_head};
use crate::store::{Opened, StoreError};

/// What is kept free beside a copy: twice what a server keeps on its disk, so that a copy on the same disk
/// does not make it refuse claims.
const KEPT_BYTES_MAX: u64 = 128 << 20;
/// On a small disk it is this part of it.
const KEPT_PART: u64 = 10;
/// From one word about how far a copy is to the next.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// Steps of SQLite between two looks at whether the copy is still wanted.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;
/// Where `user_version` lies in the header of an SQLite file, four bytes, the highest first.
const CHECKSUM_AT: usize = 60;
/// Bytes that are read, or copied, at once.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// What stands between the name of a file and the digits of one that is to become it.
const PARTIAL: &str = ".partial-";
/// What SQLite writes beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];
/// Beside a store these belong to it and its server, whether or not they are there now.
const OF_A_STORE: [&str; 6] = ["-wal", "-journal", "-shm", ".lock", ".token", ".run.json"];

/// Why a store was not copied, or a copy not put in its place.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Something has this name already.
    #[error("{path} is there already")]
    Exists {
        /// The name.
        path: String,
    },
    /// The name is none that a copy can have.
    #[error("{path} cannot be the copy: {reason}")]
    Name {
        /// The name.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// The disk has too little room.
    #[error(
        "the copy needs {}, and on the disk of {path} {} are free, of which {} stay free",
        mebibytes(*.needed_bytes), mebibytes(*.free_bytes), mebibytes(*.kept_bytes)
    )]
    NoRoom {
        /// The folder.
        path: String,
        /// Bytes of the copy, about.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes of these that are not for a copy.
        kept_bytes: u64,
    },
    /// What is to be restored is not one whole file.
    #[error(
        "{path} has a write-ahead log beside it, so it is a store that is in use or was not closed, and no backup; `axwatch backup` makes one of it"
    )]
    NotClosed {
        /// The file.
        path: String,
    },
    /// What is to be restored is no whole store of ours.
    #[error("{path} cannot be restored, so nothing was changed")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: StoreError,
    },
    /// The store cannot be read, or is in use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be written, read or renamed.
    #[error("cannot {step} {path}")]
    File {
        /// What was tried: `write`, `rename`.
        step: &'static str,
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub(super) fn cannot(step: &'static str, path: &Path) -> impl Fn(io::Error) -> CopyError + use<> {
    let path = path.display().to_string();
    move |source| CopyError::File { step, path: path.clone(), source }
}

/// What to do about a file that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it, and refuse.
    Keep,
    /// Put the new one in its place.
    Replace,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes that are written.
    pub bytes: u64,
    /// Bytes that there will be, about.
    pub of_bytes: u64,
}

/// Who wants to know how far a copy is.
pub type OnProgress<'a> = &'a mut (dyn FnMut(CopyProgress) + Send);

/// What a store, or a copy of one, holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// What is known when it is opened.
    pub opened: Opened,
    /// How many records the audit had at its last commit, and the root over them; `None` before the
    /// first.
    pub audit_head: Option<(u64, [u8; 32])>,
    /// When the last commit with records was made; `None` before the first.
    pub last_at: Option<Timestamp>,
}

/// A copy that was made.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Its file.
    pub path: PathBuf,
    /// How long that is.
    pub bytes: u64,
    /// What it holds.
    pub contents: Contents,
}

/// Copies a store, as it is when this begins, into a file of its own. Dropped on the way, it leaves
/// nothing.
pub(super) async fn copy_store(
    store: &Path,
    to: &Path,
    existing: Existing,
    on_progress: OnProgress<'_>,
) -> Result<Backup, CopyError> {
    let store = store.canonicalize().map_err(cannot_open(store))?;
    let to = settle_name(&store, to, existing)?;
    if let Found::Nothing = inspect(&store, Beside::Perhaps).await? {
        let reason = "nothing was ever written to it".to_owned();
        return Err(StoreError::Corrupt { path: store.display().to_string(), reason }.into());
    }
    // What it writes is synchronised once, at the end.
    let options = read_options(&store).pragma("synchronous", "OFF");
    let mut connection = options.connect().await.map_err(unreadable(&store))?;
    let of_bytes = bytes_in_use(&mut connection).await.map_err(failed)?;
    check_room(&to, of_bytes)?;
    let partial = Partial::make(&to)?;
    vacuum_into(&mut connection, &partial, of_bytes, on_progress).await?;
    connection.close().await.map_err(failed)?;
    let contents = read_contents(&partial.path).await?;
    let bytes = partial.seal().await?;
    failpoint(Point::Backup).map_err(failed)?;
    partial.put_in_place(&to, existing)?;
    Ok(Backup { path: to, bytes, contents })
}

/// Keeps a copy of a store that is about to be brought to a later schema, unless there is one that holds
/// the same. Nobody else may have the store.
pub(super) async fn keep_before_migration(path: &Path, schema: i64) -> Result<(), CopyError> {
    let present = read_contents(path).await?;
    for number in 1.. {
        let ending = if number == 1 { String::new() } else { format!(".{number}") };
        let copy = with_ending(path, &format!(".schema-{schema}.bak{ending}"));
        let shown = copy.display().to_string();
        if fs::symlink_metadata(&copy).is_err() {
            tracing::info!(copy = shown, schema, "keeping a copy of the store at its old schema");
            let made = copy_store(path, &copy, Existing::Keep, &mut |_| {}).await?;
            tracing::info!(copy = shown, bytes = made.bytes, "the copy is kept");
            break;
        }
        if is_whole(&copy).await && read_contents(&copy).await.is_ok_and(|kept| kept == present) {
            tracing::info!(copy = shown, schema, "a copy of the store at its old schema is there");
            break;
        }
    }
    Ok(())
}

/// What a store holds whose file nobody changes now.
pub(super) async fn read_contents(path: &Path) -> Result<Contents, StoreError> {
    let alone = !with_ending(path, "-wal").exists();
    let options = read_options(path).immutable(alone);
    let mut connection = options.connect().await.map_err(unreadable(path))?;
    let (opened, _) = read_meta(&mut connection, path).await?;
    let head = sqlx::query(SELECT_AUDIT_HEAD).fetch_optional(&mut connection).await;
    let audit_head = head.map_err(unreadable(path))?.as_ref().map(read_audit_head).transpose()?;
    let last_at: Option<i64> =
        sqlx::query_scalar("SELECT at FROM audit ORDER BY first_leaf DESC LIMIT 1")
            .fetch_optional(&mut connection)
            .await
            .map_err(unreadable(path))?;
    connection.close().await.map_err(unreadable(path))?;
    Ok(Contents { opened, audit_head, last_at: last_at.map(Timestamp::from_ms_clamped) })
}

fn failed(source: sqlx::Error) -> StoreError {
    StoreError::Database { step: "copy the store", source }
}

/// The name of a copy as a whole path, if a copy may have it.
fn settle_name(store: &Path, to: &Path, existing: Existing) -> Result<PathBuf, CopyError> {
    let shown = to.display().to_string();
    let unfit = |reason| CopyError::Name { path: shown.clone(), reason };
    if to.is_dir() {
        return Err(unfit("it is a folder; name a file in it"));
    }
    let name = to.file_name().ok_or_else(|| unfit("it names no file"))?;
    let absolute = std::path::absolute(to).map_err(cannot("find the folder of", to))?;
    let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
    let folder = folder.filter(|folder| folder.is_dir());
    let path = folder.ok_or_else(|| unfit("its folder is not there; make it first"))?.join(name);
    if path.to_str().is_none() {
        return Err(unfit("it is no UTF-8"));
    }
    if path == store || OF_A_STORE.iter().any(|ending| path == with_ending(store, ending)) {
        return Err(unfit("it belongs to the store itself"));
    }
    let Ok(there) = fs::symlink_metadata(&path) else { return Ok(path) };
    if existing == Existing::Keep {
        return Err(CopyError::Exists { path: shown });
    }
    let is_store = store.metadata().is_ok_and(|store| same_file(&store, &there));
    if is_store || !there.is_file() {
        return Err(unfit("it is the store itself, or no regular file"));
    }
    Ok(path)
}

pub(super) fn same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Bytes of the pages that hold something.
async fn bytes_in_use(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let mut read = async |question: &'static str| {
        sqlx::query_scalar::<_, i64>(question).fetch_one(&mut *connection).await
    };
    let pages = read("PRAGMA page_count").await? - read("PRAGMA freelist_count").await?;
    Ok(pages.unsigned_abs() * read("PRAGMA page_size").await?.unsigned_abs())
}

/// Whether there is room for so many bytes more where this file is to be.
pub(super) fn check_room(path: &Path, needed_bytes: u64) -> Result<(), CopyError> {
    let folder = path.parent().unwrap_or(path);
    let space = rustix::fs::statvfs(folder)
        .map_err(|error| cannot("measure the disk of", folder)(error.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    has_room(folder, needed_bytes, bytes(space.f_bavail), bytes(space.f_blocks))
}

fn has_room(folder: &Path, needed: u64, free: u64, total: u64) -> Result<(), CopyError> {
    let kept = KEPT_BYTES_MAX.min(total / KEPT_PART);
    if needed.saturating_add(kept) <= free {
        return Ok(());
    }
    Err(CopyError::NoRoom {
        path: folder.display().to_string(),
        needed_bytes: needed,
        free_bytes: free,
        kept_bytes: kept,
    })
}

async fn vacuum_into(
    connection: &mut SqliteConnection,
    partial: &Partial,
    of_bytes: u64,
    on_progress: OnProgress<'_>,
) -> Result<(), CopyError> {
    let stop = StopOnDrop::default();
    let stopped = Arc::clone(&stop.0);
    let mut handle = connection.lock_handle().await.map_err(failed)?;
    handle.set_progress_handler(STEPS_BETWEEN_LOOKS, move || !stopped.load(Ordering::Relaxed));
    drop(handle);
    let name = partial.path.to_str().expect("it was checked to be UTF-8");
    let copying = sqlx::query("VACUUM INTO ?").bind(name).execute(connection);
    let length = || partial.path.metadata().map_or(0, |metadata| metadata.len());
    let copied = telling(copying, of_bytes, length, on_progress).await;
    copied.map_err(|error| write_error(error, partial, of_bytes))?;
    Ok(())
}

/// A disk that ran full on the way is told as one that has no room.
fn write_error(error: sqlx::Error, partial: &Partial, needed: u64) -> CopyError {
    const SQLITE_FULL: &str = "13";
    let code = error.as_database_error().and_then(|error| error.code());
    if code.is_some_and(|code| code == SQLITE_FULL)
        && let Err(no_room) = check_room(&partial.path, needed)
    {
        return no_room;
    }
    failed(error).into()
}

/// Awaits a copy, and says now and then how far it is.
pub(super) async fn telling<T>(
    copying: impl Future<Output = T>,
    of_bytes: u64,
    written: impl Fn() -> u64,
    on_progress: OnProgress<'_>,
) -> T {
    let mut copying = std::pin::pin!(copying);
    let mut ticks = tokio::time::interval(TOLD_EVERY);
    loop {
        let done = tokio::select! {
            done = &mut copying => Some(done),
            _ = ticks.tick() => None,
        };
        let bytes = written();
        on_progress(CopyProgress { bytes, of_bytes: of_bytes.max(bytes) });
        if let Some(done) = done {
            return done;
        }
    }
}

/// Tells a thread that nobody waits for its work any more.
#[derive(Default)]
pub(super) struct StopOnDrop(pub Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the file is what a copy was when it was made: what it says of itself is right.
async fn is_whole(path: &Path) -> bool {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || checksums(&File::open(path)?)).await;
    matches!(read, Ok(Ok(Checksums { found, computed })) if found == computed)
}

/// The checksum that a file carries, 0 for none, and the one that it should.
pub(super) struct Checksums {
    pub found: u32,
    pub computed: u32,
}

fn checksums(file: &File) -> io::Result<Checksums> {
    let mut hash = Checksum::default();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let length = file.read_at(&mut piece, at)?;
        if length == 0 {
            return Ok(hash.finish());
        }
        hash.update(&mut piece[..length]);
        at += length as u64;
    }
}

/// Hashes a file, piece by piece from its beginning.
#[derive(Default)]
pub(super) struct Checksum {
    hash: Sha256,
    found: Option<u32>,
}

impl Checksum {
    /// The next piece; of the first the checksum that it carries is taken out.
    pub fn update(&mut self, piece: &mut [u8]) {
        if self.found.is_none() {
            let carried = piece.get_mut(CHECKSUM_AT..CHECKSUM_AT + 4);
            self.found = Some(carried.map_or(0, |carried| {
                let found = u32::from_be_bytes(carried.try_into().expect("these are four"));
                carried.fill(0);
                found
            }));
        }
        self.hash.update(piece);
    }

    pub fn finish(self) -> Checksums {
        let hash = self.hash.finalize();
        let first = u32::from_be_bytes(hash[..4].try_into().expect("these are four"));
        // 0 stands for none.
        Checksums { found: self.found.unwrap_or(0), computed: first.max(1) }
    }
}

/// A file that is being written beside the one that it is to become. Removed when dropped before that.
pub(super) struct Partial {
    pub path: PathBuf,
    /// Locked, so that nobody takes it for one that a crash left behind.
    file: File,
    is_in_place: bool,
}

impl Partial {
    /// Makes an empty one, and removes those that a crash left behind.
    pub fn make(to: &Path) -> Result<Partial, CopyError> {
        remove_abandoned(to);
        loop {
            let digits: u64 = rand::random();
            let path = with_ending(to, &format!("{PARTIAL}{digits:016x}"));
            let cannot = cannot("write", &path);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(&cannot)?;
            file.lock().map_err(&cannot)?;
            // Between the two somebody may have taken it for abandoned.
            let (ours, there) = (file.metadata().map_err(&cannot)?, path.metadata());
            if there.is_ok_and(|there| same_file(&ours, &there)) {
                return Ok(Partial { path, file, is_in_place: false });
            }
        }
    }

    /// Its file, to be written by another thread.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Writes the checksum, brings everything to the disk, and answers how long it is.
    pub async fn seal(&self) -> Result<u64, CopyError> {
        let cannot = cannot("write", &self.path);
        let file = self.file().map_err(&cannot)?;
        let sealing = tokio::task::spawn_blocking(move || {
            let Checksums { computed, .. } = checksums(&file)?;
            file.write_all_at(&computed.to_be_bytes(), CHECKSUM_AT as u64)?;
            file.sync_all()?;
            Ok(file.metadata()?.len())
        });
        let sealed = sealing.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        sealed.map_err(&cannot)
    }

    /// Brings it to the disk.
    pub fn sync(&self) -> Result<(), CopyError> {
        self.file.sync_all().map_err(cannot("write", &self.path))
    }

    /// Gives it its name, at once and for good.
    pub fn put_in_place(mut self, to: &Path, existing: Existing) -> Result<(), CopyError> {
        let renamed = match existing {
            Existing::Replace => fs::rename(&self.path, to),
            Existing::Keep => rename_to_new(&self.path, to),
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CopyError::Exists { path: to.display().to_string() },
            _ => cannot("write", to)(error),
        })?;
        self.is_in_place = true;
        sync_folder(to.parent().unwrap_or(to)).map_err(cannot("write the folder of", to))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_in_place {
            remove_whole(&self.path);
        }
    }
}

/// Removes a database that nobody needs, with what SQLite wrote beside it.
fn remove_whole(path: &Path) {
    for ending in COMPANIONS.into_iter().chain([""]) {
        // What cannot be removed is told by nobody: the copy itself is what counts.
        let _ = fs::remove_file(with_ending(path, ending));
    }
}

/// Removes what a crash left behind of copies to this name.
fn remove_abandoned(to: &Path) {
    let Some(beginning) = to.file_name().map(|name| with_ending(Path::new(name), PARTIAL)) else {
        return;
    };
    let entries = to.parent().and_then(|folder| fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let digits = name.to_str().zip(beginning.to_str());
        let digits = digits.and_then(|(name, beginning)| name.strip_prefix(beginning));
        let is_ours = digits.is_some_and(|digits| {
            digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_ours && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            remove_whole(&entry.path());
        }
    }
}

/// Renames, unless the new name is taken.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot promise it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            match fs::symlink_metadata(to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(from, to),
            }
        }
        renamed => Ok(renamed?),
    }
}

/// The same name with something behind it.
pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::connect::write_options;
    use super::super::tests::{claims, fill};
    use super::*;
    use crate::SqliteStore;
    use axwatch_model::Seq;

    /// What lies in a folder, by name, without the locks.
    pub fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock"));
        names.sort_unstable();
        names
    }

    async fn until(folder: &Path, is_so: impl Fn(&[String]) -> bool) {
        let waiting = async {
            while !is_so(&names_in(folder)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("not within a minute: {:?}", names_in(folder)));
    }

    async fn backed_up(store: &Path, to: &Path) -> Result<Backup, CopyError> {
        SqliteStore::back_up(store, to, Existing::Keep, &mut |_| {}).await
    }

    #[tokio::test]
    async fn a_copy_holds_what_was_committed_before_and_nothing_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("axwatch.db"), folder.path().join("copy"));
        let mut writer = SqliteStore::open_writer(&store).await.unwrap();
        fill(writer.as_mut(), 0..3_000).await;
        let mut told = Vec::new();
        let mut tell = |progress: CopyProgress| told.push(progress);
        let copying = SqliteStore::back_up(&store, &copy, Existing::Keep, &mut tell);
        let writing = async {
            for n in 3_000..3_100 {
                crate::append(writer.as_mut(), claims(n..n + 1), Timestamp::from_ms_clamped(3))
                    .await
                    .unwrap();
            }
        };
        let (made, ()) = futures::join!(copying, writing);
        let made = made.unwrap();
        let head = made.contents.opened.head;
        assert!((Seq(3_000)..=Seq(3_100)).contains(&head), "{head}");
        assert_eq!(made.contents.opened.store_id, writer.reader().opened().store_id);
        assert!(
            told.iter().all(|progress| progress.bytes <= progress.of_bytes) && !told.is_empty()
        );
        let metadata = copy.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (made.bytes, 0o600));
        let reader = SqliteStore::open_reader(&copy).await.unwrap();
        assert_eq!(reader.head().await.unwrap(), head);
        assert_eq!(reader.read_after(Seq(0), 9_999).await.unwrap().len() as u64, head.0);
        assert_eq!(reader.find_damage().await.unwrap(), None);
        drop(reader);
        let beside = ["axwatch.db", "axwatch.db-shm", "axwatch.db-wal", "copy"];
        assert_eq!(names_in(folder.path()), beside, "nothing else is left, nor beside the copy");
        assert!(is_whole(&copy).await);
    }

    #[tokio::test]
    async fn every_flipped_bit_is_found_until_a_copy_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("axwatch.db"), folder.path().join("copy"));
        let mut writer = SqliteStore::open_writer(&store).await.unwrap();
        fill(writer.as_mut(), 0..100).await;
        writer.close().await.unwrap();
        backed_up(&store, &copy).await.unwrap();
        let whole = fs::read(&copy).unwrap();
        let header = [0, 18, 24, 59, 60, 61, 63, 64, 96].into_iter();
        for at in header.chain((100..whole.len()).step_by(997)).chain([whole.len() - 1]) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&copy, &flipped).unwrap();
            assert!(!is_whole(&copy).await, "byte {at}");
        }
        fs::write(&copy, &whole[..whole.len() - 1]).unwrap();
        assert!(!is_whole(&copy).await);
        fs::write(&copy, &whole).unwrap();
        SqliteStore::open_writer(&copy).await.unwrap().close().await.unwrap();
        let Checksums { found, .. } = checksums(&File::open(&copy).unwrap()).unwrap();
        assert_eq!(found, 0, "it is a store now");
    }

    #[tokio::test]
    async fn a_name_that_a_copy_cannot_have_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let store = path("axwatch.db");
        let mut writer = SqliteStore::open_writer(&store).await.unwrap();
        fill(writer.as_mut(), 0..3).await;
        fs::write(path("there"), "precious").unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        fs::hard_link(&store, path("again")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let cases = [
            ("there", Existing::Keep, "there already"),
            ("dangling", Existing::Keep, "there already"),
            ("dangling", Existing::Replace, "no regular file"),
            ("again", Existing::Replace, "is the store itself"),
            ("axwatch.db", Existing::Replace, "belongs to the store"),
            ("axwatch.db-journal", Existing::Keep, "belongs to the store"),
            ("axwatch.db.run.json", Existing::Keep, "belongs to the store"),
            ("folder", Existing::Keep, "a folder; name a file"),
            ("missing/copy", Existing::Keep, "its folder is not there"),
        ];
        let before = names_in(folder.path());
        for (name, existing, expected) in cases {
            let refused = SqliteStore::back_up(&store, &path(name), existing, &mut |_| {}).await;
            let told = refused.unwrap_err().to_string();
            assert!(told.contains(expected), "{name}: {told}");
        }
        assert_eq!(fs::read_to_string(path("there")).unwrap(), "precious");
        assert_eq!(names_in(folder.path()), before);
        SqliteStore::back_up(&store, &path("there"), Existing::Replace, &mut |_| {}).await.unwrap();
        assert!(is_whole(&path("there")).await);
    }

    #[tokio::test]
    async fn a_copy_that_is_not_finished_leaves_nothing_that_the_next_one_does_not_remove() {
        let folder = tempfile::tempdir().unwrap();
        let (store, copy) = (folder.path().join("axwatch.db"), folder.path().join("copy"));
        let mut writer = SqliteStore::open_writer(&store).await.unwrap();
        fill(writer.as_mut(), 0..20_000).await;
        let copying = backed_up(&store, &copy);
        tokio::select! {
            biased;
            () = until(folder.path(), |names| names.iter().any(|name| name.contains(PARTIAL))) => {}
            made = copying => panic!("it was not stopped: {made:?}"),
        }
        until(folder.path(), |names| names.len() == 3).await;

        // As a kill leaves them; and what only looks alike.
        let [one, other] = ["copy.partial-0123456789abcdef", "copy.partial-mine"];
        for name in [one, other, "copy.partial-0123456789abcdef-journal"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        let held = File::create(folder.path().join("copy.partial-00000000000000ff")).unwrap();
        held.lock().unwrap();
        backed_up(&store, &copy).await.unwrap();
        let left = names_in(folder.path());
        assert!(!left.iter().any(|name| name.starts_with(one)), "{left:?}");
        assert!(left.contains(&other.to_owned()), "{left:?}");
        assert!(left.contains(&"copy.partial-00000000000000ff".to_owned()), "another's: {left:?}");
    }

    #[test]
    fn room_is_told_in_figures() {
        const MIB: u64 = 1 << 20;
        let folder = Path::new("/f");
        let cases = [
            // (needed, free, total, fits), in MiB
            (100, 228, 100_000, true),
            (100, 227, 100_000, false),
            (10, 20, 100, true),
            (11, 20, 100, false),
            (u64::MAX / MIB, 1, 100, false),
        ];
        for (needed, free, total, fits) in cases {
            let room = has_room(folder, needed * MIB, free * MIB, total * MIB);
            assert_eq!(room.is_ok(), fits, "{needed} of {free}");
        }
        let told = has_room(folder, 300 * MIB, 400 * MIB, 100_000 * MIB).unwrap_err().to_string();
        assert_eq!(
            told,
            "the copy needs 300.0 MiB, and on the disk of /f 400.0 MiB are free, of which 128.0 MiB stay free"
        );
    }

    /// Takes a store back to schema 3, with a table in the way of the step that brings it on.
    async fn blocked(store: &Path, table: &str) {
        SqliteStore::open_writer(store).await.unwrap().close().await.unwrap();
        let sql = format!("{} CREATE TABLE {table} (x)", super::super::tests::back_to_3());
        changed(store, &sql).await;
    }

    async fn changed(store: &Path, sql: &str) {
        let mut connection = write_options(store).connect().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn schema_of(store: &Path) -> Vec<(String, String)> {
        let mut connection = read_options(store).connect().await.unwrap();
        let found = sqlx::query_as("SELECT name, ifnull(sql, '') FROM sqlite_schema ORDER BY name")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        found
    }

    #[tokio::test]
    async fn a_migration_that_fails_anywhere_leaves_the_old_schema_and_one_copy() {
        // One after the other the steps make these.
        let tables = ["passes", "cursors", "holds", "job_seqs", "removed", "quarantine"];
        let later = ["schedules", "routes", "refused", "job_payloads", "job_entries"];
        let pulse = ["schedule_runs", "budgets", "spend", "handler_spend", "handler_changes"];
        for table in tables.into_iter().chain(later).chain(pulse) {
            let folder = tempfile::tempdir().unwrap();
            let store = folder.path().join("axwatch.db");
            blocked(&store, table).await;
            let before = (schema_of(&store).await, read_contents(&store).await.unwrap());
            assert_eq!(before.1.opened.schema, 3);
            for _ in 0..2 {
                let error = SqliteStore::open_writer(&store).await.err().unwrap();
                assert!(matches!(error, StoreError::Database { .. }), "{error}");
                let after = (schema_of(&store).await, read_contents(&store).await.unwrap());
                assert_eq!(after, before, "{table} was in the way");
            }
            let kept = folder.path().join("axwatch.db.schema-3.bak");
            assert_eq!(read_contents(&kept).await.unwrap(), before.1);
            let count = names_in(folder.path()).iter().filter(|name| name.contains(".bak")).count();
            assert_eq!(count, 1, "the same is not kept twice");

            changed(&store, &format!("DROP TABLE {table}")).await;
            let writer = SqliteStore::open_writer(&store).await.unwrap();
            let opened = writer.reader().opened().clone();
            assert_eq!((opened.schema, opened.epoch), (7, before.1.opened.epoch + 1));
            writer.close().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_copy_of_something_else_is_not_taken_for_the_one_that_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("axwatch.db");
        let kept = |ending: &str| folder.path().join(format!("axwatch.db.schema-3.bak{ending}"));
        blocked(&store, "holds").await;
        fs::write(kept(""), "somebody's notes").unwrap();
        SqliteStore::open_writer(&store).await.err().unwrap();
        assert_eq!(fs::read_to_string(kept("")).unwrap(), "somebody's notes");
        // Damaged meanwhile, or of another moment.
        let mut bytes = fs::read(kept(".2")).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(kept(".2"), bytes).unwrap();
        SqliteStore::open_writer(&store).await.err().unwrap();
        assert!(is_whole(&kept(".3")).await);
        changed(&store, "UPDATE meta SET value = 77 WHERE key = 'matched_seq'").await;
        SqliteStore::open_writer(&store).await.err().unwrap();
        assert_eq!(read_contents(&kept(".4")).await.unwrap().opened.matched_seq, Seq(77));
        assert!(!kept(".5").exists());
    }

    #[tokio::test]
    async fn a_store_of_which_no_copy_can_be_kept_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("axwatch.db");
        blocked(&store, "holds").await;
        changed(&store, "DROP TABLE holds").await;
        // No name of a file can be longer than 255 bytes.
        let long = folder.path().join("x".repeat(250));
        fs::rename(&store, &long).unwrap();
        let before = fs::read(&long).unwrap();
        let error = SqliteStore::open_writer(&long).await.err().unwrap();
        assert!(matches!(&error, StoreError::NotKept { wanted: 7, .. }), "{error}");
        assert!(fs::read(&long).unwrap() == before);
    }
}
