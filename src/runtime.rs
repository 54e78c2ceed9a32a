//! The two files by which commands find a running server: where it listens, and the token it wants.
//!
//! They lie beside the store, readable by their owner alone, are written whole or not at all, and are
//! gone when the server has ended. After a crash they are stale, which shows in the store's lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the runtime file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `http://HOST:PORT`, or `https://`.
    pub http: String,
    /// The server's process.
    pub pid: u32,
    /// With `https`: the SHA-256 of the server's certificate, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// The files of a server that runs; removed when this is dropped.
#[derive(Debug)]
pub struct RuntimeFiles {
    run: PathBuf,
    token: PathBuf,
}

impl RuntimeFiles {
    /// Writes them, the token first: who sees the runtime file finds the token too.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(store: &Path, runtime: &Runtime, token: &str) -> io::Result<RuntimeFiles> {
        let files =
            RuntimeFiles { run: beside(store, ".run.json"), token: beside(store, ".token") };
        write_private(&files.token, token)?;
        let json = serde_json::to_string(runtime).expect("a runtime is always JSON");
        write_private(&files.run, &json)?;
        Ok(files)
    }
}

impl Drop for RuntimeFiles {
    fn drop(&mut self) {
        // What stays behind is seen to be stale.
        let _ = fs::remove_file(&self.run);
        let _ = fs::remove_file(&self.token);
    }
}

/// What the runtime file of this store says, if there is one that can be read.
pub fn read(store: &Path) -> Option<Runtime> {
    let text = fs::read_to_string(beside(store, ".run.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// The token of the server of this store.
///
/// # Errors
/// What the file system says.
pub fn read_token(store: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(beside(store, ".token"))?.trim().to_owned())
}

/// Whether some process holds the store for writing. When in doubt, it does.
pub fn is_held(store: &Path) -> bool {
    match File::open(beside(store, ".lock")) {
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The one path of a store, however it was named.
pub fn settle(store: &Path) -> PathBuf {
    let absolute = || std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
    store.canonicalize().unwrap_or_else(|_| {
        let absolute = absolute();
        let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
        match (folder, absolute.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => absolute,
        }
    })
}

/// The folder of the plugin host beside the store. Made when it is needed.
pub fn plugin_home(store: &Path) -> PathBuf {
    beside(store, ".plugins")
}

fn beside(store: &Path, ending: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, ".new");
    // One that a crash left behind may have other rights.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_files_are_private_and_gone_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("a.db");
        let runtime = Runtime { http: "http://127.0.0.1:1".into(), pid: 7, certificate: None };
        let files = RuntimeFiles::write(&store, &runtime, "secret").unwrap();
        assert_eq!(read(&store), Some(runtime));
        assert_eq!(read_token(&store).unwrap(), "secret");
        let mode = fs::metadata(folder.path().join("a.db.token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(files);
        assert_eq!(read(&store), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_that_nobody_has_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("a.db");
        assert!(!is_held(&store));
        let lock = File::create(folder.path().join("a.db.lock")).unwrap();
        assert!(!is_held(&store));
        lock.lock().unwrap();
        assert!(is_held(&store));
    }
}
