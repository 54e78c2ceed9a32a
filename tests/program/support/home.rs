//! A folder of its own for each test: store, configuration, ledgers, and the log of the server.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, Server, Zoo, processes, within};

/// The program.
pub fn axwatch_path() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_axwatch"))
}

/// A folder with a store, a configuration, and what is said there.
pub struct Home {
    folder: PathBuf,
    /// In the environment of everything that is started here, so that it can be found.
    tag: String,
    store_folder: RefCell<PathBuf>,
    failpoints: RefCell<String>,
    variables: RefCell<Vec<(String, String)>>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output as JSON, an object a line.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}\n{self:?}"))
        };
        self.out.lines().map(parse).collect()
    }

    /// The only object on standard output.
    pub fn object(&self) -> Value {
        let mut objects = self.json();
        assert_eq!(objects.len(), 1, "one line is expected: {self:?}");
        objects.remove(0)
    }

    /// `error` of the JSON on standard error, where `--json` puts it.
    pub fn error(&self) -> Value {
        let line = self.err.lines().last().unwrap_or_else(|| panic!("no error: {self:?}"));
        let said: Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"));
        said["error"].clone()
    }

    /// The command must have ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Each of the texts must stand somewhere in what it said.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Ran {
        for text in texts {
            assert!(self.err.contains(text) || self.out.contains(text), "no {text:?} in {self:?}");
        }
        self
    }
}

/// A command that runs, with its input open.
pub struct Running {
    child: Child,
    said: Vec<JoinHandle<String>>,
}

impl Running {
    /// Starts a command.
    pub fn start(mut command: Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let out = child.stdout.take().expect("it is piped");
        let err = child.stderr.take().expect("it is piped");
        Running { child, said: vec![read_all(out), read_all(err)] }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its input. A command that does not read any more is what the test finds out later.
    pub fn write(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("the input is open");
        let _ = input.write_all(text.as_bytes()).and_then(|()| input.flush());
    }

    /// Closes its input and waits for its end.
    pub fn finish(mut self) -> Ran {
        drop(self.child.stdin.take());
        let status = within(3 * PATIENCE, "a command ends", || {
            self.child.try_wait().expect("a child can be waited for")
        });
        let mut said = self.said.drain(..).map(|thread| thread.join().expect("it only reads"));
        let (out, err) = (said.next().unwrap_or_default(), said.next().unwrap_or_default());
        Ran { code: status.code().unwrap_or(-1), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Home {
    /// A new one. `name` says which test it is of.
    pub fn new(name: &str) -> Home {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // None is the beginning of another.
        let tag = format!("axwatch-{name}-{}-{count:05}", std::process::id());
        let folder = std::env::temp_dir().join(&tag);
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        let store_folder = RefCell::new(folder.clone());
        Home {
            folder,
            tag,
            store_folder,
            failpoints: RefCell::default(),
            variables: RefCell::default(),
        }
    }

    /// Puts a variable into the environment of all that is started from now on.
    pub fn set(&self, name: &str, value: &str) {
        self.variables.borrow_mut().push((name.to_owned(), value.to_owned()));
    }

    /// A file in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.store_folder.borrow().join("axwatch.db")
    }

    /// Puts the store into a folder of this one.
    pub fn put_store_into(&self, folder: &str) {
        *self.store_folder.borrow_mut() = self.path(folder);
    }

    /// What is in the environment of every process that is started here.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Writes the configuration.
    pub fn configure(&self, toml: &str) -> &Home {
        fs::write(self.path("am.toml"), toml).expect("am.toml can be written");
        self
    }

    /// Configures these plugins and nothing else.
    pub fn configure_zoo(&self, zoo: &[Zoo]) -> &Home {
        self.configure(&self.zoo_toml(zoo))
    }

    /// The configuration of these plugins, to which a test may add its own.
    pub fn zoo_toml(&self, zoo: &[Zoo]) -> String {
        Zoo::to_toml(zoo, self)
    }

    /// The log of the servers that ran here.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// The program, about to be run here. Nothing of our own environment reaches it but `PATH`.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(axwatch_path());
        command.args(args).current_dir(&self.folder).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.folder).env("ZOO_TAG", &self.tag);
        command.envs(self.variables.borrow().iter().cloned());
        command
    }

    /// Starts a command on this store, with `--json`.
    pub fn start(&self, args: &[&str]) -> Running {
        let store = self.store();
        let mut command = self.command(args);
        command.arg("--json").arg("--store").arg(store);
        Running::start(command)
    }

    /// Runs a command on this store, with `--json`.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.start(args).finish()
    }

    /// Runs a command as people do: on this store, without `--json`.
    pub fn run_plain(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.arg("--store").arg(self.store());
        Running::start(command).finish()
    }

    /// Runs a command as it is.
    pub fn run_bare(&self, args: &[&str]) -> Ran {
        Running::start(self.command(args)).finish()
    }

    /// Runs a command that must go well, and answers the objects that it printed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        self.run(args).expect(0).json()
    }

    /// Runs a command that must go well, and answers the only object that it printed.
    #[track_caller]
    pub fn object(&self, args: &[&str]) -> Value {
        self.run(args).expect(0).object()
    }

    /// Pipes lines into `axwatch as -`.
    pub fn pipe(&self, lines: &str) -> Ran {
        let mut running = self.start(&["as", "-"]);
        running.write(lines);
        running.finish()
    }

    /// Starts a server here.
    #[track_caller]
    pub fn serve(&self) -> Server {
        Server::start(self).unwrap_or_else(|ran| panic!("axwatch serve did not start: {ran:?}"))
    }

    /// Starts a server that must not come up, and answers how it ended.
    #[track_caller]
    pub fn serve_in_vain(&self) -> Ran {
        match Server::start(self) {
            Ok(_) => panic!("axwatch serve came up"),
            Err(ran) => ran,
        }
    }

    /// What servers that are started from now on fail at; nothing when it is empty.
    pub fn arm(&self, failpoints: &str) {
        failpoints.clone_into(&mut self.failpoints.borrow_mut());
    }

    /// What a server is to fail at.
    pub(super) fn failpoints(&self) -> String {
        self.failpoints.borrow().clone()
    }

    /// Looks into the database, or changes it.
    pub fn database(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.store()).expect("the store is a database");
        database.busy_timeout(Duration::from_secs(10)).expect("a timeout can be set");
        database
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Whatever a failed test left behind must not disturb the next one.
        for pid in processes::tagged(&self.tag) {
            processes::signal(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("the folder of this test is kept: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
