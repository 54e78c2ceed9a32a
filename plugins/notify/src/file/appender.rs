//! Whole lines at the end of files, from many jobs at once.
//!
//! In come lines for paths; out goes a word for each line: it stands in the file, or why not. Lines
//! for one file that arrive while it is being written wait and go out together in one write, and with
//! one fsync if any of them asks for it. What survives a crash: every line that was reported as
//! standing (with fsync also a crash of the machine). A line that a crash cut in two stays as it
//! is; the next write begins with a newline, so that every later line is whole.
//!
//! A file is locked (`flock`) while it is written, so that two writers of this kind never disturb
//! each other's repairs, and it is opened again when its path leads elsewhere, as after a rotation.
//!
//! Not here: what a line says, what an error means for the job (`super`).

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot};

/// Files that stay open while nobody writes to them.
const IDLE_FILES_MAX: usize = 64;
/// Files that are written at the same time.
const WRITERS_MAX: usize = 32;
/// Times that a path is opened again because it leads elsewhere by the time that the file is locked.
const REOPENS_MAX: usize = 8;
/// How long somebody else may hold a file's lock.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// Of a new file, before umask: claims may be private, so others do not read them.
const MODE: u32 = 0o640;

/// Why a line does not stand in its file.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AppendError {
    /// The folder in which the file would be is not there.
    #[error("the folder {} does not exist", .0.display())]
    NoFolder(PathBuf),
    /// It cannot be opened for reading and writing.
    #[error("cannot open it")]
    Open { source: Arc<io::Error> },
    /// A folder, device, socket or pipe.
    #[error("it is {0} and no regular file")]
    NotRegular(&'static str),
    /// Its lock is held, or its path never leads to the same file twice.
    #[error("another program holds its lock")]
    Locked,
    /// The disk is full, for example. Nothing of the line is left behind.
    #[error("cannot write to it")]
    Write { source: Arc<io::Error> },
    /// The line is written and may be lost with the machine.
    #[error("cannot make sure that it is on the disk")]
    Sync { source: Arc<io::Error> },
}

impl AppendError {
    /// Whether the same line may stand later, when somebody makes room or a folder.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            AppendError::Open { source } => !matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::InvalidFilename
            ),
            AppendError::NotRegular(_) => false,
            AppendError::NoFolder(_)
            | AppendError::Locked
            | AppendError::Write { .. }
            | AppendError::Sync { .. } => true,
        }
    }
}

/// The files that lines are appended to.
pub(crate) struct Files {
    targets: Mutex<HashMap<PathBuf, Arc<Target>>>,
    /// Counts uses, so that the least recently used file is known.
    uses: AtomicU64,
    writers: Arc<Semaphore>,
}

impl Default for Files {
    fn default() -> Files {
        Files {
            targets: Mutex::default(),
            uses: AtomicU64::new(0),
            writers: Arc::new(Semaphore::new(WRITERS_MAX)),
        }
    }
}

impl Files {
    /// Appends a line, which has to end with its only newline. Returns when it stands; with `fsync`
    /// when it is on the disk.
    pub(crate) async fn append(
        &self,
        path: &Path,
        line: Vec<u8>,
        fsync: bool,
    ) -> Result<(), AppendError> {
        let target = self.target(path);
        let (done, told) = oneshot::channel();
        if target.queue(Waiting { line, fsync, done }) {
            let (target, writers) = (target.clone(), self.writers.clone());
            // A task of its own: the job that began it may be cancelled, and others wait for it.
            tokio::spawn(async move {
                let place = writers.acquire_owned().await.expect("the semaphore is never closed");
                tokio::task::spawn_blocking(move || {
                    target.write_all_waiting();
                    drop(place);
                });
            });
        }
        told.await.expect("whoever takes a line from the queue answers it")
    }

    fn target(&self, path: &Path) -> Arc<Target> {
        let mut targets = lock(&self.targets);
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        if !targets.contains_key(path) {
            make_room(&mut targets);
            targets.insert(path.to_owned(), Arc::new(Target::new(path)));
        }
        let target = &targets[path];
        target.used.store(used, Ordering::Relaxed);
        target.clone()
    }
}

/// Closes the least recently used of those files that nobody is writing to.
fn make_room(targets: &mut HashMap<PathBuf, Arc<Target>>) {
    while targets.len() >= IDLE_FILES_MAX {
        let idle = targets.values().filter(|target| Arc::strong_count(target) == 1);
        let Some(oldest) = idle.min_by_key(|target| target.used.load(Ordering::Relaxed)) else {
            return;
        };
        let path = oldest.path.clone();
        targets.remove(&path);
    }
}

/// One path.
struct Target {
    path: PathBuf,
    used: AtomicU64,
    queue: Mutex<Queue>,
    open: Mutex<Option<Open>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Somebody is writing, and looks here again before he stops.
    attended: bool,
}

struct Waiting {
    line: Vec<u8>,
    fsync: bool,
    done: oneshot::Sender<Result<(), AppendError>>,
}

impl Target {
    fn new(path: &Path) -> Target {
        Target {
            path: path.to_owned(),
            used: AtomicU64::new(0),
            queue: Mutex::default(),
            open: Mutex::default(),
        }
    }

    /// Returns whether the caller has to see to it that somebody writes.
    fn queue(&self, line: Waiting) -> bool {
        let mut queue = lock(&self.queue);
        queue.waiting.push(line);
        !std::mem::replace(&mut queue.attended, true)
    }

    fn write_all_waiting(&self) {
        loop {
            let batch = {
                let mut queue = lock(&self.queue);
                if queue.waiting.is_empty() {
                    queue.attended = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            self.write(batch);
        }
    }

    fn write(&self, batch: Vec<Waiting>) {
        let lines: Vec<&[u8]> = batch.iter().map(|waiting| waiting.line.as_slice()).collect();
        let fsync = batch.iter().any(|waiting| waiting.fsync);
        let written = append(&mut lock(&self.open), &self.path, &lines, fsync);
        for (index, waiting) in batch.into_iter().enumerate() {
            let answer = match &written.error {
                Some(error) if index >= written.lines => Err(error.clone()),
                _ => Ok(()),
            };
            // Whoever waited for it may have been cancelled.
            let _ = waiting.done.send(answer);
        }
    }
}

/// How far an append came: the first `lines` stand, and `error` is why the others do not.
struct Written {
    lines: usize,
    error: Option<AppendError>,
}

fn append(slot: &mut Option<Open>, path: &Path, lines: &[&[u8]], fsync: bool) -> Written {
    let open = match locked(slot, path) {
        Ok(open) => open,
        Err(error) => return Written { lines: 0, error: Some(error) },
    };
    let mut written = open.append(lines, |mut file, bytes| file.write(bytes));
    if fsync
        && written.lines > 0
        && let Err(error) = open.sync(path)
    {
        let source = Arc::new(error);
        written = Written { lines: 0, error: Some(AppendError::Sync { source }) };
    }
    open.unlock();
    written
}

/// The file that the path leads to, locked.
fn locked<'a>(slot: &'a mut Option<Open>, path: &Path) -> Result<&'a mut Open, AppendError> {
    for _ in 0..REOPENS_MAX {
        let open = match slot.take() {
            Some(open) => open,
            None => Open::new(path)?,
        };
        open.lock()?;
        if open.is_at(path) {
            return Ok(slot.insert(open));
        }
        // Rotated or removed: dropping it lets its lock go.
    }
    Err(AppendError::Locked)
}

/// A file that is open for appending.
struct Open {
    file: File,
    device: u64,
    inode: u64,
    /// Whether its name is on the disk as well.
    name_is_synced: bool,
}

impl Open {
    fn new(path: &Path) -> Result<Open, AppendError> {
        // NONBLOCK: a pipe without a reader would hold us for ever, before we know that it is one.
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
            .open(path);
        let file = opened.map_err(|error| open_error(path, error))?;
        let metadata = file.metadata().map_err(|error| open_error(path, error))?;
        if !metadata.is_file() {
            return Err(AppendError::NotRegular(kind(&metadata)));
        }
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(Open { file, device, inode, name_is_synced: false })
    }

    fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    fn lock(&self) -> Result<(), AppendError> {
        let until = Instant::now() + LOCK_WITHIN;
        loop {
            match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() >= until => {
                    return Err(AppendError::Locked);
                }
                Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
                // Some network file systems have no locks. O_APPEND still keeps lines apart there.
                Err(_) => return Ok(()),
            }
        }
    }

    fn unlock(&self) {
        // What could not be locked cannot be unlocked either.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }

    /// Appends all lines with one write, unless the system takes less of it.
    fn append(
        &self,
        lines: &[&[u8]],
        write: impl FnMut(&File, &[u8]) -> io::Result<usize>,
    ) -> Written {
        let failed = |source| AppendError::Write { source: Arc::new(source) };
        let (size, torn) = match self.end() {
            Ok(end) => end,
            Err(error) => return Written { lines: 0, error: Some(failed(error)) },
        };
        let mut bytes = Vec::with_capacity(1 + lines.iter().map(|line| line.len()).sum::<usize>());
        bytes.extend(torn.then_some(b'\n'));
        let heading = bytes.len();
        lines.iter().for_each(|line| bytes.extend_from_slice(line));
        let (taken, error) = write_whole(&self.file, &bytes, write);
        let Some(error) = error else { return Written { lines: lines.len(), error: None } };
        let (whole, keep) = whole_lines(lines, heading, taken);
        self.cut(size + taken as u64, size + keep as u64);
        Written { lines: whole, error: Some(failed(error)) }
    }

    /// The file's size, and whether its last line lacks its end.
    fn end(&self) -> io::Result<(u64, bool)> {
        let size = self.file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            self.file.read_exact_at(&mut last, size - 1)?;
        }
        Ok((size, last != [b'\n']))
    }

    /// Takes back a piece of a line. When that fails, or somebody without the lock has written behind
    /// it, it stays: the next write begins with a newline.
    fn cut(&self, size: u64, keep: u64) {
        let untouched = self.file.metadata().is_ok_and(|metadata| metadata.len() == size);
        if untouched && size > keep {
            let _ = self.file.set_len(keep);
        }
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        if !self.name_is_synced {
            File::open(folder(path))?.sync_all()?;
            self.name_is_synced = true;
        }
        Ok(())
    }
}

/// Writes until all is taken or an error comes. Returns how much was taken.
fn write_whole(
    file: &File,
    bytes: &[u8],
    mut write: impl FnMut(&File, &[u8]) -> io::Result<usize>,
) -> (usize, Option<io::Error>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match write(file, &bytes[taken..]) {
            Ok(0) => return (taken, Some(io::ErrorKind::WriteZero.into())),
            Ok(more) => taken += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, Some(error)),
        }
    }
    (taken, None)
}

/// How many lines are whole in the first `taken` bytes, and how many bytes those are, with what stands
/// before the first line.
fn whole_lines(lines: &[&[u8]], heading: usize, taken: usize) -> (usize, usize) {
    let mut end = heading;
    let mut whole = (0, 0);
    for (index, line) in lines.iter().enumerate() {
        end += line.len();
        if end > taken {
            break;
        }
        whole = (index + 1, end);
    }
    whole
}

fn open_error(path: &Path, error: io::Error) -> AppendError {
    match error.kind() {
        io::ErrorKind::NotFound => AppendError::NoFolder(folder(path).to_owned()),
        io::ErrorKind::IsADirectory => AppendError::NotRegular("a folder"),
        _ if Errno::from_io_error(&error) == Some(Errno::NXIO) => {
            AppendError::NotRegular("a pipe or socket")
        }
        _ => AppendError::Open { source: Arc::new(error) },
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() { "a folder" } else { "a device or pipe" }
}

/// The folder that a file lies in.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// A poisoned lock means that one of our own promises broke; what it guards is whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir, content: &[u8]) -> (PathBuf, Open) {
        let path = folder.path().join("lines");
        std::fs::write(&path, content).unwrap();
        let open = Open::new(&path).unwrap();
        (path, open)
    }

    /// A disk that takes so many bytes and then none.
    fn room(mut left: usize) -> impl FnMut(&File, &[u8]) -> io::Result<usize> {
        move |mut file, bytes| {
            if left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = file.write(&bytes[..bytes.len().min(left)])?;
            left -= taken;
            Ok(taken)
        }
    }

    #[test]
    fn a_full_disk_leaves_whole_lines_and_nothing_else() {
        let cases: [(&str, usize, usize, &str); 7] = [
            // (before, room, lines that stand, after)
            ("", 100, 3, "one\ntwo\nthree\n"),
            ("", 0, 0, ""),
            ("", 3, 0, ""),
            ("", 4, 1, "one\n"),
            ("old\n", 11, 2, "old\none\ntwo\n"),
            ("torn", 3, 0, "torn"),
            ("torn", 5, 1, "torn\none\n"),
        ];
        for (before, left, lines, after) in cases {
            let folder = tempfile::tempdir().unwrap();
            let (path, open) = open(&folder, before.as_bytes());
            let written = open.append(&[b"one\n", b"two\n", b"three\n"], room(left));
            assert_eq!(written.lines, lines, "{before:?} with room for {left}");
            assert_eq!(written.error.is_some(), lines < 3, "{before:?} with room for {left}");
            assert_eq!(std::fs::read_to_string(path).unwrap(), after, "{before:?} {left}");
        }
    }

    #[test]
    fn what_somebody_else_wrote_behind_a_piece_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, open) = open(&folder, b"");
        let mut calls = 0;
        let written = open.append(&[b"one\n"], |mut file, _| {
            calls += 1;
            if calls == 1 {
                return file.write(b"on");
            }
            OpenOptions::new().append(true).open(&path)?.write_all(b"theirs\n")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(written.lines, 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ontheirs\n");
    }

    #[tokio::test]
    async fn lines_of_many_callers_stay_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        // Two sets of files, as two processes would have: only the lock and O_APPEND keep them apart.
        let both = [Arc::new(Files::default()), Arc::new(Files::default())];
        let calls: Vec<_> = (0..400)
            .map(|number| {
                let (files, path) = (both[number % 2].clone(), path.clone());
                let line = format!("{number} {}\n", "x".repeat(number * 37 % 5000));
                tokio::spawn(async move { files.append(&path, line.into_bytes(), false).await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut numbers: Vec<usize> = Vec::new();
        for line in text.lines() {
            let (number, rest) = line.split_once(' ').expect("a whole line");
            let number = number.parse().expect("a number");
            assert_eq!(rest, "x".repeat(number * 37 % 5000));
            numbers.push(number);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..400).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn open_files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::default();
        for round in 0..2 {
            for number in 0..100 {
                let path = folder.path().join(number.to_string());
                files.append(&path, format!("{round}\n").into_bytes(), false).await.unwrap();
            }
        }
        assert!(lock(&files.targets).len() <= IDLE_FILES_MAX);
        for number in 0..100 {
            let text = std::fs::read_to_string(folder.path().join(number.to_string())).unwrap();
            assert_eq!(text, "0\n1\n", "{number}");
        }
    }

    #[tokio::test]
    async fn a_lock_that_somebody_holds_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (path, theirs) = open(&folder, b"");
        theirs.lock().unwrap();
        let files = Files::default();
        let call = files.append(&path, b"mine\n".to_vec(), true);
        let mut call = std::pin::pin!(call);
        let early = tokio::time::timeout(Duration::from_millis(50), &mut call).await;
        assert!(early.is_err(), "the lock was not waited for");
        theirs.unlock();
        call.await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine\n");
    }
}
