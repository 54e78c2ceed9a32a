//! The folder of one run: the store, the records beside it, and what the processes logged.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::watchers::PLUGIN;

/// Where everything of a run lies.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

/// What a run is, for whoever looks at it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub seed: u64,
    pub kills: u64,
    /// The version of the program.
    pub version: String,
}

impl Folder {
    /// A new folder: the one that is named if there is nothing in it, else one in it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make(named: &Path, seed: u64) -> Result<Folder> {
        let cannot = |path: &Path| format!("cannot make the folder {}", path.display());
        let absolute = std::path::absolute(named).with_context(|| cannot(named))?;
        make_all(&absolute).with_context(|| cannot(&absolute))?;
        let root = absolute.canonicalize().with_context(|| cannot(&absolute))?;
        let is_empty = fs::read_dir(&root).with_context(|| cannot(&root))?.next().is_none();
        if is_empty {
            return Ok(Folder { root });
        }
        for run in 1.. {
            let name = if run == 1 { String::new() } else { format!("-{run}") };
            let inner = root.join(format!("torture-{seed}{name}"));
            match DirBuilder::new().mode(0o700).create(&inner) {
                Ok(()) => return Ok(Folder { root: inner }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| cannot(&inner)),
            }
        }
        unreachable!("the numbers do not end")
    }

    /// A folder of an earlier run.
    pub fn of(root: &Path) -> Folder {
        Folder { root: root.to_owned() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The engine's store.
    pub fn store(&self) -> PathBuf {
        self.root.join("axwatch.db")
    }

    /// The engine's configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("am.toml")
    }

    /// What the driver wrote down.
    pub fn acks(&self) -> PathBuf {
        self.root.join("driver.jsonl")
    }

    /// What the plugin wrote down.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.jsonl")
    }

    /// What was done to watchers.
    pub fn deeds(&self) -> PathBuf {
        self.root.join("deeds.jsonl")
    }

    /// What befell the engine.
    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// Which limit the plugin registers its changing watcher with.
    pub fn registration(&self) -> PathBuf {
        self.root.join("registration.json")
    }

    /// The process that the plugin is at present.
    pub fn plugin_pid(&self) -> PathBuf {
        self.root.join("ledger.pid")
    }

    /// What the engine logged.
    pub fn engine_log(&self) -> PathBuf {
        self.root.join("engine.log")
    }

    /// What the driver complained of.
    pub fn driver_log(&self) -> PathBuf {
        self.root.join("driver.log")
    }

    fn about(&self) -> PathBuf {
        self.root.join("torture.json")
    }

    /// Says what the run is, and configures its engine.
    ///
    /// # Errors
    /// What the file system says.
    pub fn prepare(&self, about: &About, program: &Path) -> Result<()> {
        write(&self.about(), &serde_json::to_string(about)?)?;
        write(&self.config(), &self.toml(program))
    }

    /// What the run was.
    ///
    /// # Errors
    /// It is none of a run.
    pub fn read_about(&self) -> Result<About> {
        let path = self.about();
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{} is no folder of an axwatch torture", self.root.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Texts of JSON are texts of TOML.
    fn toml(&self, program: &Path) -> String {
        let text = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
        format!(
            "[plugin]\nenabled = [\"{PLUGIN}\"]\n\n[plugins.{PLUGIN}]\nbinary = {}\n\
             args = [\"torture\", \"ledger\", \"--folder\", {}, \
             \"--port\", \"{{port}}\"]\nmax_in_flight = 128\n",
            text(program),
            text(&self.root),
        )
    }

    /// Says which limit the plugin is to register its changing watcher with; none: not at all. Whoever
    /// reads meanwhile sees the one or the other.
    ///
    /// # Errors
    /// What the file system says.
    pub fn register(&self, flipped: Option<u32>) -> Result<()> {
        let new = self.root.join("registration.new");
        write(&new, &serde_json::to_string(&flipped)?)?;
        fs::rename(&new, self.registration()).context("cannot change the plugin's registration")
    }
}

fn make_all(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let opened = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_in_it_gets_one_of_its_own() {
        let place = std::env::temp_dir().join(format!("axwatch-folder-{}", std::process::id()));
        let first = Folder::make(&place, 7).unwrap();
        assert_eq!(first.path(), place.canonicalize().unwrap());
        let about = About { seed: 7, kills: 3, version: "1".into() };
        first.prepare(&about, Path::new("/a\"b")).unwrap();
        assert_eq!(first.read_about().unwrap(), about);
        for name in ["torture-7", "torture-7-2"] {
            let next = Folder::make(&place, 7).unwrap();
            assert_eq!(next.path(), first.path().join(name));
        }
        fs::remove_dir_all(&place).unwrap();
    }
}
