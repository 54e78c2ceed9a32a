//! The configuration: `am.toml`, then `AXWATCH_…`, then flags; later wins.
//!
//! `RawConfig` is what was written, [`Config`] what was meant. A key that nobody knows is an error
//! with its line and the nearest key that somebody does; a plugin's own table is passed on unread.
//! Relative paths lie beside the file that names them.
//!
//! Not here: what a plugin makes of its table, whether its program is there (`axwatch_engine`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axwatch_core::{BudgetLimits, RetryLimits};
use axwatch_engine::EngineConfig;
use axwatch_engine::plugin::{
    HostSettings, Keepalive, MAX_IN_FLIGHT_MAX, OURS_IN_ENV, PluginSettings,
};
use axwatch_model::{BudgetScope, HandlerName, PluginName, bounds};
use serde::Deserialize;
use toml::de::DeTable;

use crate::shipped;
use crate::times;
use crate::tls::TlsFiles;
use crate::views::{LIMIT_MAX, is_limit};

/// Where `serve` listens when nobody says otherwise.
const HTTP_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8770);

/// Bytes of one mebibyte.
const MIB: u64 = 1024 * 1024;

/// Mebibytes that a body to or from a plugin may be allowed to have.
const BODY_MAX_MB: RangeInclusive<u64> = 16..=100;

/// Mebibytes of memory that a plugin may be bounded to: more than there is anywhere.
const MEMORY_MB_MAX: u64 = 16 * 1024 * 1024;

/// What is meant, after file, environment and flags.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The SQLite file.
    pub store: PathBuf,
    /// Mebibytes that have to stay free on the store's disk; `None` is the engine's own choice.
    pub reserve_mb: Option<u64>,
    /// How old claims and ended jobs become at least before `serve` takes them away; `None` keeps all.
    pub retain_older_than: Option<Duration>,
    /// Where `serve` listens.
    pub http: SocketAddr,
    /// The API speaks TLS with these.
    pub tls: Option<TlsFiles>,
    /// Names under which the API is reached beside those of loopback.
    pub hosts: Vec<String>,
    /// Which log lines are written, as `tracing` filters are: `info,axwatch_engine=debug`.
    pub log: Option<String>,
    /// How often jobs may be tried and what they may spend; what is set with a command wins, limit by limit.
    pub budgets: BTreeMap<BudgetScope, BudgetLimits>,
    /// The plugins and how they are treated.
    plugins: PluginsConfig,
}

/// What the file says about plugins, checked but for what only a running host needs.
#[derive(Debug, Clone, PartialEq, Default)]
struct PluginsConfig {
    file: PathBuf,
    /// The file was there.
    was_read: bool,
    /// `None` when nothing says which: then those that ship with us are.
    enabled: Option<Vec<PluginName>>,
    paths: Vec<PathBuf>,
    protocol_version: Option<semver::Version>,
    keepalive: Keepalive,
    body_max_mb: Option<u64>,
    hosts: BTreeMap<String, RawHost>,
    own: BTreeMap<String, toml::Table>,
}

/// What flags say; each wins over its variable, and that over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--store`.
    pub store: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--http`.
    pub http: Option<String>,
}

/// Something in the configuration that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// The file and line, the flag or the variable.
    place: String,
    /// What is wrong, and what would be right.
    problem: String,
}

impl ConfigError {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError { place: place.into(), problem: problem.into() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConfig {
    store: RawStore,
    retention: RawRetention,
    http: RawHttp,
    log: RawLog,
    budget: RawBudget,
    plugin: RawPlugin,
    plugins: BTreeMap<String, RawHost>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawStore {
    path: Option<PathBuf>,
    reserve_mb: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRetention {
    older_than: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawHttp {
    addr: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    hosts: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawLog {
    filter: Option<String>,
}

/// `[budget]`: of all jobs together, and of those of plugins and of handlers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawBudget {
    // As in `RawLimits`, which flattened would lose the lines of mistakes.
    calls_per_minute: Option<u32>,
    per_day: Option<f64>,
    per_week: Option<f64>,
    per_month: Option<f64>,
    /// `[budget.plugin.NAME]`.
    plugin: BTreeMap<String, RawLimits>,
    /// `[budget.handler."PLUGIN/HANDLER"]`.
    handler: BTreeMap<String, RawLimits>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct RawLimits {
    calls_per_minute: Option<u32>,
    per_day: Option<f64>,
    per_week: Option<f64>,
    per_month: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPlugin {
    enabled: Option<Vec<String>>,
    paths: Vec<PathBuf>,
    protocol_version: Option<String>,
    body_max_mb: Option<u64>,
    websocket: RawWebSocket,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawWebSocket {
    keepalive: RawKeepalive,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawKeepalive {
    ping_interval_secs: Option<f64>,
    pong_timeout_secs: Option<f64>,
}

/// `[plugins.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct RawHost {
    binary: Option<PathBuf>,
    args: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    execute_timeout_secs: Option<u64>,
    initialize_timeout_secs: Option<u64>,
    ready_timeout_secs: Option<u64>,
    max_in_flight: Option<u32>,
    allow_remote: bool,
    zero_rate: Option<ZeroRate>,
    sha256: Option<String>,
    memory_mb: Option<u64>,
    open: bool,
    handlers: bool,
    // As in `RawRetry`, which flattened would lose the lines of mistakes.
    max_attempts: Option<u32>,
    max_age_secs: Option<u64>,
    /// `[plugins.NAME.handler.HANDLER]`.
    handler: BTreeMap<String, RawRetry>,
}

/// When a job is given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct RawRetry {
    max_attempts: Option<u32>,
    max_age_secs: Option<u64>,
}

/// What a plugin means by 0 fires a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ZeroRate {
    Unlimited,
    Never,
}

/// The tables that are axwatch's own: a plugin of such a name could have none.
pub const SECTIONS: [&str; 7] =
    ["store", "retention", "http", "log", "budget", "plugin", "plugins"];
const LIMIT_KEYS: [&str; 4] = ["calls_per_minute", "per_day", "per_week", "per_month"];
const RETRY_KEYS: [&str; 2] = ["max_attempts", "max_age_secs"];
const HOST_KEYS: [&str; 16] = [
    "binary",
    "args",
    "env",
    "execute_timeout_secs",
    "initialize_timeout_secs",
    "ready_timeout_secs",
    "max_in_flight",
    "max_attempts",
    "max_age_secs",
    "handler",
    "allow_remote",
    "zero_rate",
    "sha256",
    "memory_mb",
    "open",
    "handlers",
];

fn section_keys(section: &str) -> &'static [&'static str] {
    match section {
        "store" => &["path", "reserve_mb"],
        "retention" => &["older_than"],
        "http" => &["addr", "tls_cert", "tls_key", "hosts"],
        "log" => &["filter"],
        "budget" => &["calls_per_minute", "per_day", "per_week", "per_month", "plugin", "handler"],
        "plugin" => &["enabled", "paths", "protocol_version", "body_max_mb", "websocket"],
        "plugin.websocket" => &["keepalive"],
        "plugin.websocket.keepalive" => &["ping_interval_secs", "pong_timeout_secs"],
        _ => &[],
    }
}

impl Config {
    /// Reads the file that is meant (the given one, else `./am.toml`, else that of the user) and lays
    /// environment and flags over it.
    ///
    /// # Errors
    /// [`ConfigError`] with the place and what would be right.
    pub fn load(
        overrides: &Overrides,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let given =
            overrides.config.clone().or_else(|| variable("AXWATCH_CONFIG").map(PathBuf::from));
        let (file, text) = find_file(given.as_deref(), &variable)?;
        let mut config = read(&file, text.as_deref().unwrap_or_default())?;
        config.plugins.was_read = text.is_some();
        config.lay_over(overrides, &variable)
    }

    /// What is meant when nothing is configured, with this store, these plugins and on any free port. Of the
    /// environment only the log's filter counts.
    pub fn unconfigured(
        store: PathBuf,
        plugins: Vec<PluginName>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Config {
        Config {
            store,
            reserve_mb: None,
            retain_older_than: None,
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            hosts: Vec::new(),
            log: variable("AXWATCH_LOG").or_else(|| variable("RUST_LOG")),
            budgets: BTreeMap::new(),
            plugins: PluginsConfig { enabled: Some(plugins), ..PluginsConfig::default() },
        }
    }

    fn lay_over(
        mut self,
        overrides: &Overrides,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let store = overrides.store.clone();
        if let Some(store) = store.or_else(|| variable("AXWATCH_STORE").map(PathBuf::from)) {
            self.store = store;
        } else if self.store.as_os_str().is_empty() {
            self.store = default_store(variable)?;
        }
        let http = overrides.http.clone().map(|addr| ("--http", addr));
        let http = http.or_else(|| variable("AXWATCH_HTTP").map(|addr| ("AXWATCH_HTTP", addr)));
        if let Some((place, addr)) = http {
            self.http = parse_addr(&addr).map_err(|problem| ConfigError::new(place, problem))?;
        }
        if let Some(text) = variable("AXWATCH_STORE_RESERVE_MB") {
            let reserve = text.parse().map_err(|_| {
                let problem = format!("{text:?} is no whole number of mebibytes");
                ConfigError::new("AXWATCH_STORE_RESERVE_MB", problem)
            })?;
            self.reserve_mb = Some(reserve);
        }
        if let Some(text) = variable("AXWATCH_PLUGIN_ENABLED") {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            let names: Result<Vec<PluginName>, _> = names.map(str::parse).collect();
            let names = names
                .map_err(|error| ConfigError::new("AXWATCH_PLUGIN_ENABLED", error.to_string()))?;
            self.plugins.enabled = Some(names);
        }
        if let Some(text) = variable("AXWATCH_PLUGIN_PATHS") {
            self.plugins.paths = std::env::split_paths(&text).collect();
        }
        self.log = variable("AXWATCH_LOG").or_else(|| variable("RUST_LOG")).or(self.log);
        Ok(self)
    }

    /// What the engine is told, but for plugins.
    pub fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            reserve_bytes: self.reserve_mb.map(|mb| mb.saturating_mul(MIB)),
            budgets: self.budgets.clone(),
            ..EngineConfig::default()
        }
    }

    /// What the plugin host needs, with `env:NAME` values put in their places.
    ///
    /// # Errors
    /// [`ConfigError`] when such a variable is not set.
    pub fn host_settings(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<HostSettings, ConfigError> {
        let config = &self.plugins;
        let mut settings =
            HostSettings { search_paths: config.paths.clone(), ..HostSettings::default() };
        settings.keepalive = config.keepalive;
        if let Some(version) = &config.protocol_version {
            settings.protocol_version = version.clone();
        }
        if let Some(bytes) = config.body_max_mb.and_then(|mb| usize::try_from(mb * MIB).ok()) {
            settings.body_bytes_max = bytes;
        }
        let plugin = |name: &PluginName| config.settings_of(name, &variable);
        settings.plugins = config.enabled().iter().map(plugin).collect::<Result<_, _>>()?;
        Ok(settings)
    }

    /// The settings of one plugin as the file says now. Which plugins run, and all else, stays as it was
    /// read at the start.
    ///
    /// # Errors
    /// [`ConfigError`], also when the file is not there any more.
    pub fn plugin_settings_now(
        &self,
        name: &PluginName,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<PluginSettings, ConfigError> {
        let file = &self.plugins.file;
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            // There was none, and there need not be one.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && !self.plugins.was_read =>
            {
                return self.plugins.settings_of(name, &variable);
            }
            Err(error) => return Err(unreadable(file, &error)),
        };
        let mut now = read(file, &text)?;
        now.plugins.enabled.clone_from(&self.plugins.enabled);
        now.plugins.settings_of(name, &variable)
    }
}

/// The file that is meant and its text; no text when there is none and none was asked for.
fn find_file(
    given: Option<&Path>,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<(PathBuf, Option<String>), ConfigError> {
    if let Some(path) = given {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        return Ok((path.to_owned(), Some(text)));
    }
    let users =
        xdg(variable, "XDG_CONFIG_HOME", ".config").map(|home| home.join("axwatch/am.toml"));
    for path in [Some(PathBuf::from("am.toml")), users].into_iter().flatten() {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok((path, Some(text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, &error)),
        }
    }
    Ok((PathBuf::from("am.toml"), None))
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError::new(path.display().to_string(), format!("it cannot be read: {error}"))
}

/// A folder of the user: what the variable says, else its usual place in the home folder.
fn xdg(variable: &impl Fn(&str) -> Option<String>, name: &str, usual: &str) -> Option<PathBuf> {
    let given = variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    given.or_else(|| {
        let home = variable("HOME").filter(|home| !home.is_empty())?;
        Some(Path::new(&home).join(usual))
    })
}

fn default_store(variable: &impl Fn(&str) -> Option<String>) -> Result<PathBuf, ConfigError> {
    match xdg(variable, "XDG_DATA_HOME", ".local/share") {
        Some(data) => Ok(data.join("axwatch/axwatch.db")),
        None => Err(ConfigError::new(
            "--store",
            "neither XDG_DATA_HOME nor HOME is set, so there is no usual place; say where the store lies with --store PATH",
        )),
    }
}

/// `HOST:PORT`, where the host is a number or `localhost`.
fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    let number = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    number.parse().map_err(|_| {
        format!("{text:?} is no address; it must be HOST:PORT such as 127.0.0.1:8770, with port 0 for any free one")
    })
}

/// What the file says, with `store` empty when it says nothing about it.
fn read(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let source = Source { file, text };
    let keys = DeTable::parse(text).map_err(|error| source.of_toml(None, &error))?;
    let of_toml = |error| source.of_toml(Some(keys.get_ref()), &error);
    let raw: RawConfig = toml::from_str(text).map_err(of_toml)?;
    check_keys(&source, keys.get_ref(), &raw)?;
    let beside = |path: PathBuf| match file.parent() {
        Some(folder) => folder.join(path),
        None => path,
    };
    let place = |key: &str| source.place_of(keys.get_ref(), key);
    let http = match &raw.http.addr {
        Some(addr) => {
            parse_addr(addr).map_err(|problem| ConfigError::new(place("http.addr"), problem))?
        }
        None => HTTP_DEFAULT,
    };
    let (tls, names) =
        tls(&raw.http, &beside).map_err(|(key, problem)| ConfigError::new(place(key), problem))?;
    let retain_older_than = raw.retention.older_than.as_deref().map(times::span).transpose();
    let retain_older_than = retain_older_than
        .map_err(|problem| ConfigError::new(place("retention.older_than"), problem))?;
    let enabled = raw.plugin.enabled.as_deref().map(enabled).transpose();
    let enabled = enabled.map_err(|problem| ConfigError::new(place("plugin.enabled"), problem))?;
    let protocol_version = match &raw.plugin.protocol_version {
        Some(text) => Some(text.parse().map_err(|error| {
            let problem = format!("{text:?} is no version such as 0.2.0: {error}");
            ConfigError::new(place("plugin.protocol_version"), problem)
        })?),
        None => None,
    };
    let keepalive = keepalive(&raw.plugin.websocket.keepalive)
        .map_err(|(key, problem)| ConfigError::new(place(&key), problem))?;
    if raw.plugin.body_max_mb.is_some_and(|mb| !BODY_MAX_MB.contains(&mb)) {
        let (least, most) = BODY_MAX_MB.into_inner();
        let problem = format!("plugin.body_max_mb must be {least} to {most}");
        return Err(ConfigError::new(place("plugin.body_max_mb"), problem));
    }
    let mut own: BTreeMap<String, toml::Table> = BTreeMap::new();
    for (name, value) in text.parse::<toml::Table>().map_err(of_toml)? {
        if let (false, toml::Value::Table(table)) = (SECTIONS.contains(&name.as_str()), value) {
            own.insert(name, table);
        }
    }
    for (name, table) in &own {
        // Existing configurations put it here too: see `PluginsConfig::settings_of`.
        let env = table.get("env").and_then(toml::Value::as_table);
        check_env(env.into_iter().flat_map(toml::Table::keys)).map_err(|(variable, problem)| {
            let key = format!("{name}.env.{variable}");
            ConfigError::new(place(&key), format!("{key}: {problem}"))
        })?;
    }
    let budgets = budgets(&raw.budget).map_err(|(key, problem)| {
        let parts: Vec<&str> = key.iter().map(String::as_str).collect();
        ConfigError::new(source.place_at(keys.get_ref(), &parts), problem)
    })?;
    let mut hosts = raw.plugins;
    for (name, host) in &mut hosts {
        check_host(name, host, |key| place(&format!("plugins.{name}.{key}")))?;
        // A bare name is looked for in the search paths, so it has to stay one.
        if let Some(binary) = host.binary.take() {
            let is_bare = binary.components().count() == 1;
            host.binary = Some(if is_bare { binary } else { beside(binary) });
        }
    }
    Ok(Config {
        store: raw.store.path.map(&beside).unwrap_or_default(),
        reserve_mb: raw.store.reserve_mb,
        retain_older_than,
        http,
        tls,
        hosts: names,
        log: raw.log.filter,
        budgets,
        plugins: PluginsConfig {
            file: file.to_owned(),
            was_read: false,
            enabled,
            paths: raw.plugin.paths.into_iter().map(beside).collect(),
            protocol_version,
            keepalive,
            body_max_mb: raw.plugin.body_max_mb,
            hosts,
            own,
        },
    })
}

/// What is said about TLS, and the names to go by.
type TlsAndNames = (Option<TlsFiles>, Vec<String>);

/// What `[http]` says of both. The error is the key and what is wrong.
fn tls(
    http: &RawHttp,
    beside: &impl Fn(PathBuf) -> PathBuf,
) -> Result<TlsAndNames, (&'static str, String)> {
    let files = match (&http.tls_cert, &http.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: beside(certificate.clone()), key: beside(key.clone()) })
        }
        (None, None) => None,
        (Some(_), None) => {
            return Err((
                "http.tls_cert",
                "a certificate needs its key: set http.tls_key".to_owned(),
            ));
        }
        (None, Some(_)) => {
            return Err((
                "http.tls_key",
                "a key needs its certificate: set http.tls_cert".to_owned(),
            ));
        }
    };
    if files.is_none() && !http.hosts.is_empty() {
        let problem = "names beyond loopback need TLS: set http.tls_cert and http.tls_key";
        return Err(("http.hosts", problem.to_owned()));
    }
    let is_name = |name: &&String| {
        let may_stand = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let is_number = name.starts_with('[') && name.ends_with(']');
        !name.is_empty() && name.bytes().all(may_stand) && (is_number || !name.contains(':'))
    };
    if let Some(name) = http.hosts.iter().find(|name| !is_name(name)) {
        let problem = format!(
            "{name:?} is no name; it must be one such as axwatch.example, without scheme and port"
        );
        return Err(("http.hosts", problem));
    }
    Ok((files, http.hosts.clone()))
}

/// What is configured, or the key that cannot be and why.
fn keepalive(raw: &RawKeepalive) -> Result<Keepalive, (String, String)> {
    let mut keepalive = Keepalive::default();
    let given = [
        ("ping_interval_secs", raw.ping_interval_secs, &mut keepalive.ping_interval),
        ("pong_timeout_secs", raw.pong_timeout_secs, &mut keepalive.pong_timeout),
    ];
    for (key, secs, duration) in given {
        let Some(secs) = secs else { continue };
        // Not under a millisecond: that would be a flood.
        if !(0.001..=86_400.0).contains(&secs) {
            let key = format!("plugin.websocket.keepalive.{key}");
            let problem = format!("{key} must be a number of seconds over 0, up to 86400");
            return Err((key, problem));
        }
        *duration = Duration::from_secs_f64(secs);
    }
    Ok(keepalive)
}

/// The parts of a key, and what is wrong there.
type Misplaced = (Vec<String>, String);

/// The budgets that are configured.
fn budgets(raw: &RawBudget) -> Result<BTreeMap<BudgetScope, BudgetLimits>, Misplaced> {
    let RawBudget { calls_per_minute, per_day, per_week, per_month, .. } = *raw;
    let of_all = RawLimits { calls_per_minute, per_day, per_week, per_month };
    let at = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let mut budgets = BTreeMap::new();
    budgets.insert(BudgetScope::All, of_all.checked(&["budget"])?);
    for (name, limits) in &raw.plugin {
        let key = ["budget", "plugin", name.as_str()];
        let plugin: PluginName = name.parse().map_err(|error| (at(&key), format!("{error}")))?;
        budgets.insert(BudgetScope::Plugin(plugin), limits.checked(&key)?);
    }
    for (name, limits) in &raw.handler {
        let key = ["budget", "handler", name.as_str()];
        let scope = name.parse::<BudgetScope>().ok();
        let scope = scope.filter(|scope| matches!(scope, BudgetScope::Handler(..)));
        let scope = scope.ok_or_else(|| {
            let problem = format!(
                "{name:?} names no handler; write its plugin too: [budget.handler.\"PLUGIN/HANDLER\"]"
            );
            (at(&key), problem)
        })?;
        budgets.insert(scope, limits.checked(&key)?);
    }
    // What says nothing is none.
    budgets.retain(|_, limits| *limits != BudgetLimits::default());
    Ok(budgets)
}

impl RawLimits {
    /// The limits, once it is clear that they are amounts. `key` is where they stand.
    fn checked(self, key: &[&str]) -> Result<BudgetLimits, Misplaced> {
        let RawLimits { calls_per_minute, per_day, per_week, per_month } = self;
        let amounts = [("per_day", per_day), ("per_week", per_week), ("per_month", per_month)];
        let is_none = |amount: f64| !is_limit(amount);
        if let Some((name, _)) = amounts.iter().find(|(_, amount)| amount.is_some_and(is_none)) {
            let parts: Vec<String> = key.iter().chain([name]).map(|p| (*p).to_owned()).collect();
            let problem =
                format!("{} must be an amount of 0 or more, up to {LIMIT_MAX}", parts.join("."));
            return Err((parts, problem));
        }
        Ok(BudgetLimits { calls_per_minute, per_day, per_week, per_month })
    }
}

/// The names of `plugin.enabled`, each once.
fn enabled(names: &[String]) -> Result<Vec<PluginName>, String> {
    let names: Result<Vec<PluginName>, _> = names.iter().map(|name| name.parse()).collect();
    let names = names.map_err(|error| error.to_string())?;
    match (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
        Some(twice) => Err(format!("plugin {} is enabled twice", names[twice])),
        None => Ok(names),
    }
}

/// A file and its text, for telling places.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, span: Range<usize>) -> String {
        let before = &self.text[..span.start.min(self.text.len())];
        format!("{}:{}", self.file.display(), before.matches('\n').count() + 1)
    }

    /// The place of a dotted key, or of the deepest part of it that is there.
    fn place_of(&self, keys: &DeTable<'_>, dotted: &str) -> String {
        self.place_at(keys, &dotted.split('.').collect::<Vec<_>>())
    }

    /// The same of a key whose parts may hold dots.
    fn place_at(&self, keys: &DeTable<'_>, parts: &[&str]) -> String {
        let mut table = Some(keys);
        let mut span = 0..0;
        for part in parts {
            let Some((key, value)) = table
                .and_then(|table| table.iter().find(|(key, _)| key.get_ref().as_ref() == *part))
            else {
                break;
            };
            span = key.span();
            table = value.get_ref().as_table();
        }
        self.place(span)
    }

    /// A mistake that the parser found; with the keys there are it also says whose value it is.
    fn of_toml(&self, keys: Option<&DeTable<'_>>, error: &toml::de::Error) -> ConfigError {
        let problem = error.message().trim().to_owned();
        let Some(span) = error.span() else {
            return ConfigError::new(self.file.display().to_string(), problem);
        };
        // A table is a struct or a map of ours, of which nobody outside has heard.
        let wants_table =
            ["expected struct ", "expected a map"].iter().any(|t| problem.contains(t));
        let problem = match keys.and_then(|keys| key_over(keys, span.start)) {
            Some(key) if wants_table => format!("{key} must be a table: write [{key}]"),
            Some(key) => format!("{key}: {problem}"),
            None => problem,
        };
        ConfigError::new(self.place(span), problem)
    }
}

/// The dotted key whose value covers this byte.
fn key_over(keys: &DeTable<'_>, at: usize) -> Option<String> {
    keys.iter().find_map(|(key, value)| {
        let inner = value.get_ref().as_table().and_then(|table| key_over(table, at));
        let name = key.get_ref();
        match inner {
            Some(inner) => Some(format!("{name}.{inner}")),
            None => value.span().contains(&at).then(|| name.to_string()),
        }
    })
}

/// Holds every key against those that are known.
fn check_keys(source: &Source<'_>, keys: &DeTable<'_>, raw: &RawConfig) -> Result<(), ConfigError> {
    let mut plugins: Vec<&str> = match &raw.plugin.enabled {
        Some(enabled) => enabled.iter().map(String::as_str).collect(),
        None => shipped::NAMES.to_vec(),
    };
    plugins.extend(raw.plugins.keys().map(String::as_str));
    for (key, value) in keys {
        let name: &str = key.get_ref().as_ref();
        let place = || source.place(key.span());
        let table = value.get_ref().as_table();
        match (SECTIONS.contains(&name), table) {
            (true, None) => {
                let problem = format!("{name} must be a table: write [{name}]");
                return Err(ConfigError::new(place(), problem));
            }
            (true, Some(table)) if name == "plugins" => {
                for (plugin, host) in table {
                    let plugin_name: &str = plugin.get_ref().as_ref();
                    plugin_name.parse::<PluginName>().map_err(|error| {
                        ConfigError::new(source.place(plugin.span()), error.to_string())
                    })?;
                    if let Some(host) = host.get_ref().as_table() {
                        let prefix = format!("plugins.{plugin_name}");
                        known_keys(source, host, &prefix, &HOST_KEYS)?;
                        known_handler_keys(source, host, &prefix)?;
                    }
                }
            }
            (true, Some(table)) => {
                known_keys(source, table, name, section_keys(name))?;
                match name {
                    "plugin" => known_websocket_keys(source, table)?,
                    "budget" => known_budget_keys(source, table, &plugins)?,
                    _ => {}
                }
            }
            (false, _) if plugins.contains(&name) => {
                if table.is_none() {
                    let problem = format!("{name} must be a table: write [{name}]");
                    return Err(ConfigError::new(place(), problem));
                }
            }
            (false, Some(_)) => {
                let known: Vec<&str> =
                    SECTIONS.into_iter().chain(plugins.iter().copied()).collect();
                let hint = match nearest(name, &known) {
                    Some(near) => format!("did you mean [{near}]?"),
                    None => format!(
                        "if {name} is a plugin, put it into enabled of [plugin]; else known are {}",
                        known.join(", ")
                    ),
                };
                let problem = format!("[{name}] belongs to no enabled plugin; {hint}");
                return Err(ConfigError::new(place(), problem));
            }
            (false, None) => return Err(unknown_key(place(), name, &SECTIONS)),
        }
    }
    Ok(())
}

/// The keys of each `[plugins.NAME.handler.HANDLER]`.
fn known_handler_keys(
    source: &Source<'_>,
    host: &DeTable<'_>,
    prefix: &str,
) -> Result<(), ConfigError> {
    let handlers = host.iter().find(|(key, _)| key.get_ref().as_ref() == "handler");
    let handlers = handlers.and_then(|(_, value)| value.get_ref().as_table());
    for (key, value) in handlers.into_iter().flatten() {
        let name: &str = key.get_ref().as_ref();
        name.parse::<HandlerName>()
            .map_err(|error| ConfigError::new(source.place(key.span()), error.to_string()))?;
        if let Some(table) = value.get_ref().as_table() {
            known_keys(source, table, &format!("{prefix}.handler.{name}"), &RETRY_KEYS)?;
        }
    }
    Ok(())
}

/// The keys of each `[budget.plugin.NAME]` and `[budget.handler."PLUGIN/HANDLER"]`.
fn known_budget_keys(
    source: &Source<'_>,
    budget: &DeTable<'_>,
    plugins: &[&str],
) -> Result<(), ConfigError> {
    for (kind, scopes) in budget {
        let kind: &str = kind.get_ref().as_ref();
        for (scope, limits) in scopes.get_ref().as_table().into_iter().flatten() {
            let section = format!("budget.{kind}.{}", scope.get_ref());
            let plugin = scope.get_ref().split('/').next().unwrap_or_default();
            // One that cannot be a scope at all is told of with the rest of what is wrong with it.
            let is_scope = kind == "plugin" || scope.get_ref().contains('/');
            if is_scope && plugin.parse::<PluginName>().is_ok() && !plugins.contains(&plugin) {
                let hint = match nearest(plugin, plugins) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("those that are enabled are {}", plugins.join(", ")),
                };
                let problem = format!("[{section}] belongs to no enabled plugin; {hint}");
                return Err(ConfigError::new(source.place(scope.span()), problem));
            }
            if let Some(limits) = limits.get_ref().as_table() {
                known_keys(source, limits, &section, &LIMIT_KEYS)?;
            }
        }
    }
    Ok(())
}

/// The keys of `[plugin.websocket]` and of its `keepalive`.
fn known_websocket_keys(source: &Source<'_>, plugin: &DeTable<'_>) -> Result<(), ConfigError> {
    let (mut table, mut section) = (plugin, "plugin".to_owned());
    for part in ["websocket", "keepalive"] {
        let found = table.iter().find(|(key, _)| key.get_ref().as_ref() == part);
        let Some(below) = found.and_then(|(_, value)| value.get_ref().as_table()) else { break };
        (table, section) = (below, format!("{section}.{part}"));
        known_keys(source, table, &section, section_keys(&section))?;
    }
    Ok(())
}

fn known_keys(
    source: &Source<'_>,
    table: &DeTable<'_>,
    section: &str,
    known: &[&str],
) -> Result<(), ConfigError> {
    for key in table.keys() {
        let name: &str = key.get_ref().as_ref();
        if !known.contains(&name) {
            let dotted = format!("{section}.{name}");
            let known: Vec<String> = known.iter().map(|key| format!("{section}.{key}")).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            return Err(unknown_key(source.place(key.span()), &dotted, &known));
        }
    }
    Ok(())
}

fn unknown_key(place: String, key: &str, known: &[&str]) -> ConfigError {
    let hint = match nearest(key, known) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are {}", known.join(", ")),
    };
    ConfigError::new(place, format!("unknown key {key}; {hint}"))
}

/// The known text that the given one was most likely meant to be.
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|near| (strsim::damerau_levenshtein(given, near), *near));
    let (distance, near) = scored.min_by_key(|(distance, _)| *distance)?;
    let last_part = given.rsplit('.').next().unwrap_or(given);
    (distance <= 1 + last_part.chars().count() / 4).then_some(near)
}

/// The first of these names that no plugin's environment may have, and why.
fn check_env<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), (&'a str, String)> {
    match names.find(|name| name.starts_with(OURS_IN_ENV)) {
        Some(name) => Err((name, format!("names that begin with {OURS_IN_ENV} are axwatch's own"))),
        None => Ok(()),
    }
}

/// What only becomes wrong by its value.
fn check_host(
    name: &str,
    host: &RawHost,
    place: impl Fn(&str) -> String,
) -> Result<(), ConfigError> {
    let secs = [
        ("execute_timeout_secs", host.execute_timeout_secs),
        ("initialize_timeout_secs", host.initialize_timeout_secs),
        ("ready_timeout_secs", host.ready_timeout_secs),
    ];
    if let Some((key, _)) = secs.iter().find(|(_, secs)| secs.is_some_and(|s| s == 0 || s > 86_400))
    {
        let problem = format!("plugins.{name}.{key} must be 1 to 86400 seconds");
        return Err(ConfigError::new(place(key), problem));
    }
    if host.max_in_flight.is_some_and(|max| !(1..=MAX_IN_FLIGHT_MAX).contains(&max)) {
        let problem = format!("plugins.{name}.max_in_flight must be 1 to {MAX_IN_FLIGHT_MAX}");
        return Err(ConfigError::new(place("max_in_flight"), problem));
    }
    let retries =
        host.handler.iter().map(|(handler, retry)| (format!("handler.{handler}."), retry));
    for (prefix, retry) in std::iter::once((String::new(), &host.retry())).chain(retries) {
        if retry.max_attempts.is_some_and(|max| !(1..=bounds::ATTEMPTS_MAX).contains(&max)) {
            let max = bounds::ATTEMPTS_MAX;
            let problem = format!("plugins.{name}.{prefix}max_attempts must be 1 to {max}");
            return Err(ConfigError::new(place("max_attempts"), problem));
        }
        let longest = bounds::JOB_AGE_MAX.as_secs();
        if retry.max_age_secs.is_some_and(|secs| !(1..=longest).contains(&secs)) {
            let problem =
                format!("plugins.{name}.{prefix}max_age_secs must be 1 to {longest} seconds");
            return Err(ConfigError::new(place("max_age_secs"), problem));
        }
    }
    let is_digest = |text: &String| {
        text.trim().len() == 64 && text.trim().bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if host.sha256.as_ref().is_some_and(|text| !is_digest(text)) {
        let problem = format!("plugins.{name}.sha256 must be 64 hex digits");
        return Err(ConfigError::new(place("sha256"), problem));
    }
    if let Err((key, problem)) = check_env(host.env.iter().flat_map(BTreeMap::keys)) {
        let problem = format!("plugins.{name}.env.{key}: {problem}");
        return Err(ConfigError::new(place(&format!("env.{key}")), problem));
    }
    if host.memory_mb.is_some_and(|mb| !(1..=MEMORY_MB_MAX).contains(&mb)) {
        let problem = format!("plugins.{name}.memory_mb must be 1 to {MEMORY_MB_MAX}");
        return Err(ConfigError::new(place("memory_mb"), problem));
    }
    Ok(())
}

impl PluginsConfig {
    /// The plugins to run.
    fn enabled(&self) -> Vec<PluginName> {
        let shipped = || {
            let names = shipped::NAMES.iter().map(|name| name.parse());
            names.collect::<Result<_, _>>().expect("the names of shipped plugins are names")
        };
        self.enabled.clone().unwrap_or_else(shipped)
    }

    fn settings_of(
        &self,
        name: &PluginName,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<PluginSettings, ConfigError> {
        let mut settings = PluginSettings::new(name.clone());
        shipped::settle(&mut settings);
        let missing = |(key, wanted): (String, String)| self.no_variable(name, &key, &wanted);
        for (key, value) in self.own.get(name.as_str()).into_iter().flatten() {
            let written = value;
            let value = resolved(key, value, variable).map_err(missing)?;
            secrets(written, variable, &mut settings.secrets);
            match key.as_str() {
                // Existing configurations put these two here; they are the host's, not the plugin's.
                "args" => {
                    let items = value.as_array().into_iter().flatten();
                    settings.args = items.map(scalar_text).collect();
                }
                "env" => {
                    let entries = value.as_table().into_iter().flatten();
                    settings
                        .env
                        .extend(entries.map(|(key, value)| (key.clone(), scalar_text(value))));
                }
                _ => {
                    flatten(key, &value, &mut settings.config);
                    from_env(key, written, &mut settings.from_env);
                }
            }
        }
        if let Some(host) = self.hosts.get(name.as_str()) {
            host.apply(&mut settings);
            for (key, text) in &mut settings.env {
                if text.starts_with(FROM_ENV) {
                    *text = resolved_text(key, text, variable).map_err(missing)?;
                    settings.secrets.insert(text.clone());
                }
            }
        }
        Ok(settings)
    }

    fn no_variable(&self, plugin: &PluginName, key: &str, wanted: &str) -> ConfigError {
        let problem = format!(
            "{key} of [{plugin}] says env:{wanted}, and the environment variable {wanted} is not set"
        );
        ConfigError::new(self.file.display().to_string(), problem)
    }
}

impl RawHost {
    fn apply(&self, settings: &mut PluginSettings) {
        settings.binary.clone_from(&self.binary);
        if let Some(args) = &self.args {
            settings.args.clone_from(args);
        }
        if let Some(env) = &self.env {
            settings.env.extend(env.clone());
        }
        let timeouts = [
            (self.execute_timeout_secs, &mut settings.execute_timeout),
            (self.initialize_timeout_secs, &mut settings.initialize_timeout),
            (self.ready_timeout_secs, &mut settings.ready_timeout),
        ];
        for (given, timeout) in timeouts {
            if let Some(secs) = given {
                *timeout = Duration::from_secs(secs);
            }
        }
        if let Some(max) = self.max_in_flight {
            settings.max_in_flight = max;
        }
        settings.allow_remote = self.allow_remote;
        settings.zero_rate_never = self.zero_rate == Some(ZeroRate::Never);
        settings.sha256.clone_from(&self.sha256);
        settings.memory_bytes_max = self.memory_mb.map(|mb| mb * MIB);
        settings.open = self.open;
        settings.handlers = self.handlers;
        let handlers = self.handler.iter();
        let handlers = handlers.filter_map(|(name, retry)| Some((Some(name.parse().ok()?), retry)));
        let of_all = self.retry();
        let all = std::iter::once((None, &of_all)).chain(handlers);
        settings.retry = all.map(|(handler, retry)| (handler, retry.limits())).collect();
    }

    fn retry(&self) -> RawRetry {
        RawRetry { max_attempts: self.max_attempts, max_age_secs: self.max_age_secs }
    }
}

impl RawRetry {
    fn limits(&self) -> RetryLimits {
        RetryLimits {
            max_attempts: self.max_attempts,
            max_age: self.max_age_secs.map(Duration::from_secs),
        }
    }
}

/// The value with each text `env:NAME` replaced by what the variable holds. The error is the key and
/// the variable that is not set.
fn resolved(
    key: &str,
    value: &toml::Value,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<toml::Value, (String, String)> {
    Ok(match value {
        toml::Value::String(text) => toml::Value::String(resolved_text(key, text, variable)?),
        toml::Value::Array(items) => {
            let items = items.iter().map(|item| resolved(key, item, variable));
            toml::Value::Array(items.collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let entry = |(part, value): (&String, &toml::Value)| {
                resolved(&format!("{key}.{part}"), value, variable)
                    .map(|value| (part.clone(), value))
            };
            toml::Value::Table(table.iter().map(entry).collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

fn resolved_text(
    key: &str,
    text: &str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<String, (String, String)> {
    match text.strip_prefix(FROM_ENV) {
        None => Ok(text.to_owned()),
        Some(wanted) => variable(wanted).ok_or_else(|| (key.to_owned(), wanted.to_owned())),
    }
}

/// Begins a text that stands for the value of a variable of the environment.
const FROM_ENV: &str = "env:";

/// The texts `env:NAME` in a value, however deep.
fn places(value: &toml::Value) -> Vec<&str> {
    match value {
        toml::Value::String(text) if text.starts_with(FROM_ENV) => vec![text],
        toml::Value::Array(items) => items.iter().flat_map(places).collect(),
        toml::Value::Table(table) => table.values().flat_map(places).collect(),
        _ => Vec::new(),
    }
}

/// The values that such texts stand for.
fn secrets(
    written: &toml::Value,
    variable: &impl Fn(&str) -> Option<String>,
    into: &mut BTreeSet<String>,
) {
    let names = places(written).into_iter().filter_map(|text| text.strip_prefix(FROM_ENV));
    into.extend(names.filter_map(variable));
}

/// The keys, as [`flatten`] has them, whose values hold such texts, with what was written there.
fn from_env(key: &str, written: &toml::Value, into: &mut BTreeMap<String, String>) {
    if let toml::Value::Table(table) = written {
        for (part, value) in table {
            from_env(&format!("{key}.{part}"), value, into);
        }
        return;
    }
    let places = places(written);
    if !places.is_empty() {
        into.insert(key.to_owned(), places.join(", "));
    }
}

/// A plugin's own table as the wire has it: nested keys joined with dots, scalars as text, lists as
/// JSON.
fn flatten(key: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (part, value) in table {
                flatten(&format!("{key}.{part}"), value, into);
            }
        }
        toml::Value::Array(_) => {
            into.insert(key.to_owned(), json_of(value).to_string());
        }
        scalar => {
            into.insert(key.to_owned(), scalar_text(scalar));
        }
    }
}

fn scalar_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => match json_of(other) {
            serde_json::Value::String(text) => text,
            json => json.to_string(),
        },
    }
}

fn json_of(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            let entries = table.iter().map(|(key, value)| (key.clone(), json_of(value)));
            serde_json::Value::Object(entries.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        read(Path::new("am.toml"), text).unwrap_err().to_string()
    }

    fn no_variable(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_would_be_right() {
        let cases = [
            (
                "[plugin]\nenabeld = []",
                "am.toml:2: unknown key plugin.enabeld; did you mean plugin.enabled?",
            ),
            ("[http]\nport = 1", "am.toml:2: unknown key http.port; known are http.addr"),
            ("\n[htpp]\n", "am.toml:2: [htpp] belongs to no enabled plugin; did you mean [http]?"),
            (
                "[plugin]\nenabled = ['python']\n[pythn]\nx = 1",
                "am.toml:3: [pythn] belongs to no enabled plugin; did you mean [python]?",
            ),
            (
                "[weather]\n",
                "am.toml:1: [weather] belongs to no enabled plugin; if weather is a plugin",
            ),
            ("stroe = 1", "am.toml:1: unknown key stroe; did you mean store?"),
            ("http = 1", "am.toml:1: http must be a table: write [http]"),
            ("[plugins]\nx = 3", "am.toml:2: plugins.x must be a table: write [plugins.x]"),
            ("\nplugins = 3", "am.toml:2: plugins must be a table: write [plugins]"),
            (
                "[plugins.x]\nenv = 3",
                "am.toml:2: plugins.x.env must be a table: write [plugins.x.env]",
            ),
            (
                "[plugins.x]\nbinary = 'b'\nenv = { A = '1', AXWATCH_LAUNCH = '1' }",
                "am.toml:3: plugins.x.env.AXWATCH_LAUNCH: names that begin with AXWATCH_LAUN are axwatch's own",
            ),
            (
                "[plugin]\nenabled = ['x']\n[x.env]\nA = '1'\nAXWATCH_LAUNCHER = '1'",
                "am.toml:5: x.env.AXWATCH_LAUNCHER: names that begin with",
            ),
            ("[http]\naddr = 1", "am.toml:2: http.addr: invalid type: integer `1`"),
            ("[plugins.git]\nmax_in_flight = 'x'", "am.toml:2: plugins.git.max_in_flight: invalid"),
            ("[plugin]\nenabled = 'git'", "am.toml:2: plugin.enabled: invalid type"),
            ("[http]\naddr = 'here'", "am.toml:2: \"here\" is no address"),
            (
                "[plugins.git.handler.'ixgest.git']\nmax_attempt = 3",
                "am.toml:2: unknown key plugins.git.handler.ixgest.git.max_attempt; did you mean",
            ),
            (
                "[plugins.git]\nmax_age_secs = 0",
                "am.toml:2: plugins.git.max_age_secs must be 1 to 31622400 seconds",
            ),
            (
                "[plugins.git]\nmax_in_flight = 0",
                "am.toml:2: plugins.git.max_in_flight must be 1 to",
            ),
            (
                "[plugins.git]\nready_timeout_secs = 0",
                "am.toml:2: plugins.git.ready_timeout_secs must be",
            ),
            ("[plugins.git]\nmemory_mb = 0", "am.toml:2: plugins.git.memory_mb must be 1 to"),
            ("[plugin]\nbody_max_mb = 15", "am.toml:2: plugin.body_max_mb must be 16 to 100"),
            ("[plugin]\nbody_max_mb = 101", "am.toml:2: plugin.body_max_mb must be 16 to 100"),
            (
                "[plugin.websocket]\nkeepalife = 1",
                "am.toml:2: unknown key plugin.websocket.keepalife; did you mean plugin.websocket.keepalive?",
            ),
            (
                "[plugin.websocket.keepalive]\nping_interval = 1",
                "am.toml:2: unknown key plugin.websocket.keepalive.ping_interval; ",
            ),
            (
                "[plugin.websocket.keepalive]\nping_interval_secs = 0",
                "am.toml:2: plugin.websocket.keepalive.ping_interval_secs must be a number of seconds over 0",
            ),
            (
                "[plugin.websocket.keepalive]\npong_timeout_secs = nan",
                "am.toml:2: plugin.websocket.keepalive.pong_timeout_secs must be a number of seconds over 0",
            ),
            ("[plugins.git]\nopen = 1", "am.toml:2: plugins.git.open: invalid type"),
            ("[plugins.git]\nzero_rate = 'none'", "am.toml:2: plugins.git.zero_rate: unknown"),
            (
                "[plugins.git]\nbinray = 'x'",
                "am.toml:2: unknown key plugins.git.binray; did you mean plugins.git.binary?",
            ),
            ("[plugins.user]\n", "am.toml:1: plugin name \"user\" is not valid"),
            ("[plugin]\nenabled = ['a', 'a']", "am.toml:2: plugin a is enabled twice"),
            ("[http]\ntls_cert = 'a.pem'", "am.toml:2: a certificate needs its key"),
            ("[http]\nhosts = ['x']", "am.toml:2: names beyond loopback need TLS"),
            (
                "[http]\ntls_cert = 'a'\ntls_key = 'b'\nhosts = ['https://x:1']",
                "am.toml:4: \"https://x:1\" is no name",
            ),
            ("budget = 3", "am.toml:1: budget must be a table: write [budget]"),
            (
                "[budget]\nper_dya = 1",
                "am.toml:2: unknown key budget.per_dya; did you mean budget.per_day?",
            ),
            (
                "[budget]\n\nper_week = -1.5",
                "am.toml:3: budget.per_week must be an amount of 0 or more",
            ),
            ("[budget]\nper_day = 1e300", "am.toml:2: budget.per_day must be an amount"),
            ("[budget]\nper_day = nan", "am.toml:2: budget.per_day must be an amount"),
            (
                "[budget]\ncalls_per_minute = 1.5",
                "am.toml:2: budget.calls_per_minute: invalid type",
            ),
            (
                "[budget.plugin.git]\ncalls_per_minut = 3",
                "am.toml:2: unknown key budget.plugin.git.calls_per_minut; did you mean",
            ),
            (
                "[budget.plugin.gti]\nper_day = 3",
                "am.toml:1: [budget.plugin.gti] belongs to no enabled plugin; did you mean git?",
            ),
            (
                "[budget.handler.'ntify/notify.log']\nper_day = 3",
                "am.toml:1: [budget.handler.ntify/notify.log] belongs to no enabled plugin; did you mean notify?",
            ),
            (
                "[budget.plugin]\n'g i t' = { per_day = 1 }",
                "am.toml:2: plugin name \"g i t\" is not",
            ),
            (
                "[budget.handler.'git/ixgest.git']\nper_month = -1",
                "am.toml:2: budget.handler.git/ixgest.git.per_month must be an amount",
            ),
            (
                "[budget.handler.'ixgest.git']\nper_month = 1",
                "am.toml:1: \"ixgest.git\" names no handler; write its plugin too",
            ),
            ("[plugin\n", "am.toml:1:"),
        ];
        for (text, expected) in cases {
            let error = error_of(text);
            assert!(error.starts_with(expected), "{text:?}: {error:?} should begin {expected:?}");
        }
    }

    #[test]
    fn what_ships_is_on_when_nothing_says_which() {
        let names = |text: &str| {
            let config = read(Path::new("am.toml"), text).unwrap();
            let plugins = config.host_settings(no_variable).unwrap().plugins;
            let names: Vec<_> = plugins.iter().map(|plugin| plugin.name.to_string()).collect();
            (names.join(" "), plugins.iter().filter(|plugin| plugin.shipped.is_some()).count())
        };
        assert_eq!(names(""), ("git notify python".to_owned(), 3));
        assert_eq!(names("[notify]\nx = 1"), ("git notify python".to_owned(), 3));
        assert_eq!(names("[plugin]\nenabled = []"), (String::new(), 0));
        assert_eq!(names("[plugin]\nenabled = ['mine', 'git']"), ("mine git".to_owned(), 1));
    }

    #[test]
    fn relative_paths_lie_beside_the_file() {
        let text = "[http]\ntls_cert = 'a.pem'\ntls_key = '/k.pem'\n[store]\npath = 'db/a.db'\n[plugin]\npaths = ['plugins', '/opt']\n\
                    [plugins.a]\nbinary = './a'\n[plugins.b]\nbinary = 'b'";
        let config = read(Path::new("/etc/ax/am.toml"), text).unwrap();
        assert_eq!(config.store, Path::new("/etc/ax/db/a.db"));
        let tls = TlsFiles { certificate: "/etc/ax/a.pem".into(), key: "/k.pem".into() };
        assert_eq!(config.tls, Some(tls));
        assert_eq!(config.plugins.paths, [Path::new("/etc/ax/plugins"), Path::new("/opt")]);
        assert_eq!(config.plugins.hosts["a"].binary.as_deref(), Some(Path::new("/etc/ax/./a")));
        assert_eq!(config.plugins.hosts["b"].binary.as_deref(), Some(Path::new("b")));
    }

    #[test]
    fn a_plugins_own_table_is_passed_on_flat() {
        let text = "[plugin]\nenabled = ['git']\n[plugins.git]\nexecute_timeout_secs = 5\n\
                    [git]\nargs = ['--fast']\nenv = { A = 'b' }\nkey = 'env:SECRET'\ndepth = 3\n\
                    rate = 0.5\non = true\nlist = [1, 'x']\n[git.deep.er]\nx = 1";
        let config = read(Path::new("am.toml"), text).unwrap();
        let settings =
            config.host_settings(|name| (name == "SECRET").then(|| "hidden".to_owned())).unwrap();
        let git = &settings.plugins[0];
        assert_eq!(
            (git.args.as_slice(), git.env["A"].as_str()),
            (["--fast".to_owned()].as_slice(), "b")
        );
        assert_eq!(git.execute_timeout, Duration::from_secs(5));
        let passed: Vec<_> = git.config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            passed,
            [
                ("deep.er.x", "1"),
                ("depth", "3"),
                ("key", "hidden"),
                ("list", r#"[1,"x"]"#),
                ("on", "true"),
                ("rate", "0.5"),
            ]
        );
        let error = config.host_settings(no_variable).unwrap_err().to_string();
        assert!(error.contains("environment variable SECRET is not set"), "{error}");
    }

    #[test]
    fn what_comes_from_the_environment_is_known_as_secret() {
        let text = "[plugin]\nenabled = ['git']\n[plugins.git]\nenv = { A = 'env:ONE', B = 'plain' }\n\
                    [git]\nkey = 'env:TWO'\nlist = ['x', 'env:ONE', 'env:TWO']\nplain = 'y'\n[git.deep]\nkey = 'env:THREE'";
        let config = read(Path::new("am.toml"), text).unwrap();
        let variable = |name: &str| Some(format!("value of {name}"));
        let git = config.host_settings(variable).unwrap().plugins.remove(0);
        let from_env: Vec<_> = git.from_env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            from_env,
            [("deep.key", "env:THREE"), ("key", "env:TWO"), ("list", "env:ONE, env:TWO")]
        );
        let secrets: Vec<_> = git.secrets.iter().map(String::as_str).collect();
        assert_eq!(secrets, ["value of ONE", "value of THREE", "value of TWO"]);
        assert_eq!((git.env["A"].as_str(), git.env["B"].as_str()), ("value of ONE", "plain"));
    }

    #[test]
    fn what_the_host_is_told_is_what_is_written() {
        let settings = |text: &str| {
            read(Path::new("am.toml"), text).unwrap().host_settings(no_variable).unwrap()
        };
        let text = "[plugin]\nenabled = ['git']\nbody_max_mb = 32\n\
                    [plugin.websocket.keepalive]\nping_interval_secs = 5\npong_timeout_secs = 0.5\n\
                    [plugins.git]\nmemory_mb = 512\nopen = true";
        let host = settings(text);
        let keepalive = Keepalive {
            ping_interval: Duration::from_secs(5),
            pong_timeout: Duration::from_millis(500),
        };
        assert_eq!((host.keepalive, host.body_bytes_max), (keepalive, 32 << 20));
        assert_eq!(
            (host.plugins[0].memory_bytes_max, host.plugins[0].open),
            (Some(512 << 20), true)
        );
        let host = settings("[plugin]\nenabled = ['git']");
        assert_eq!((host.keepalive, host.body_bytes_max), (Keepalive::default(), 16 << 20));
        assert_eq!((host.plugins[0].memory_bytes_max, host.plugins[0].open), (None, false));
    }

    #[test]
    fn budgets_are_of_all_of_plugins_and_of_handlers() {
        let text = "[budget]\nper_month = 20\n[budget.plugin.git]\ncalls_per_minute = 60\n\
                    [budget.plugin.notify]\n[budget.handler.'git/ixgest.git']\nper_day = 0.5";
        let config = read(Path::new("am.toml"), text).unwrap().engine_config().budgets;
        let found: Vec<_> =
            config.iter().map(|(scope, limits)| (scope.to_string(), *limits)).collect();
        let none = BudgetLimits::default();
        let expected = [
            ("*", BudgetLimits { per_month: Some(20.0), ..none }),
            ("git", BudgetLimits { calls_per_minute: Some(60), ..none }),
            ("git/ixgest.git", BudgetLimits { per_day: Some(0.5), ..none }),
        ];
        assert_eq!(found, expected.map(|(scope, limits)| (scope.to_owned(), limits)));
    }

    #[test]
    fn the_settings_of_a_plugin_are_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("am.toml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("[plugin]\nenabled = ['greet']\n[greet]\ndepth = 1");
        let overrides =
            Overrides { store: Some("/a".into()), config: Some(file.clone()), http: None };
        let config = Config::load(&overrides, no_variable).unwrap();
        let name: PluginName = "greet".parse().unwrap();
        let depth = || {
            let settings = config.plugin_settings_now(&name, no_variable);
            settings.map(|settings| settings.config["depth"].clone()).map_err(|e| e.to_string())
        };
        assert_eq!(depth().unwrap(), "1");
        write("[plugin]\nenabled = ['greet']\n[greet]\ndepth = 2");
        assert_eq!(depth().unwrap(), "2");
        write("[plugin]\nenabled = ['greet']\n[greet\n");
        assert!(depth().unwrap_err().contains("am.toml:3"));
        std::fs::remove_file(&file).unwrap();
        assert!(depth().unwrap_err().contains("it cannot be read"));
        // Where nothing was configured nothing has to be.
        let unconfigured = Config::unconfigured("/a".into(), vec![name.clone()], no_variable);
        assert!(unconfigured.plugin_settings_now(&name, no_variable).unwrap().config.is_empty());
    }

    #[test]
    fn later_wins() {
        let base = read(Path::new("am.toml"), "[store]\npath = '/a'\n[http]\naddr = '127.0.0.1:1'")
            .unwrap();
        let variable = |name: &str| match name {
            "AXWATCH_LOG" => Some("debug".to_owned()),
            "AXWATCH_STORE" => Some("/c".to_owned()),
            "AXWATCH_HTTP" => Some("127.0.0.1:2".to_owned()),
            "AXWATCH_PLUGIN_ENABLED" => Some("git, notify".to_owned()),
            _ => None,
        };
        let overrides =
            Overrides { store: Some("/b".into()), http: Some("localhost:0".into()), config: None };
        let config = base.clone().lay_over(&overrides, &variable).unwrap();
        assert_eq!((config.store.as_path(), config.http.port()), (Path::new("/b"), 0));
        assert_eq!(config.log.as_deref(), Some("debug"));
        assert_eq!(config.plugins.enabled().len(), 2);
        let config = base.clone().lay_over(&Overrides::default(), &variable).unwrap();
        assert_eq!((config.store.as_path(), config.http.port()), (Path::new("/c"), 2));
        let config = base.lay_over(&Overrides::default(), &no_variable).unwrap();
        assert_eq!((config.store.as_path(), config.http.port()), (Path::new("/a"), 1));
    }

    #[test]
    fn without_a_file_everything_has_its_usual_place() {
        let base = read(Path::new("am.toml"), "").unwrap();
        let home = |name: &str| (name == "HOME").then(|| "/home/ann".to_owned());
        let config = base.clone().lay_over(&Overrides::default(), &home).unwrap();
        assert_eq!(config.store, Path::new("/home/ann/.local/share/axwatch/axwatch.db"));
        assert_eq!(config.http, HTTP_DEFAULT);
        let error = base.lay_over(&Overrides::default(), &no_variable).unwrap_err();
        assert!(error.to_string().contains("--store PATH"));
    }
}
