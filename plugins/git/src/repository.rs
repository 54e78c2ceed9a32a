//! One repository on this machine: where it is, what its references name, and its objects.
//!
//! Comes in: a path. Goes out: tips, named references and raw objects. Nothing is ever written, no
//! program is run and no configuration but the repository's own is read, so that a repository of
//! another user is read like any other.
//!
//! Not here: the order of commits (`crate::history`), what is claimed of them (`crate::claims`).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::objs::{Find as _, FindHeader as _, Kind};
use gix::refs::Target;

use crate::cache::PackBases;
use crate::error::GitError;
use crate::object::{Commit, tag_target};

/// Bytes of objects kept because others are stored as differences from them.
const PACK_BASES_BYTES_MAX: usize = 24 * 1024 * 1024;
/// How many symbolic references, replacements or tags of tags are followed, as in git.
const FOLLOWED_MAX: usize = 5;

/// An open repository, for one thread.
pub(crate) struct Repository {
    git: gix::Repository,
    given: PathBuf,
    /// What `git replace` put in the place of what.
    replaced: HashMap<ObjectId, ObjectId>,
    /// The commits whose parents a shallow clone left away.
    shallow: HashSet<ObjectId>,
}

/// What the references name.
#[derive(Default)]
pub(crate) struct References {
    /// The commits that any reference or HEAD names, tags peeled.
    pub(crate) tips: Vec<ObjectId>,
    /// Branches, local and remote, and tags, in the order of their full names.
    pub(crate) named: Vec<NamedReference>,
    /// References that lead nowhere, which git passes over too.
    pub(crate) broken: Vec<String>,
}

/// A branch or a tag, peeled.
#[derive(Debug, PartialEq)]
pub(crate) struct NamedReference {
    /// As git has it: `refs/heads/main`.
    pub(crate) full_name: String,
    /// Without what says its kind: `main`, `origin/main`, `v1`.
    pub(crate) name: String,
    pub(crate) kind: ReferenceKind,
    /// What it names at last.
    pub(crate) target: ObjectId,
    pub(crate) target_kind: Kind,
}

/// What a named reference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReferenceKind {
    Branch,
    Tag,
}

impl ReferenceKind {
    /// As claims have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ReferenceKind::Branch => "branch",
            ReferenceKind::Tag => "tag",
        }
    }
}

impl Repository {
    /// Opens the repository at `path`, or the one that `path` lies in.
    pub(crate) fn open(path: &Path) -> Result<Repository, GitError> {
        check_folder(path)?;
        let mut git = discover(path)?;
        check_format(path, &git)?;
        // Replacements are followed here, where claims have to know of them.
        git.objects.ignore_replacements = true;
        git.objects.set_pack_cache(|| Box::new(PackBases::new(PACK_BASES_BYTES_MAX)));
        let shallow = shallow_commits(path, &git)?;
        let mut repository =
            Repository { git, given: path.to_owned(), replaced: HashMap::new(), shallow };
        repository.replaced = repository.replacements()?;
        Ok(repository)
    }

    /// The folder that people know it by: its work tree, or itself when it is bare.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = self.git.workdir().unwrap_or_else(|| self.git.git_dir());
        std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
    }

    /// Whether it lacks the parents of some commits by design.
    pub(crate) fn is_shallow(&self) -> bool {
        !self.shallow.is_empty()
    }

    /// Whether it was cloned with a filter, so that trees may be missing by design.
    pub(crate) fn is_partial(&self) -> bool {
        let config = self.git.config_snapshot();
        let mut remotes = config.plumbing().sections_by_name("remote").into_iter().flatten();
        config.string("extensions.partialClone").is_some()
            || remotes.any(|remote| remote.value("promisor").is_some())
    }

    /// Whether it has the deprecated file of grafts, which is not read.
    pub(crate) fn has_grafts(&self) -> bool {
        self.git.common_dir().join("info").join("grafts").exists()
    }

    /// What stands in the place of a commit: itself, but for `git replace`.
    pub(crate) fn stand_in(&self, id: ObjectId) -> ObjectId {
        let mut stands = id;
        for _ in 0..FOLLOWED_MAX {
            let Some(&next) = self.replaced.get(&stands) else { break };
            stands = next;
        }
        stands
    }

    /// A commit, or what stands in its place; None when it is not here. Its parents are those that
    /// it says, whether or not they are here.
    pub(crate) fn commit<'a>(
        &self,
        id: ObjectId,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Commit<'a>>, GitError> {
        let id = self.stand_in(id);
        match self.object(id, buffer)? {
            None => Ok(None),
            Some((Kind::Commit, bytes)) => {
                Commit::parse(bytes).map(Some).map_err(|source| GitError::Malformed { id, source })
            }
            Some((found, _)) => {
                let user = "the history".to_owned();
                Err(GitError::Kind { id, found, expected: Kind::Commit, user })
            }
        }
    }

    /// The parents that a walk goes on to: none at the boundary of a shallow clone.
    pub(crate) fn walked_parents<'a>(
        &self,
        id: ObjectId,
        commit: &'a Commit<'_>,
    ) -> &'a [ObjectId] {
        if self.shallow.contains(&id) { &[] } else { &commit.parents }
    }

    /// The bytes of a tree; None when it is not here.
    pub(crate) fn tree<'a>(
        &self,
        id: ObjectId,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, GitError> {
        match self.object(id, buffer)? {
            None => Ok(id.is_empty_tree().then_some(&[])),
            Some((Kind::Tree, bytes)) => Ok(Some(bytes)),
            Some((found, _)) => {
                let user = "a commit".to_owned();
                Err(GitError::Kind { id, found, expected: Kind::Tree, user })
            }
        }
    }

    fn object<'a>(
        &self,
        id: ObjectId,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<(Kind, &'a [u8])>, GitError> {
        let found = self.git.objects.try_find(&id, buffer);
        let found = found.map_err(|source| GitError::Object { id, source })?;
        Ok(found.map(|object| (object.kind, object.data)))
    }

    /// The object that a tag names at last, and its kind; None when something on the way is not here.
    /// Only tags are read whole: a tag may name a blob of any size.
    fn peel(&self, mut id: ObjectId) -> Result<Option<(ObjectId, Kind)>, GitError> {
        let mut buffer = Vec::new();
        loop {
            let header = self.git.objects.try_header(&id);
            let Some(header) = header.map_err(|source| GitError::Object { id, source })? else {
                return Ok(None);
            };
            if header.kind != Kind::Tag {
                return Ok(Some((id, header.kind)));
            }
            // A tag names what was there before it, so that this ends.
            let Some((_, bytes)) = self.object(id, &mut buffer)? else { return Ok(None) };
            let Some(target) = tag_target(bytes) else { return Ok(None) };
            id = target;
        }
    }

    /// Every reference and the HEAD of every worktree, as `git rev-list --all HEAD` has them.
    pub(crate) fn references(&self) -> Result<References, GitError> {
        let mut found = References::default();
        for reference in self.listed("refs/")? {
            match reference {
                Ok(reference) => self.add(&self.git.refs, &reference, &mut found)?,
                Err(text) => found.broken.push(text),
            }
        }
        for (refs, head) in self.heads()? {
            self.add(&refs, &head, &mut found)?;
        }
        found.named.sort_by(|a, b| a.full_name.cmp(&b.full_name));
        Ok(found)
    }

    /// The references whose names begin with `prefix`; a text for what is there and is none.
    fn listed(&self, prefix: &str) -> Result<Vec<Result<gix::refs::Reference, String>>, GitError> {
        let failed = |source| self.files("the references", source);
        let platform = self.git.references().map_err(failed)?;
        let all = platform.all().map_err(failed)?;
        let list = all.filter_map(|item| match item {
            Ok(reference) if reference.name().as_bstr().starts_with(prefix.as_bytes()) => {
                Some(Ok(reference.detach()))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error.to_string())),
        });
        Ok(list.collect())
    }

    /// The HEAD of each worktree with the store in which it is to be looked up. HEADs that name a
    /// branch on which nothing was committed are passed over in [`Repository::add`].
    fn heads(&self) -> Result<Vec<(gix::RefStore, gix::refs::Reference)>, GitError> {
        let failed = |source| self.files("the worktrees", source);
        let mut heads = Vec::new();
        for worktree in self.git.worktrees_including_main().map_err(failed)? {
            // A worktree whose folder was half removed is none, as for git.
            let Ok(worktree) = worktree else { continue };
            if let Ok(Some(head)) = worktree.refs.try_find("HEAD") {
                heads.push((worktree.refs.clone(), head));
            }
        }
        Ok(heads)
    }

    fn add(
        &self,
        refs: &gix::RefStore,
        reference: &gix::refs::Reference,
        found: &mut References,
    ) -> Result<(), GitError> {
        let full_name = reference.name.as_bstr().to_string();
        let is_head = full_name == "HEAD";
        let peeled = match follow(refs, reference) {
            Some(id) => self.peel(id)?,
            None => None,
        };
        let Some((target, target_kind)) = peeled else {
            if !is_head {
                found.broken.push(full_name);
            }
            return Ok(());
        };
        if target_kind == Kind::Commit {
            found.tips.push(target);
        }
        if let Some((kind, name)) = split_name(&full_name) {
            let name = name.to_owned();
            found.named.push(NamedReference { full_name, name, kind, target, target_kind });
        }
        Ok(())
    }

    /// What `git replace` made, from the names of its references.
    fn replacements(&self) -> Result<HashMap<ObjectId, ObjectId>, GitError> {
        const PREFIX: &str = "refs/replace/";
        if self.git.config_snapshot().boolean("core.useReplaceRefs") == Some(false) {
            return Ok(HashMap::new());
        }
        let list = self.listed(PREFIX)?.into_iter().flatten().filter_map(|reference| {
            let name = reference.name.as_bstr();
            let replaced = ObjectId::from_hex(&name[PREFIX.len()..]).ok()?;
            let stands = reference.target.try_id()?.to_owned();
            (replaced != stands).then_some((replaced, stands))
        });
        Ok(list.collect())
    }

    /// The commit that a text names: a reference, or the first digits of a hash. An error says what
    /// the text is not.
    pub(crate) fn named_commit(&self, text: &str) -> Result<ObjectId, GitError> {
        let wrong = |why| GitError::Since { given: text.to_owned(), why };
        if let Ok(Some(reference)) = self.git.refs.try_find(text)
            && let Some(id) = follow(&self.git.refs, &reference)
        {
            return match self.peel(id)? {
                Some((commit, Kind::Commit)) => Ok(commit),
                _ => Err(wrong("is a reference that names no commit")),
            };
        }
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !(7..=40).contains(&text.len()) {
            return Err(wrong("is neither a time nor a commit of this repository"));
        }
        let mut commits = self.commits_with_prefix(text)?;
        match (commits.pop(), commits.is_empty()) {
            (Some(commit), true) => Ok(commit),
            (Some(_), false) => Err(wrong("begins the hash of more than one commit")),
            (None, _) => Err(wrong("begins the hash of no commit of this repository")),
        }
    }

    fn commits_with_prefix(&self, hex: &str) -> Result<Vec<ObjectId>, GitError> {
        let failed = |source| self.files("the objects", source);
        let prefix = gix::hash::Prefix::from_hex(&hex.to_ascii_lowercase()).map_err(failed)?;
        let mut candidates = HashSet::new();
        self.git.objects.lookup_prefix(prefix, Some(&mut candidates)).map_err(failed)?;
        let mut commits = Vec::new();
        for candidate in candidates {
            if let Some((commit, Kind::Commit)) = self.peel(candidate)? {
                commits.push(commit);
            }
        }
        commits.sort_unstable();
        commits.dedup();
        Ok(commits)
    }

    fn files(&self, what: &'static str, source: gix::Error) -> GitError {
        GitError::Files { what, path: self.given.clone(), source }
    }
}

/// Says what is wrong with a path before the library says that it found no repository.
fn check_folder(path: &Path) -> Result<(), GitError> {
    let given = path.to_owned();
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(GitError::IsFile(given)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(GitError::NotThere { path: given, hint: relative_hint(path) })
        }
        // What lies "in" a file.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(GitError::NotThere { path: given, hint: relative_hint(path) })
        }
        Err(source) => Err(GitError::Unreadable { path: given, source }),
    }
}

fn relative_hint(path: &Path) -> String {
    match std::env::current_dir() {
        Ok(folder) if path.is_relative() => {
            format!("; relative paths begin at {}, where the plugin runs", folder.display())
        }
        _ => String::new(),
    }
}

fn discover(path: &Path) -> Result<gix::Repository, GitError> {
    // Trust decides whose configuration may name programs to run. None is ever run here, and a
    // repository that is not trusted would lose the settings that say how its objects are kept.
    let options = gix::discover::upwards::Options {
        trust: gix::discover::upwards::TrustPolicy::Assume(gix::sec::Trust::Full),
        ..Default::default()
    };
    let isolated = || gix::open::Options::isolated();
    let mapping = gix::sec::trust::Mapping { full: isolated(), reduced: isolated() };
    match gix::ThreadSafeRepository::discover_opts(path, options, mapping) {
        Ok(repository) => Ok(repository.to_thread_local()),
        Err(error) if error.is_not_found() => Err(GitError::NotARepository(path.to_owned())),
        Err(source) => Err(refused(path, source)),
    }
}

/// Why the library refuses a repository that it found.
fn refused(path: &Path, source: gix::Error) -> GitError {
    let path = path.to_owned();
    if source.iter_errors().any(|error| error.to_string().contains("extensions.objectFormat")) {
        let what = "objects by other hashes than SHA-1".to_owned();
        let remedy = "give a repository made with `--object-format=sha1`, which is git's default";
        return GitError::Format { path, what, remedy };
    }
    GitError::Open { path, source }
}

/// Refuses formats that would else look like an empty repository.
fn check_format(path: &Path, git: &gix::Repository) -> Result<(), GitError> {
    match git.config_snapshot().string("extensions.refStorage") {
        Some(format) if format.as_slice() != b"files" => Err(GitError::Format {
            path: path.to_owned(),
            what: format!("references as {format}"),
            remedy: "`git refs migrate --ref-format=files` in a copy makes of it what is",
        }),
        _ => Ok(()),
    }
}

fn shallow_commits(path: &Path, git: &gix::Repository) -> Result<HashSet<ObjectId>, GitError> {
    let commits = git.shallow_commits().map_err(|source| GitError::Files {
        what: "the boundary of the shallow clone",
        path: path.to_owned(),
        source,
    })?;
    Ok(commits.map_or_else(HashSet::new, |commits| commits.iter().copied().collect()))
}

/// The object that a reference names, through symbolic ones; None where that leads nowhere.
fn follow(refs: &gix::RefStore, reference: &gix::refs::Reference) -> Option<ObjectId> {
    let mut target = reference.target.clone();
    for _ in 0..=FOLLOWED_MAX {
        match target {
            Target::Object(id) => return Some(id),
            Target::Symbolic(name) => {
                target = refs.try_find(name.as_ref()).ok().flatten()?.target;
            }
        }
    }
    None
}

fn split_name(full: &str) -> Option<(ReferenceKind, &str)> {
    let branch = full.strip_prefix("refs/heads/").or_else(|| full.strip_prefix("refs/remotes/"));
    branch
        .map(|name| (ReferenceKind::Branch, name))
        .or_else(|| full.strip_prefix("refs/tags/").map(|name| (ReferenceKind::Tag, name)))
}
