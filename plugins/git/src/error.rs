//! Why a repository cannot be read. Every text says what was given, what is wrong and what would be
//! right, because it becomes the reason of a failed job.

use std::path::PathBuf;

use gix::ObjectId;

use crate::object::Malformed;

/// Why a repository, or what was asked of it, cannot be read. None of it heals by trying again.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// An empty text.
    #[error("no repository is named: give the path of one on this machine")]
    NoPath,
    /// A path that a shell would have expanded.
    #[error("{0}: `~` is not expanded here; write the whole path")]
    Home(String),
    /// An address of another machine.
    #[error(
        "{0} is an address, and only repositories on this machine are read: clone it first, then give the path of the clone"
    )]
    Remote(String),
    /// Nothing is there.
    #[error("{path} does not exist{hint}", path = path.display())]
    NotThere {
        /// As it was given.
        path: PathBuf,
        /// For a relative path, where it begins.
        hint: String,
    },
    /// There, but no folder.
    #[error("{path} is a file: give the folder of a repository", path = .0.display())]
    IsFile(PathBuf),
    /// There, but it may not be looked at.
    #[error("cannot look at {path}: {source}", path = path.display())]
    Unreadable {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A folder, but neither it nor one above it is a repository.
    #[error(
        "{path} is not a git repository, and no folder above it is one: give the folder of a clone, a bare \
         repository or a worktree", path = .0.display()
    )]
    NotARepository(PathBuf),
    /// A repository that the library refuses.
    #[error("cannot open the git repository at {path}", path = path.display())]
    Open {
        /// As it was given.
        path: PathBuf,
        /// What the library says.
        source: gix::Error,
    },
    /// A repository in a format that is not read.
    #[error("{path} keeps its {what}, which is not read here: {remedy}", path = path.display())]
    Format {
        /// As it was given.
        path: PathBuf,
        /// What it keeps, and how.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A repository in which nothing was committed.
    #[error("{path} has no commits yet", path = .0.display())]
    NoCommits(PathBuf),
    /// The list of references, the shallow file.
    #[error("cannot read {what} of {path}", path = path.display())]
    Files {
        /// Which.
        what: &'static str,
        /// As it was given.
        path: PathBuf,
        /// What the library says.
        source: gix::Error,
    },
    /// An object that the database cannot give, though it has it.
    #[error("object {id} cannot be read: `git fsck` in the repository says more")]
    Object {
        /// Which.
        id: ObjectId,
        /// What the library says.
        source: gix::Error,
    },
    /// An object whose bytes are not what it is used as.
    #[error("object {id} is corrupt ({source}): `git fsck` in the repository says more")]
    Malformed {
        /// Which.
        id: ObjectId,
        /// What is wrong.
        source: Malformed,
    },
    /// An object of another kind than its user needs.
    #[error(
        "object {id} is a {found}, but {user} needs a {expected}: `git fsck` in the repository says more"
    )]
    Kind {
        /// Which.
        id: ObjectId,
        /// What it is.
        found: gix::objs::Kind,
        /// What it should be.
        expected: gix::objs::Kind,
        /// What names it.
        user: String,
    },
    /// A commit that a child names, that is not here, and that no shallow clone explains.
    #[error(
        "commit {id} is missing, though {child} names it as its parent: `git fsck` in the repository says more"
    )]
    Missing {
        /// Which.
        id: ObjectId,
        /// Who names it.
        child: ObjectId,
    },
    /// A `since` that is none of the three forms.
    #[error(
        "since {given:?} {why}; it may be a time (2024-05-15T14:30:00Z), a day (2024-05-15, from its start in \
         UTC) or a commit (a branch, a tag, or 7 to 40 hex digits of its hash)"
    )]
    Since {
        /// As it was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody waits for the answer any more.
    #[error("stopped, because nobody waits for it any more")]
    Stopped,
}

impl GitError {
    /// The text with that of every cause.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            // Some of our texts hold their cause already, and the library repeats itself.
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}
