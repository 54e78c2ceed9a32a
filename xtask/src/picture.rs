//! The picture of a terminal in the docs: the real program run on a real terminal, drawn as SVG.
//!
//! In: `axwatch`, built from this checkout, run under `script` (util-linux) in a folder of its own, on
//! a small repository that is made here. Out: `docs/terminal.svg`. Names, commits and dates are always
//! the same; times and ids are those of the run.

mod screen;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::steps::{cargo, output, root, run, step};
use screen::Screen;

/// Columns of the terminal.
const COLUMNS: usize = 120;
/// Where the picture lies.
const PICTURE: &str = "docs/terminal.svg";

/// Makes the picture.
///
/// # Errors
/// When something that is needed cannot be run: cargo, git, script.
pub fn run_all() -> Result<()> {
    step("build", || run(cargo().args(["build", "--workspace", "--bin", "axwatch"])))?;
    let folder = fresh_folder()?;
    step("repository", || make_repository(&folder.join("project")))?;
    let mut session = Session { folder, screen: Screen::new(COLUMNS) };
    step("session", || session.play())?;
    let svg = svg::draw(&session.screen, "axwatch");
    fs::write(root().join(PICTURE), svg).with_context(|| format!("cannot write {PICTURE}"))?;
    fs::remove_dir_all(&session.folder).context("cannot remove the folder of the session")?;
    eprintln!("    wrote {PICTURE}");
    Ok(())
}

fn fresh_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("axwatch-picture-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("project/src"))
        .with_context(|| format!("cannot make {}", folder.display()))?;
    // What the program shows is the path without links.
    folder.canonicalize().context("cannot tell where the folder is")
}

/// A repository with a history that is the same every time.
fn make_repository(project: &Path) -> Result<()> {
    let git = || {
        let mut git = Command::new("git");
        git.current_dir(project).env("GIT_CONFIG_GLOBAL", "/dev/null");
        git
    };
    run(git().args(["init", "--quiet", "--initial-branch=main"]))?;
    let people = [("Ann", "ann@example.org"), ("Ben", "ben@example.org")];
    let commits = [
        "a first sketch",
        "parse the input",
        "say what is wrong, and where",
        "tests for the parser",
        "read from standard input",
        "fix the last line without an end",
        "docs: a first page",
        "faster by not copying",
    ];
    for (number, message) in commits.iter().enumerate() {
        let (name, mail) = people[number % people.len()];
        let date = format!("2025-03-{:02}T09:00:00Z", number + 1);
        fs::write(project.join("src/main.txt"), message).context("cannot write a file")?;
        run(git().args(["add", "--all"]))?;
        run(git()
            .args(["commit", "--quiet", "--message", message])
            .envs([("GIT_AUTHOR_NAME", name), ("GIT_COMMITTER_NAME", name)])
            .envs([("GIT_AUTHOR_EMAIL", mail), ("GIT_COMMITTER_EMAIL", mail)])
            .envs([("GIT_AUTHOR_DATE", &date), ("GIT_COMMITTER_DATE", &date)]))?;
    }
    Ok(())
}

/// A person at a terminal.
struct Session {
    folder: PathBuf,
    screen: Screen,
}

impl Session {
    fn play(&mut self) -> Result<()> {
        self.types("axwatch demo --repo project --store demo.db")?;
        self.types("axwatch fires --watcher demo-commits --limit 3")?;
        let job = self.last_job()?;
        self.types(&format!("axwatch why {}", &job[..8]))
    }

    /// Types a command, and shows what the terminal then shows.
    fn types(&mut self, line: &str) -> Result<()> {
        if !self.screen.is_empty() {
            self.screen.feed("\r\n");
        }
        self.screen.feed(&format!("\x1b[1;34m~ $\x1b[0m \x1b[1m{line}\x1b[0m\r\n"));
        let shell = format!("stty cols {COLUMNS} rows 50; exec {line}");
        let mut command = self.command("script");
        let shown = output(command.args(["-qec", &shell, "/dev/null"]))?;
        ensure!(!shown.trim().is_empty(), "{line}: nothing was shown");
        let folder = self.folder.to_str().context("the folder's name is no text")?;
        self.screen.feed(&shown.replace(folder, "~"));
        Ok(())
    }

    /// The id of the last fire.
    fn last_job(&self) -> Result<String> {
        let fires = ["fires", "--watcher", "demo-commits", "--limit", "1", "--json"];
        let line = output(self.command("axwatch").args(fires))?;
        let (_, rest) = line.split_once("\"job_id\":\"").context("there is no fire")?;
        Ok(rest.chars().take(32).collect())
    }

    /// A program with nothing in its environment that could show in the picture.
    fn command(&self, program: &str) -> Command {
        let built = root().join("target/debug");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", built.display());
        // Found here, because the search goes by our own variable and not by the child's.
        let program = match program {
            "axwatch" => built.join(program),
            other => PathBuf::from(other),
        };
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env_clear().env("PATH", path);
        command.env("HOME", &self.folder).env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        command.env("AXWATCH_STORE", "demo.db").stdin(std::process::Stdio::null());
        command
    }
}
