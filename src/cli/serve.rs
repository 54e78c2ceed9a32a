//! `axwatch serve`.

use anyhow::Result;
use clap::Args;

use super::Context;

const EXAMPLES: &str = "\
Examples:
  axwatch serve
  axwatch serve --store ./claims.db --http 127.0.0.1:0 --json
  axwatch serve --config ./am.toml";

/// Run the engine: take claims, match watchers, run plugins, serve the HTTP API
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    /// Where to listen, on loopback; port 0 is any free one [env: AXWATCH_HTTP] [default: 127.0.0.1:8770]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// End at once, as if killed, when the process that started this one, which is that, has ended
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<u32>,
}

impl Serve {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        if let Some(parent) = self.with_parent {
            end_with(parent);
        }
        let config = context.config_with(self.http)?;
        crate::serve::run(&config, &mut context.out).await
    }
}

/// Lets the system kill this process when the thread that started it has ended, where it can. Ends it
/// now when the process that started it, which is this one, has ended already.
pub fn end_with(parent: u32) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            eprintln!("this process may outlive the one that started it: {error}");
        }
        if getppid().is_none_or(|pid| pid.as_raw_pid().cast_unsigned() != parent) {
            std::process::exit(1);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
}
