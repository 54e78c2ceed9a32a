//! `axwatch completions`: what a shell needs to complete our commands.

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Context};

const EXAMPLES: &str = "\
Examples (each lasts from the next shell on):
  axwatch completions bash > ~/.local/share/bash-completion/completions/axwatch
  axwatch completions zsh > ~/.zfunc/_axwatch      # with `fpath+=~/.zfunc` before compinit
  axwatch completions fish > ~/.config/fish/completions/axwatch.fish
  axwatch completions elvish >> ~/.config/elvish/rc.elv
  axwatch completions powershell >> $PROFILE

For this shell alone:
  source <(axwatch completions bash)";

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn run(self, context: &mut Context) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "axwatch", &mut script);
        context.out.line(String::from_utf8_lossy(&script).trim_end())
    }
}
