//! What the operator says about plugins, checked before any of them is started.
//!
//! In: values that the program read from its configuration. Out: for each plugin the file to run and
//! how to treat it. What is wrong here is one plugin's failure, never the host's.
//!
//! Not here: the text of `am.toml` (`axwatch`'s `config`), starting anything (`super::process`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::RetryLimits;
use axwatch_model::{HandlerName, PluginName};
use semver::{Version, VersionReq};

/// The version of the plugin protocol that we speak, unless the operator says otherwise.
const PROTOCOL_VERSION: Version = Version::new(0, 2, 0);

/// The highest number of attempts that a plugin may be allowed to have in flight.
pub const MAX_IN_FLIGHT_MAX: u32 = 4_096;

/// Bytes that one HTTP or WebSocket body to or from a plugin may have, unless the operator says
/// otherwise.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// All that the host needs to know before it starts.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// The plugins to run.
    pub plugins: Vec<PluginSettings>,
    /// Where plugins without a `binary` are looked for, in this order.
    pub search_paths: Vec<PathBuf>,
    /// What a plugin's `qntx_version` constraint is held against.
    pub protocol_version: Version,
    /// How the sockets of browsers to plugins are kept alive.
    pub keepalive: Keepalive,
    /// Bytes that one HTTP or WebSocket body to or from a plugin may have.
    pub body_bytes_max: usize,
    /// A folder of our own beside the store, made when it is needed: for copies of pinned programs, and
    /// by its place the mark of processes that are ours. Without it nothing can be pinned, and processes
    /// that a killed engine left behind are not looked for.
    pub home: Option<PathBuf>,
    /// What a plugin leaves behind when it kills its launcher becomes ours, and is ended. Only for a program
    /// that starts no other processes than plugins: it could not tell them apart. For the same reason nothing is
    /// adopted by process 1 of a container, and by one that has children when the host starts.
    pub adopts_orphans: bool,
    /// Reads the configuration of a plugin anew, for a restart or a reconfiguration that people ask for.
    /// Without it the settings stay as they are.
    pub reload: Option<Reload>,
}

impl Default for HostSettings {
    fn default() -> HostSettings {
        HostSettings {
            plugins: Vec::new(),
            search_paths: Vec::new(),
            protocol_version: PROTOCOL_VERSION,
            keepalive: Keepalive::default(),
            body_bytes_max: BODY_BYTES_MAX,
            home: None,
            adopts_orphans: false,
            reload: None,
        }
    }
}

/// How the sockets of browsers to plugins are kept alive: `[plugin.websocket.keepalive]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// From one PING to the plugin to the next.
    pub ping_interval: Duration,
    /// How long no PONG may come until the socket is closed.
    pub pong_timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive { ping_interval: Duration::from_secs(30), pong_timeout: Duration::from_secs(60) }
    }
}

/// Reads the configuration of one plugin anew. May read files; the error is for people.
#[derive(Clone)]
pub struct Reload(Arc<ReadAnew>);

type ReadAnew = dyn Fn(&PluginName) -> Result<PluginSettings, String> + Send + Sync;

impl Reload {
    /// One that does this.
    pub fn new(
        read: impl Fn(&PluginName) -> Result<PluginSettings, String> + Send + Sync + 'static,
    ) -> Reload {
        Reload(Arc::new(read))
    }

    /// The settings of this plugin as they are written now.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub fn read(&self, plugin: &PluginName) -> Result<PluginSettings, String> {
        (self.0)(plugin)
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reload")
    }
}

impl HostSettings {
    /// The plugins whose claims may store handlers.
    #[must_use]
    pub fn handler_makers(&self) -> BTreeSet<PluginName> {
        let makers = self.plugins.iter().filter(|plugin| plugin.handlers);
        makers.map(|plugin| plugin.name.clone()).collect()
    }

    /// When jobs are given up, by plugin and handler.
    #[must_use]
    pub fn retry_limits(&self) -> BTreeMap<(PluginName, Option<HandlerName>), RetryLimits> {
        let of = |plugin: &PluginSettings| {
            let (name, retry) = (plugin.name.clone(), plugin.retry.clone());
            retry.into_iter().map(move |(handler, limits)| ((name.clone(), handler), limits))
        };
        self.plugins.iter().flat_map(of).collect()
    }
}

/// A file to run, and the arguments that come before all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Such as `plugin serve git`.
    pub args: Vec<String>,
}

/// How one plugin is run and treated: `[plugins.NAME]`, and its own table.
#[derive(Debug, Clone)]
pub struct PluginSettings {
    /// Its configured name, which its Metadata must repeat.
    pub name: PluginName,
    /// The file to run; looked for under its usual names when `None`. A name without a slash is
    /// looked for in the search paths and then in `PATH`.
    pub binary: Option<PathBuf>,
    /// What runs when there is no `binary` and the search paths have none: for plugins that ship with
    /// the host.
    pub shipped: Option<Program>,
    /// Arguments. With `{port}` in one of them no `--port` is added.
    pub args: Vec<String>,
    /// What is added to its environment.
    pub env: BTreeMap<String, String>,
    /// The deadline of one attempt.
    pub execute_timeout: Duration,
    /// How long Initialize may take.
    pub initialize_timeout: Duration,
    /// How long it may take until Metadata is answered.
    pub ready_timeout: Duration,
    /// Attempts in flight at most; 1 to [`MAX_IN_FLIGHT_MAX`].
    pub max_in_flight: u32,
    /// It may listen beyond loopback.
    pub allow_remote: bool,
    /// Its watchers mean "never" when they say 0 fires a second.
    pub zero_rate_never: bool,
    /// What the SHA-256 of its file must be, in hex.
    pub sha256: Option<String>,
    /// Bytes of memory that all of its processes together may use; `None` is no limit.
    pub memory_bytes_max: Option<u64>,
    /// Its HTTP routes and its sockets are for everyone on this machine: no token is asked for.
    pub open: bool,
    /// Its claims may store handlers, for any plugin that runs them.
    pub handlers: bool,
    /// When jobs of one of its handlers are given up, or, under `None`, those of all others.
    pub retry: BTreeMap<Option<HandlerName>, RetryLimits>,
    /// Its own table: nested keys joined with dots, scalars as text, the rest as JSON.
    pub config: BTreeMap<String, String>,
    /// The keys of `config` whose values came from variables of our environment, with what was written
    /// there: `env:NAME`. Such values are shown nowhere.
    pub from_env: BTreeMap<String, String>,
    /// All values that came from variables of our environment, in `config`, `env` and `args`. They are
    /// taken out of what the plugin prints and says.
    pub secrets: BTreeSet<String>,
}

impl PluginSettings {
    /// A plugin about which nothing is configured but its name.
    #[must_use]
    pub fn new(name: PluginName) -> PluginSettings {
        PluginSettings {
            name,
            binary: None,
            shipped: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            execute_timeout: Duration::from_secs(300),
            initialize_timeout: Duration::from_secs(120),
            ready_timeout: Duration::from_secs(30),
            max_in_flight: 64,
            allow_remote: false,
            zero_rate_never: false,
            sha256: None,
            memory_bytes_max: None,
            open: false,
            handlers: false,
            retry: BTreeMap::new(),
            config: BTreeMap::new(),
            from_env: BTreeMap::new(),
            secrets: BTreeSet::new(),
        }
    }
}

/// Why there is nothing to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// No file under any of the names in any of the places.
    #[error(
        "no program was found for plugin {plugin}: looked for {names} in {places}; put it there, or set plugins.{plugin}.binary"
    )]
    NotFound {
        /// Whose.
        plugin: PluginName,
        /// The names, joined with commas.
        names: String,
        /// The folders, joined with commas.
        places: String,
    },
    /// Not there, a folder, or without the right to execute it.
    #[error("{} {problem}", path.display())]
    NotExecutable {
        /// What was looked at.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not the file that the operator pinned.
    #[error("{} has SHA-256 {found}, and plugins.{plugin}.sha256 says {expected}", path.display())]
    OtherDigest {
        /// Whose.
        plugin: PluginName,
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// It is pinned, and cannot be copied to where it would be executed from.
    #[error(
        "plugins.{plugin}.sha256 is set, and its program cannot be copied to be checked: {reason}"
    )]
    NoPlace {
        /// Whose.
        plugin: PluginName,
        /// Why.
        reason: String,
    },
    /// It cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The program that runs this plugin, there and executable.
///
/// Source: `binary` of the settings, else the plugin's usual names in `search_paths`, else what ships
/// with the host. A shipped plugin is not looked for under its bare name: a `git` in a folder of
/// programs is hardly a plugin.
pub(crate) fn find_program(
    settings: &PluginSettings,
    search_paths: &[PathBuf],
) -> Result<Program, BinaryError> {
    let program = match (&settings.shipped, &settings.binary) {
        (Some(shipped), None) => {
            let names = usual_names(&settings.name);
            let names = names.into_iter().filter(|name| name != settings.name.as_str());
            match search(&settings.name, &names.collect::<Vec<_>>(), search_paths) {
                Ok(path) => Program { path, args: Vec::new() },
                Err(BinaryError::NotFound { .. }) => shipped.clone(),
                Err(error) => return Err(error),
            }
        }
        _ => Program { path: find_binary(settings, search_paths)?, args: Vec::new() },
    };
    Ok(program)
}

fn find_binary(
    settings: &PluginSettings,
    search_paths: &[PathBuf],
) -> Result<PathBuf, BinaryError> {
    match &settings.binary {
        Some(given) if given.components().count() > 1 || given.is_absolute() => {
            check_executable(given)?;
            Ok(given.clone())
        }
        Some(bare) => {
            let from_path = std::env::var_os("PATH").unwrap_or_default();
            let places: Vec<_> =
                search_paths.iter().cloned().chain(std::env::split_paths(&from_path)).collect();
            search(&settings.name, &[bare.to_string_lossy().into_owned()], &places)
        }
        None => search(&settings.name, &usual_names(&settings.name), search_paths),
    }
}

/// The names under which a plugin's program may lie, in the order in which they are looked for. The
/// last two are what earlier versions of this host asked for.
fn usual_names(name: &PluginName) -> [String; 6] {
    [
        format!("qntx-{name}-plugin"),
        format!("qntx-{name}"),
        format!("axwatch-{name}"),
        name.to_string(),
        format!("axwatch-{name}-plugin"),
        format!("axwatch-plugin-{name}"),
    ]
}

fn search(
    plugin: &PluginName,
    names: &[String],
    places: &[PathBuf],
) -> Result<PathBuf, BinaryError> {
    let candidates = || places.iter().flat_map(|place| names.iter().map(|name| place.join(name)));
    if let Some(found) = candidates().find(|path| check_executable(path).is_ok()) {
        return Ok(found);
    }
    // A file that is there but cannot be run is the better explanation.
    if let Some(there) = candidates().find(|path| path.is_file()) {
        check_executable(&there)?;
    }
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    let places = if places.is_empty() {
        "no folder (plugin.paths is empty)".into()
    } else {
        places.join(", ")
    };
    Err(BinaryError::NotFound { plugin: plugin.clone(), names: names.join(", "), places })
}

fn check_executable(path: &Path) -> Result<(), BinaryError> {
    let problem = match std::fs::metadata(path) {
        Err(_) => "is not there",
        Ok(found) if !found.is_file() => "is not a file",
        Ok(found) if found.permissions().mode() & 0o111 == 0 => "may not be executed; chmod +x it",
        Ok(_) => return Ok(()),
    };
    Err(BinaryError::NotExecutable { path: path.to_owned(), problem })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written to it");
        text
    })
}

/// The arguments of a plugin that is to listen on `port`.
pub(crate) fn arguments(configured: &[String], port: u16) -> Vec<String> {
    const PLACE: &str = "{port}";
    let port = port.to_string();
    let filled = configured.iter().map(|argument| argument.replace(PLACE, &port));
    if configured.iter().any(|argument| argument.contains(PLACE)) {
        return filled.collect();
    }
    ["--port".to_owned(), port.clone()].into_iter().chain(filled).collect()
}

/// Names of our own variables that a plugin sees too. All others stay with us: they may hold secrets.
const PASSED_ON: [&str; 17] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "TERM",
];

/// The whole environment of a plugin: what is harmless of `ours`, and what the operator added.
pub(crate) fn environment(
    ours: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    added: &BTreeMap<String, String>,
) -> BTreeMap<std::ffi::OsString, std::ffi::OsString> {
    let mut kept: BTreeMap<_, _> = ours.filter(|(name, _)| is_passed_on(name)).collect();
    kept.extend(added.iter().map(|(name, value)| (name.into(), value.into())));
    kept
}

fn is_passed_on(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        PASSED_ON.contains(&name) || name.starts_with("LC_") || name.starts_with("XDG_")
    })
}

/// Holds a plugin's version constraint against the version that we speak.
///
/// Commas and blanks both mean "and", `||` means "or", as other hosts of the protocol have it. An
/// empty one accepts anything.
///
/// # Errors
/// A text that says what is wrong, for people.
pub(crate) fn check_version(constraint: &str, ours: &Version) -> Result<(), String> {
    let constraint = constraint.trim();
    if constraint.is_empty() {
        return Ok(());
    }
    for alternative in constraint.split("||") {
        let wanted = VersionReq::parse(&with_commas(alternative)).map_err(|error| {
            format!("its qntx_version {constraint:?} is not a version constraint: {error}")
        })?;
        if wanted.matches(ours) {
            return Ok(());
        }
    }
    Err(format!("it wants protocol version {constraint:?}, and this host speaks {ours}"))
}

/// Puts the commas that Rust's semver wants between comparators: `>= 0.1 <v0.3` is `>=0.1,<0.3`.
fn with_commas(alternative: &str) -> String {
    let mut text = String::with_capacity(alternative.len());
    for word in alternative.split([' ', ',']).filter(|word| !word.is_empty()) {
        let (operator, version) =
            word.split_at(word.find(|c: char| !"<>=~^".contains(c)).unwrap_or(word.len()));
        let after_version = text.ends_with(|c: char| !"<>=~^".contains(c));
        if after_version {
            text.push(',');
        }
        text.push_str(operator);
        text.push_str(version.strip_prefix('v').unwrap_or(version));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str) -> PluginSettings {
        PluginSettings::new(name.parse().unwrap())
    }

    fn executable(path: &Path) {
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_port_is_put_where_it_is_wanted() {
        let cases: [(&[&str], &[&str]); 3] = [
            (&[], &["--port", "4711"]),
            (&["--verbose"], &["--port", "4711", "--verbose"]),
            (&["--address", "127.0.0.1:{port}"], &["--address", "127.0.0.1:4711"]),
        ];
        for (configured, expected) in cases {
            let configured: Vec<_> = configured.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(arguments(&configured, 4711), expected);
        }
    }

    #[test]
    fn only_what_is_harmless_is_passed_on() {
        let ours = [("PATH", "/bin"), ("LC_ALL", "C"), ("AXWATCH_TOKEN", "s"), ("AWS_KEY", "s")];
        let added = BTreeMap::from([("TOKEN".to_owned(), "given".to_owned())]);
        let seen = environment(ours.iter().map(|(n, v)| (n.into(), v.into())), &added);
        let names: Vec<_> = seen.keys().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(names, ["LC_ALL", "PATH", "TOKEN"]);
    }

    #[test]
    fn a_program_is_found_under_each_usual_name() {
        let names = [
            "axwatch-plugin-git",
            "axwatch-git-plugin",
            "git",
            "axwatch-git",
            "qntx-git",
            "qntx-git-plugin",
        ];
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let places = folders.each_ref().map(|folder| folder.path().to_owned());
        // Each comes before those that were there, and a folder before the next.
        for place in places.iter().rev() {
            for file in names {
                executable(&place.join(file));
                let found = find_program(&settings("git"), &places).unwrap();
                assert_eq!(found.path, place.join(file));
            }
        }
    }

    #[test]
    fn what_ships_gives_way_to_what_the_operator_put_there() {
        let folder = tempfile::tempdir().unwrap();
        let places = [folder.path().to_owned()];
        let ours = Program { path: "/bin/sh".into(), args: vec!["serve".into(), "git".into()] };
        let shipped = PluginSettings { shipped: Some(ours.clone()), ..settings("git") };
        let found = || find_program(&shipped, &places).unwrap();
        assert_eq!(found(), ours);
        // Somebody's git, which is no plugin.
        executable(&folder.path().join("git"));
        assert_eq!(found(), ours);
        let theirs = folder.path().join("qntx-git-plugin");
        executable(&theirs);
        assert_eq!(found(), Program { path: theirs.clone(), args: vec![] });
        let binary = folder.path().join("git");
        let chosen = PluginSettings { binary: Some(binary.clone()), ..shipped.clone() };
        assert_eq!(find_program(&chosen, &places).unwrap(), Program { path: binary, args: vec![] });
        // One that is there and cannot be run is a mistake to tell, not one to pass over.
        std::fs::set_permissions(&theirs, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(find_program(&shipped, &places), Err(BinaryError::NotExecutable { .. })));
    }

    #[test]
    fn what_cannot_be_run_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let places = [folder.path().to_owned()];
        let check = |settings: &PluginSettings, expected: &[&str]| {
            let error = find_program(settings, &places).unwrap_err().to_string();
            for part in expected {
                assert!(error.contains(part), "{error:?} should say {part:?}");
            }
        };
        let place = folder.path().display().to_string();
        check(&settings("git"), &["plugin git", "qntx-git-plugin", "axwatch-plugin-git", &place]);
        std::fs::write(folder.path().join("qntx-git-plugin"), "").unwrap();
        check(&settings("git"), &["qntx-git-plugin may not be executed"]);
        let absent = folder.path().join("absent");
        check(
            &PluginSettings { binary: Some(absent), ..settings("git") },
            &["/absent is not there"],
        );
        check(
            &PluginSettings { binary: Some(place.clone().into()), ..settings("git") },
            &["is not a file"],
        );
    }

    #[test]
    fn a_version_constraint_is_read_as_other_hosts_read_it() {
        let cases = [
            ("", true),
            ("  ", true),
            ("*", true),
            (">= 0.1.0", true),
            (">=0.1.0 <0.3.0", true),
            (">= 0.1.0, < 0.2.0", false),
            ("^0.2", true),
            ("~0.1", false),
            ("v0.2.0", true),
            ("0.1.0 || 0.2.0", true),
            (">=1.0.0", false),
            ("soon", false),
        ];
        for (constraint, accepted) in cases {
            let verdict = check_version(constraint, &PROTOCOL_VERSION);
            assert_eq!(verdict.is_ok(), accepted, "{constraint:?}: {verdict:?}");
        }
        let error = check_version(">=1.0.0", &PROTOCOL_VERSION).unwrap_err();
        assert_eq!(error, "it wants protocol version \">=1.0.0\", and this host speaks 0.2.0");
    }
}
