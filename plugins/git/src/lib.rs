//! The plugin git: reads the history of a repository into claims.
//!
//! Comes in: a job of the handler `ixgest.git` with the path of a repository. Goes out: claims about
//! its commits, authors, directories, branches and tags, parents before children, in batches with ids
//! of their own, so that the same job again adds nothing. A crash loses nothing that the next attempt
//! does not say again.
//!
//! Inside: `payload` what was asked for, `repository` where objects come from,
//! `history` their order, `object` their bytes, `claims` what is said, `ingest` all of it in batches.
//! Not here: how claims travel (`axwatch_sdk`).

mod cache;
mod claims;
mod error;
mod history;
mod ingest;
mod object;
mod payload;
mod repository;

use std::path::{Path, PathBuf};

use axwatch_sdk::{About, Done, Failure, Job, Plugin};
use tokio::sync::mpsc;

pub use error::GitError;
pub use object::Malformed;

use crate::history::{History, Since};
use crate::payload::Request;
use crate::repository::Repository;

/// The one handler.
const HANDLER: &str = "ixgest.git";
/// Batches that are read ahead of the one being sent.
const BATCHES_AHEAD: usize = 2;

/// The plugin, for [`axwatch_sdk::serve`].
#[must_use]
pub fn plugin() -> GitPlugin {
    GitPlugin
}

/// Reads repositories into claims.
#[derive(Debug, Clone, Copy)]
pub struct GitPlugin;

impl Plugin for GitPlugin {
    fn about(&self) -> About {
        About::new(
            "git",
            env!("CARGO_PKG_VERSION"),
            "Reads the history of a git repository into claims",
        )
        .license(env!("CARGO_PKG_LICENSE"))
    }

    fn handlers(&self) -> Vec<String> {
        vec![HANDLER.to_owned()]
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        let request = Request::parse(job.payload()).map_err(Failure::permanent)?;
        let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
        let reading = job.clone();
        let reader = tokio::task::spawn_blocking(move || {
            ingest::read(&request, sender, &|| reading.is_cancelled())
        });
        while let Some(batch) = batches.recv().await {
            // A failure drops the channel, at which the reader stops.
            job.attest_all(batch.claims).await?;
            job.progress(batch.done, batch.total);
        }
        let summary = reader.await?.map_err(failure)?;
        for warning in &summary.warnings {
            job.warn(warning);
        }
        Ok(Done::new().result_json(&summary))
    }
}

fn failure(error: GitError) -> Failure {
    match error {
        GitError::Stopped => Failure::retry(error),
        _ => Failure::permanent(error.chain()),
    }
}

/// The folder of the repository at `path`, or of the one that `path` lies in: its work tree, or
/// itself when it is bare.
///
/// # Errors
/// What a job for this path would fail with; an empty repository is found.
pub fn find_repository(path: &Path) -> Result<PathBuf, GitError> {
    Repository::open(path).map(|repository| repository.folder())
}

/// How many commits a job for this path would tell: those from any reference or HEAD, as
/// `git rev-list --all HEAD` has them.
///
/// # Errors
/// What a job for this path would fail with, [`GitError::NoCommits`] among it.
pub fn count_commits(path: &Path) -> Result<u64, GitError> {
    let repository = Repository::open(path)?;
    let references = repository.references()?;
    let history = History::walk(&repository, &references.tips, Since::Beginning, &|| false)?;
    if history.is_void() {
        return Err(GitError::NoCommits(path.to_owned()));
    }
    Ok(history.len() as u64)
}
