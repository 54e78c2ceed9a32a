//! Asking a person before much is done at once.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anstyle::Style;
use anyhow::{Context as _, Result};
use clap::Args;

use super::Context;
use crate::fault::Fault;

/// Whether somebody has agreed already.
#[derive(Debug, Clone, Copy, Args)]
pub struct Consent {
    /// Do it without asking
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// How to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// Do it.
    Ahead,
    /// Say what would be done, and ask.
    Ask,
    /// Say what would be done, and leave it at that.
    DryRun,
}

impl Consent {
    /// How to go on. Only a person at a terminal can be asked; `command` is what is about to be done.
    ///
    /// # Errors
    /// [`Fault::Usage`] when nobody has agreed and nobody is there to.
    pub fn go(self, context: &Context, command: &str) -> Result<Go, Fault> {
        let somebody_is_there =
            !context.out.json && io::stdin().is_terminal() && io::stderr().is_terminal();
        match self {
            Consent { dry_run: true, .. } => Ok(Go::DryRun),
            Consent { yes: true, .. } => Ok(Go::Ahead),
            _ if somebody_is_there => Ok(Go::Ask),
            _ => Err(Fault::Usage(format!(
                "`{command}` asks before it begins, and nobody is at a terminal to answer; say --yes to do it, or --dry-run to see what it would do"
            ))),
        }
    }
}

/// Asks, and goes on only when the answer is yes.
///
/// # Errors
/// [`Fault::Refused`] for any other answer, and none.
pub async fn agreed(question: &str) -> Result<()> {
    let bold = Style::new().bold();
    // Not locked: whoever hears Ctrl-C meanwhile has to say so.
    let mut stderr = anstream::stderr();
    write!(stderr, "{bold}{question} [y/N]{bold:#} ")
        .and_then(|()| stderr.flush())
        .context("cannot ask on this terminal")?;
    // The terminal is read on a thread of its own, so that Ctrl-C is heard meanwhile.
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = tokio::select! {
        line = reading => line?.context("cannot read from this terminal")?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!();
            String::new()
        }
    };
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Fault::Refused("nothing was changed".to_owned()).into()),
    }
}
