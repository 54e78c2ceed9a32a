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
}

impl Serve {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let config = context.config_with(self.http)?;
        crate::serve::run(&config, &mut context.out).await
    }
}
