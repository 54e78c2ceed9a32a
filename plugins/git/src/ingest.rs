//! Reading a repository into batches of claims.
//!
//! Comes in: a request. Goes out: batches through a bounded channel, so that reading goes on while
//! the last batch is sent and memory stays flat. Nothing survives a crash and nothing has to: the
//! same claims have the same ids the next time.
//!
//! Not here: sending (`crate::GitPlugin`), what is claimed (`crate::claims`).

use std::collections::HashSet;
use std::sync::Arc;

use axwatch_sdk::Claim;
use gix::ObjectId;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::cache::Recent;
use crate::claims::{CommitClaims, of_author, of_reference, of_reference_name};
use crate::error::GitError;
use crate::history::{History, Node};
use crate::object::{self, Commit};
use crate::payload::{self, Request};
use crate::repository::{NamedReference, ReferenceKind, Repository};

/// Claims after which a batch is sent. One commit may add a few more than fit.
const BATCH_CLAIMS: usize = 1_000;
/// Bytes of messages after which a batch is sent before it is full.
const BATCH_MESSAGE_BYTES: usize = 1024 * 1024;
/// Bytes of lists of top-level directories that are kept.
const TREES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one directory in such a list, beside its name.
const DIRECTORY_BYTES: usize = 40;

/// Claims on their way to the host, and how far the reading is.
pub(crate) struct Batch {
    pub(crate) claims: Vec<Claim>,
    /// Commits told, this batch included.
    pub(crate) done: u64,
    /// Commits to tell in all.
    pub(crate) total: u64,
}

/// What was read, as the job's result says it.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    repository: String,
    commits: usize,
    branches: usize,
    tags: usize,
    claims: usize,
    shallow: bool,
    since: Option<String>,
    /// What people should know of, though nothing failed.
    #[serde(skip)]
    pub(crate) warnings: Vec<String>,
}

/// Reads what `request` asks for. `stop` is asked now and then.
pub(crate) fn read(
    request: &Request,
    batches: mpsc::Sender<Batch>,
    stop: &dyn Fn() -> bool,
) -> Result<Summary, GitError> {
    let repository = Repository::open(&request.path)?;
    let references = repository.references()?;
    let since = payload::resolve(request.since.as_deref(), &repository)?;
    let history = History::walk(&repository, &references.tips, since, stop)?;
    if history.is_void() {
        return Err(GitError::NoCommits(request.path.clone()));
    }
    let mut reader = Reader::new(&repository, &history, batches);
    for node in history.iter() {
        if stop() {
            return Err(GitError::Stopped);
        }
        reader.tell_commit(node)?;
    }
    reader.tell_references(&references.named)?;
    reader.send()?;
    let count = |kind| references.named.iter().filter(|named| named.kind == kind).count();
    Ok(Summary {
        repository: repository.folder().to_string_lossy().into_owned(),
        commits: history.len(),
        branches: count(ReferenceKind::Branch),
        tags: count(ReferenceKind::Tag),
        claims: reader.claims_sent,
        shallow: repository.is_shallow(),
        since: request.since.clone(),
        warnings: warnings(&repository, &references.broken, &reader.trees_missing),
    })
}

fn warnings(repository: &Repository, broken: &[String], trees: &MissingTrees) -> Vec<String> {
    let mut warnings = Vec::new();
    if repository.is_shallow() {
        warnings.push(
            "this is a shallow clone: only the commits that are here are told; after `git fetch \
             --unshallow` the same job adds the others"
                .to_owned(),
        );
    }
    if let Some(first) = trees.first {
        let why = if repository.is_partial() {
            "this is a partial clone"
        } else {
            "`git fsck` in the repository says more"
        };
        warnings.push(format!(
            "nothing is said of which directories {} commits changed, because trees are missing, the \
             first {first}: {why}",
            trees.commits
        ));
    }
    if repository.has_grafts() {
        warnings.push(
            "the file info/grafts is not read: `git replace --convert-graft-file` makes of it what is"
                .to_owned(),
        );
    }
    if let Some(first) = broken.first() {
        warnings.push(format!(
            "{} references lead nowhere and are passed over, the first {first}",
            broken.len()
        ));
    }
    warnings
}

/// Commits of which no directory is named, because a tree is not here.
#[derive(Default)]
struct MissingTrees {
    commits: usize,
    first: Option<ObjectId>,
}

type Directories = Arc<[object::Directory]>;

/// Tells one commit after the other and fills batches.
struct Reader<'a> {
    repository: &'a Repository,
    history: &'a History,
    batches: mpsc::Sender<Batch>,
    claims: Vec<Claim>,
    message_bytes: usize,
    done: u64,
    claims_sent: usize,
    /// The hashes of the authors that were told.
    authors: HashSet<[u8; 16]>,
    trees: Recent<ObjectId, Directories>,
    trees_missing: MissingTrees,
    commit_buffer: Vec<u8>,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(
        repository: &'a Repository,
        history: &'a History,
        batches: mpsc::Sender<Batch>,
    ) -> Reader<'a> {
        Reader {
            repository,
            history,
            batches,
            claims: Vec::new(),
            message_bytes: 0,
            done: 0,
            claims_sent: 0,
            authors: HashSet::new(),
            trees: Recent::new(TREES_BYTES_MAX),
            trees_missing: MissingTrees::default(),
            commit_buffer: Vec::new(),
            buffer: Vec::new(),
        }
    }

    fn tell_commit(&mut self, node: &Node) -> Result<(), GitError> {
        let mut buffer = std::mem::take(&mut self.commit_buffer);
        let id = node.id;
        let commit = self.repository.commit(id, &mut buffer)?;
        // The walk read it a moment ago.
        let commit = commit.ok_or(GitError::Missing { id, child: id })?;
        let claims = CommitClaims::new(id, self.repository.stand_in(id), &commit);
        let author = claims.of_itself(&mut self.claims);
        if self.authors.insert(digest(&author)) {
            self.claims.push(of_author(&author));
        }
        self.tell_directories(node, &commit, &claims)?;
        self.message_bytes += commit.message.len();
        self.done += 1;
        self.commit_buffer = buffer;
        if self.claims.len() >= BATCH_CLAIMS || self.message_bytes >= BATCH_MESSAGE_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn tell_directories(
        &mut self,
        node: &Node,
        commit: &Commit<'_>,
        claims: &CommitClaims<'_>,
    ) -> Result<(), GitError> {
        let before = match commit.parents.first() {
            None => Directories::default(),
            Some(&parent) => match self.tree_of_parent(node, parent)? {
                // Beyond the boundary of a shallow clone: nobody knows what changed.
                None => return Ok(()),
                Some(tree) if tree == commit.tree => return Ok(()),
                Some(tree) => match self.directories(tree)? {
                    None => return Ok(()),
                    Some(directories) => directories,
                },
            },
        };
        if let Some(after) = self.directories(commit.tree)? {
            for name in object::changed(&before, &after) {
                self.claims.push(claims.modified(name));
                // A commit may change any number of directories.
                if self.claims.len() >= BATCH_CLAIMS {
                    self.send()?;
                }
            }
        }
        Ok(())
    }

    /// The tree of the first parent. A parent that the walk did not go to may be here all the same.
    fn tree_of_parent(
        &mut self,
        node: &Node,
        parent: ObjectId,
    ) -> Result<Option<ObjectId>, GitError> {
        match self.history.first_parent_tree(node) {
            Some(tree) => Ok(Some(tree)),
            None => {
                let found = self.repository.commit(parent, &mut self.buffer)?;
                Ok(found.map(|commit| commit.tree))
            }
        }
    }

    /// The directories of a tree; None, which is noted, when it is not here.
    fn directories(&mut self, tree: ObjectId) -> Result<Option<Directories>, GitError> {
        if let Some(directories) = self.trees.get(&tree) {
            return Ok(Some(directories.clone()));
        }
        let Some(bytes) = self.repository.tree(tree, &mut self.buffer)? else {
            self.trees_missing.commits += 1;
            self.trees_missing.first.get_or_insert(tree);
            return Ok(None);
        };
        let directories = object::directories(bytes)
            .map_err(|source| GitError::Malformed { id: tree, source })?;
        let bytes = directories.iter().map(|(name, _)| name.len() + DIRECTORY_BYTES).sum::<usize>();
        let directories: Directories = directories.into();
        self.trees.put(tree, directories.clone(), bytes + DIRECTORY_BYTES);
        Ok(Some(directories))
    }

    fn tell_references(&mut self, references: &[NamedReference]) -> Result<(), GitError> {
        for reference in references {
            self.claims.push(of_reference_name(&reference.name, reference.kind));
            self.claims.push(of_reference(reference));
            if self.claims.len() >= BATCH_CLAIMS {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Waits while the channel is full. Nobody at its other end means that sending failed.
    fn send(&mut self) -> Result<(), GitError> {
        self.message_bytes = 0;
        let claims = std::mem::take(&mut self.claims);
        self.claims_sent += claims.len();
        let total = self.history.len() as u64;
        let batch = Batch { claims, done: self.done, total };
        self.batches.blocking_send(batch).map_err(|_| GitError::Stopped)
    }
}

fn digest(text: &str) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    first
}
