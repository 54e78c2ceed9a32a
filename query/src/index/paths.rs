//! The paths that watchers ask about: a tree with a number for each path, beside which an attestation's
//! attributes are read ([`super::values`]).

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::attributes::Asked;
use super::interner::TermId;
use super::spans::Span;

/// The number of a path: stable while anybody asks about it or about a longer one, then given to another.
pub(super) type PathId = u32;

/// The path of the attributes themselves.
pub(super) const ROOT: PathId = 0;

#[derive(Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
    /// All but the root, by parent and key.
    by_key: HashTable<PathId>,
    free: Vec<PathId>,
    hasher: RandomState,
    key_bytes: usize,
}

/// A path.
#[derive(Debug, Default)]
struct Node {
    parent: PathId,
    /// What it has beyond its parent.
    key: Box<str>,
    /// How many paths are one key longer.
    children: u32,
    /// A bit for each length of these keys. It stays until all are gone: it saves look-ups and proves nothing.
    lengths: u64,
    /// How many ask about it.
    users: u32,
    /// How many are filed under it, by [`Asked`].
    filed: [u32; Asked::COUNT],
    /// The terms under which they are, but for those that name a value.
    terms: [TermId; Asked::COUNT],
    /// What holds all spans of those that wait for a number. It stays until all of a kind are gone: it saves look-ups
    /// and proves nothing.
    reach: [Reach; Asked::COUNT],
}

/// From the lowest start of spans to their highest end.
#[derive(Debug, Clone, Copy)]
struct Reach(Span);

impl Default for Reach {
    /// Of no span.
    fn default() -> Reach {
        Reach(Span { start: u64::MAX, end: 0 })
    }
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            nodes: vec![Node::default()],
            by_key: HashTable::new(),
            free: Vec::new(),
            hasher: RandomState::default(),
            key_bytes: 0,
        }
    }
}

impl Paths {
    /// Whether nobody asks about any path.
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.by_key.allocation_size()
            + self.free.capacity() * size_of::<PathId>()
            + self.key_bytes
    }

    /// The number of a path that somebody asks about, or about a longer one.
    pub(super) fn find(&self, keys: &[Box<str>]) -> Option<PathId> {
        keys.iter().try_fold(ROOT, |path, key| self.child(path, key))
    }

    /// The path that is one key longer.
    pub(super) fn child(&self, parent: PathId, key: &str) -> Option<PathId> {
        if self.nodes[parent as usize].lengths & length_bit(key) == 0 {
            return None;
        }
        self.look_up(parent, key)
    }

    /// How many paths are one key longer.
    pub(super) fn children(&self, path: PathId) -> u32 {
        self.nodes[path as usize].children
    }

    /// Whether anybody asks what stands there.
    pub(super) fn is_asked(&self, path: PathId) -> bool {
        self.nodes[path as usize].users > 0
    }

    /// How many are filed under it in this way.
    pub(super) fn filed(&self, path: PathId, asked: Asked) -> u32 {
        self.nodes[path as usize].filed[asked as usize]
    }

    /// The term under which they are, if there are some and it names no value.
    pub(super) fn term(&self, path: PathId, asked: Asked) -> TermId {
        self.nodes[path as usize].terms[asked as usize]
    }

    /// Counts one more that asks about a path. Each call wants one [`Paths::release`].
    pub(super) fn acquire(&mut self, keys: &[Box<str>]) -> PathId {
        let mut path = ROOT;
        for key in keys {
            path = self.look_up(path, key).unwrap_or_else(|| self.add(path, key));
        }
        self.nodes[path as usize].users += 1;
        path
    }

    /// Counts one less; with the last the path is forgotten, and shorter ones about which nobody asks.
    pub(super) fn release(&mut self, mut path: PathId) {
        self.nodes[path as usize].users -= 1;
        while path != ROOT && self.nodes[path as usize].users == 0 && self.children(path) == 0 {
            path = self.forget(path);
        }
    }

    /// Whether a number may lie in the span of one that is filed under it in this way.
    pub(super) fn may_reach(&self, path: PathId, asked: Asked, number: u64) -> bool {
        self.nodes[path as usize].reach[asked as usize].0.holds(number)
    }

    /// Counts one more that is filed under a path, by this term, and perhaps a span. Each call wants one
    /// [`Paths::unfile`].
    pub(super) fn file(&mut self, path: PathId, asked: Asked, term: TermId, span: Option<Span>) {
        let node = &mut self.nodes[path as usize];
        node.filed[asked as usize] += 1;
        node.terms[asked as usize] = term;
        if let Some(Span { start, end }) = span {
            let Reach(reach) = &mut node.reach[asked as usize];
            *reach = Span { start: reach.start.min(start), end: reach.end.max(end) };
        }
    }

    /// Counts one less.
    pub(super) fn unfile(&mut self, path: PathId, asked: Asked) {
        let node = &mut self.nodes[path as usize];
        node.filed[asked as usize] -= 1;
        if node.filed[asked as usize] == 0 {
            node.reach[asked as usize] = Reach::default();
        }
    }

    fn look_up(&self, parent: PathId, key: &str) -> Option<PathId> {
        let is_it = |&path: &PathId| {
            let node = &self.nodes[path as usize];
            node.parent == parent && *node.key == *key
        };
        self.by_key.find(self.hasher.hash_one((parent, key)), is_it).copied()
    }

    fn add(&mut self, parent: PathId, key: &str) -> PathId {
        self.key_bytes += key.len();
        let above = &mut self.nodes[parent as usize];
        above.children += 1;
        above.lengths |= length_bit(key);
        let node = Node { parent, key: key.into(), ..Node::default() };
        let path = match self.free.pop() {
            Some(path) => {
                self.nodes[path as usize] = node;
                path
            }
            None => {
                self.nodes.push(node);
                PathId::try_from(self.nodes.len() - 1).expect("fewer paths than 2^32")
            }
        };
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let hash_of = |&path: &PathId| {
            let node = &nodes[path as usize];
            hasher.hash_one((node.parent, &*node.key))
        };
        self.by_key.insert_unique(hasher.hash_one((parent, key)), path, hash_of);
        path
    }

    /// Takes a path out that nothing hangs on, and says what it hung on.
    fn forget(&mut self, path: PathId) -> PathId {
        let Node { parent, key, .. } = std::mem::take(&mut self.nodes[path as usize]);
        let hash = self.hasher.hash_one((parent, &*key));
        if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == path) {
            entry.remove();
        }
        self.key_bytes -= key.len();
        self.free.push(path);
        let above = &mut self.nodes[parent as usize];
        above.children -= 1;
        if above.children == 0 {
            above.lengths = 0;
        }
        parent
    }
}

fn length_bit(key: &str) -> u64 {
    1 << (key.len() % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(path: &str) -> Vec<Box<str>> {
        path.split('.').map(Box::from).collect()
    }

    #[test]
    fn paths_are_a_tree_that_comes_and_goes() {
        let mut paths = Paths::default();
        let texts = ["a", "a.b", "a.b.c", "b", "a.b", "x.y.z"];
        let numbers = texts.map(|path| paths.acquire(&keys(path)));
        for (path, number) in texts.iter().zip(numbers) {
            assert_eq!(paths.find(&keys(path)), Some(number), "{path}");
            assert!(paths.is_asked(number));
        }
        let x = paths.find(&keys("x")).unwrap();
        assert_eq!((paths.is_asked(x), paths.children(x), paths.children(ROOT)), (false, 1, 3));
        assert_eq!((paths.find(&keys("y")), paths.find(&keys("a.c"))), (None, None));
        paths.release(numbers[1]);
        assert_eq!(paths.find(&keys("a.b")), Some(numbers[4]));
        for number in [0, 2, 3, 4, 5].map(|i: usize| numbers[i]) {
            paths.release(number);
        }
        assert!(paths.is_empty());
        assert_eq!((paths.children(ROOT), paths.key_bytes, paths.free.len()), (0, 0, 7));
    }

    #[test]
    fn a_number_outside_of_all_spans_reaches_none() {
        let mut paths = Paths::default();
        let path = paths.acquire(&keys("a"));
        for _ in 0..2 {
            assert!(!paths.may_reach(path, Asked::Between, 5));
            let spans = [(2, 4), (7, 9)].map(|(start, end)| Span { start, end });
            spans.iter().for_each(|span| paths.file(path, Asked::Between, 3, Some(*span)));
            let reached: Vec<u64> =
                (0..12).filter(|number| paths.may_reach(path, Asked::Between, *number)).collect();
            assert_eq!(reached, (2..=9).collect::<Vec<u64>>());
            assert!(!paths.may_reach(path, Asked::Above, 5));
            paths.unfile(path, Asked::Between);
            assert!(paths.may_reach(path, Asked::Between, 2));
            paths.unfile(path, Asked::Between);
        }
    }
}
