//! `axwatch man`: the manual, made from the same words as `--help`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use serde_json::json;

use super::{Cli, Context};
use crate::fault::Fault;

const EXAMPLES: &str = "\
Examples:
  axwatch man | man -l -                     # read the main page
  axwatch man ~/.local/share/man/man1        # install all pages: man axwatch-watch-create";

/// Print the manual page, or write those of all commands into a folder
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Man {
    /// A folder for the pages of all commands, made if it is not there; without it the main page goes
    /// to standard output
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    pub fn run(self, context: &mut Context) -> Result<()> {
        let out = &mut context.out;
        let Some(folder) = self.folder else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            return out.line(String::from_utf8_lossy(&page).trim_end());
        };
        let pages = write_all(&folder)?;
        if out.json {
            return out.object(&json!({ "folder": folder, "pages": pages }));
        }
        out.line(&format!("{pages} pages written to {}; try `man axwatch`", folder.display()))
    }
}

/// Writes the page of every command, and says how many there are now.
fn write_all(folder: &Path) -> Result<usize> {
    let cannot = |error: std::io::Error| {
        Fault::Usage(format!("cannot write pages into {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(cannot)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(cannot)?;
    let entries = std::fs::read_dir(folder).context("cannot read the folder of the pages")?;
    let is_ours = |name: &str| name.starts_with("axwatch") && name.ends_with(".1");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| is_ours(name)).count())
}
