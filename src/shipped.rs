//! The plugins that ship inside this program.
//!
//! Each is a program of its own all the same: the host starts ours again as `axwatch plugin serve NAME
//! --port N`, so that a plugin that crashes or hangs takes nothing with it. They are on when the
//! configuration does not say which plugins are.
//!
//! Not here: what they do (`plugins/`), how they speak (`axwatch_sdk`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axwatch_engine::plugin::{PluginSettings, Program};

/// Their names.
pub const NAMES: [&str; 3] = ["git", "notify", "python"];

/// Reading a repository of some hundred thousand commits takes longer than an attempt usually may.
const GIT_EXECUTE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Serves the plugin of this name, which has to be one of [`NAMES`], until it is told to stop.
pub fn serve(name: &str, address: SocketAddr) -> ExitCode {
    match name {
        "git" => axwatch_sdk::serve_at(axwatch_plugin_git::plugin(), address),
        "notify" => axwatch_sdk::serve_at(axwatch_plugin_notify::plugin(), address),
        "python" => axwatch_sdk::serve_at(axwatch_plugin_python::plugin(), address),
        other => unreachable!("the command line takes only shipped plugins, not {other}"),
    }
}

/// Gives a plugin of such a name its program, and what it needs other than plugins usually do.
pub fn settle(settings: &mut PluginSettings) {
    let name = settings.name.as_str();
    if !NAMES.contains(&name) {
        return;
    }
    let args = ["plugin", "serve", name].map(str::to_owned).to_vec();
    settings.shipped = Some(Program { path: ourselves(), args });
    if name == "git" {
        settings.execute_timeout = GIT_EXECUTE_TIMEOUT;
    }
}

/// The program that runs. The link leads to it even when its file was replaced meanwhile.
pub fn ourselves() -> PathBuf {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() { link } else { std::env::current_exe().unwrap_or(link) }
}
