//! Repositories with a history, made by `git` itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use std::io::Write as _;

/// A repository.
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    /// A new one without a commit.
    pub fn empty(path: PathBuf) -> Repository {
        let repository = Repository { path };
        std::fs::create_dir_all(&repository.path).expect("a folder can be made");
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// One with this many commits on `main`, every seventh a merge of a side branch that ends there,
    /// in a few top-level folders; with tags, and with a branch of its own at the first commit.
    pub fn with_commits(path: PathBuf, commits: usize) -> Repository {
        let repository = Repository::empty(path);
        repository.import(&history(commits));
        repository.git(&["update-ref", "refs/heads/old", "main~2"]);
        repository.git(&["tag", "v1", "main~1"]);
        repository
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `git` prints, without the last line's end.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("git is installed");
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("git prints text").trim_end().to_owned()
    }

    /// How many commits any ref or HEAD leads to, as git counts them.
    pub fn commits(&self) -> u64 {
        self.git(&["rev-list", "--count", "--all", "HEAD"]).parse().expect("a count is a number")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.path).args(args);
        for (name, value) in [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_AUTHOR_NAME", "Ada"),
            ("GIT_AUTHOR_EMAIL", "ada@example.com"),
            ("GIT_COMMITTER_NAME", "Ada"),
            ("GIT_COMMITTER_EMAIL", "ada@example.com"),
        ] {
            command.env(name, value);
        }
        command
    }

    fn import(&self, stream: &str) {
        let mut import = self.command(&["fast-import", "--quiet"]);
        let mut import = import.stdin(Stdio::piped()).spawn().expect("git is installed");
        let mut input = import.stdin.take().expect("its input is a pipe");
        input.write_all(stream.as_bytes()).expect("git reads all of it");
        drop(input);
        assert!(import.wait().expect("git ends").success(), "git fast-import");
    }
}

fn history(commits: usize) -> String {
    const AUTHORS: [&str; 3] =
        ["Ada <ada@example.com>", "Grace <grace@example.com>", "Łukasz <l@example.com>"];
    const FOLDERS: [&str; 4] = ["src", "docs", "tests", "a b"];
    let mut stream = String::new();
    let mut side: Option<usize> = None;
    for number in 1..=commits {
        let is_side = number % 7 == 5;
        let branch =
            if is_side { format!("refs/heads/side-{number}") } else { "refs/heads/main".into() };
        let who = AUTHORS[number % AUTHORS.len()];
        let at = 1_500_000_000 + number * 60;
        let message = format!("change {number}\n\nof many\n");
        let line = format!("{number}\n");
        let folder = FOLDERS[number % FOLDERS.len()];
        write!(
            stream,
            "commit {branch}\nmark :{number}\nauthor {who} {at} +0100\ncommitter {who} {at} +0100\n"
        )
        .expect("a String takes all");
        write!(stream, "data {}\n{message}", message.len()).expect("a String takes all");
        let parent = match (number, side) {
            (1, _) => None,
            (_, Some(at)) if at == number - 1 => Some(number - 2),
            _ => Some(number - 1),
        };
        if let Some(parent) = parent {
            writeln!(stream, "from :{parent}").expect("a String takes all");
        }
        if !is_side && let Some(merged) = side.take() {
            writeln!(stream, "merge :{merged}").expect("a String takes all");
        }
        writeln!(stream, "M 100644 inline \"{folder}/file\"\ndata {}\n{line}", line.len())
            .expect("a String takes all");
        if is_side {
            side = Some(number);
        }
    }
    stream
}
