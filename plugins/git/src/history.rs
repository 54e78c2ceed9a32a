//! The order in which a history is told: parents before children, oldest first.
//!
//! Comes in: a repository and the commits that its references name. Goes out: the commits to tell, in
//! order. What is kept for each commit is its hash, its tree's hash and a few small numbers, so that a
//! million commits take some hundred MiB and fifty thousand about five.
//!
//! The order depends on nothing but the commits themselves: among those whose parents have all been
//! told the one with the oldest committer's time is next, and the hash decides between equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use gix::ObjectId;
use gix::hashtable::HashMap;

use crate::error::GitError;
use crate::repository::Repository;

/// Commits read between two looks at whether anybody still waits.
const STOP_EVERY: usize = 1_024;
/// In place of a number of a commit: none.
const NONE: u32 = u32::MAX;

/// The commits of a repository, in order.
pub(crate) struct History {
    nodes: Vec<Node>,
    order: Vec<u32>,
}

/// What is kept of a commit while its history is told.
pub(crate) struct Node {
    pub(crate) id: ObjectId,
    pub(crate) tree: ObjectId,
    /// The number of its first parent, or [`NONE`].
    first_parent: u32,
    /// The committer's, since the Unix epoch; 0 where the commit does not say, as in git.
    seconds: i64,
}

/// Which commits are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// All.
    Beginning,
    /// Those committed at this time, in seconds since the Unix epoch, or later.
    Seconds(i64),
    /// Those that this one does not come after, nor is.
    Commit(ObjectId),
}

impl History {
    /// Walks everything that `tips` lead to. `stop` is asked now and then.
    pub(crate) fn walk(
        repository: &Repository,
        tips: &[ObjectId],
        since: Since,
        stop: &dyn Fn() -> bool,
    ) -> Result<History, GitError> {
        let mut walk =
            Walk { repository, numbers: HashMap::default(), nodes: Vec::new(), edges: Vec::new() };
        walk.go(tips, stop)?;
        let told_max = walk.nodes.len();
        let mut told = vec![true; told_max];
        match since {
            Since::Beginning => {}
            Since::Seconds(from) => {
                for (told, node) in told.iter_mut().zip(&walk.nodes) {
                    *told = node.seconds >= from;
                }
            }
            Since::Commit(commit) => {
                // It may be one that no reference leads to any more.
                walk.go(&[commit], stop)?;
                let known = walk.ancestors(commit);
                told = (0..walk.nodes.len()).map(|n| n < told_max && !known[n]).collect();
            }
        }
        let Walk { nodes, edges, .. } = walk;
        let mut order = in_order(&nodes, &edges);
        order.retain(|&number| told.get(number as usize).copied().unwrap_or(false));
        Ok(History { nodes, order })
    }

    /// How many commits are told.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether the walk met no commit at all, told or not.
    pub(crate) fn is_void(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The commits in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.order.iter().map(|&number| &self.nodes[number as usize])
    }

    /// The tree of a commit's first parent, if the walk met that parent.
    pub(crate) fn first_parent_tree(&self, node: &Node) -> Option<ObjectId> {
        self.nodes.get(node.first_parent as usize).map(|parent| parent.tree)
    }
}

/// A walk under way.
struct Walk<'a> {
    repository: &'a Repository,
    numbers: HashMap<ObjectId, u32>,
    nodes: Vec<Node>,
    /// (child, parent), in the order of the children.
    edges: Vec<(u32, u32)>,
}

impl Walk<'_> {
    /// Reads everything that `tips` lead to and that was not read before.
    fn go(&mut self, tips: &[ObjectId], stop: &dyn Fn() -> bool) -> Result<(), GitError> {
        let mut next = self.nodes.len();
        for &tip in tips {
            self.number(tip);
        }
        let mut buffer = Vec::new();
        while next < self.nodes.len() {
            if next.is_multiple_of(STOP_EVERY) && stop() {
                return Err(GitError::Stopped);
            }
            self.read(next, &mut buffer)?;
            next += 1;
        }
        Ok(())
    }

    fn number(&mut self, id: ObjectId) -> u32 {
        let next = u32::try_from(self.nodes.len()).expect("a history has under 4 billion commits");
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.nodes.push(Node { id, tree: id, first_parent: NONE, seconds: 0 });
        }
        number
    }

    fn read(&mut self, at: usize, buffer: &mut Vec<u8>) -> Result<(), GitError> {
        let id = self.nodes[at].id;
        let number = u32::try_from(at).expect("it was given a number");
        let Some(commit) = self.repository.commit(id, buffer)? else {
            return Err(GitError::Missing { id, child: self.child_of(number) });
        };
        self.nodes[at].tree = commit.tree;
        self.nodes[at].seconds = commit.committer.time.map_or(0, |time| time.seconds);
        for (place, &parent) in self.repository.walked_parents(id, &commit).iter().enumerate() {
            let parent = self.number(parent);
            self.edges.push((number, parent));
            if place == 0 {
                self.nodes[at].first_parent = parent;
            }
        }
        Ok(())
    }

    /// Who named a commit that is not here. Tips are known to be here.
    fn child_of(&self, parent: u32) -> ObjectId {
        let edge = self.edges.iter().find(|edge| edge.1 == parent);
        self.nodes[edge.map_or(parent, |edge| edge.0) as usize].id
    }

    /// Which commits `commit` is or comes after.
    fn ancestors(&self, commit: ObjectId) -> Vec<bool> {
        let starts = starts(self.nodes.len(), self.edges.iter().map(|edge| edge.0));
        let mut known = vec![false; self.nodes.len()];
        let mut waiting: Vec<u32> = self.numbers.get(&commit).copied().into_iter().collect();
        while let Some(number) = waiting.pop() {
            let number = number as usize;
            if std::mem::replace(&mut known[number], true) {
                continue;
            }
            // The edges stand in the order of their children already.
            let parents = &self.edges[starts[number] as usize..starts[number + 1] as usize];
            waiting.extend(parents.iter().map(|edge| edge.1));
        }
        known
    }
}

/// For edges sorted by a number below `len`: where those of each number begin, and the end.
fn starts(len: usize, sorted_by: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut starts = vec![0_u32; len + 1];
    for number in sorted_by {
        starts[number as usize + 1] += 1;
    }
    for number in 0..len {
        starts[number + 1] += starts[number];
    }
    starts
}

/// Every commit's number, parents before children.
fn in_order(nodes: &[Node], edges: &[(u32, u32)]) -> Vec<u32> {
    let starts = starts(nodes.len(), edges.iter().map(|edge| edge.1));
    let mut free_at = starts.clone();
    let mut children = vec![0_u32; edges.len()];
    let mut parents_left = vec![0_u32; nodes.len()];
    for &(child, parent) in edges {
        let place = &mut free_at[parent as usize];
        children[*place as usize] = child;
        *place += 1;
        parents_left[child as usize] += 1;
    }
    drop(free_at);
    let key = |number: u32| {
        let node = &nodes[number as usize];
        Reverse((node.seconds, node.id, number))
    };
    let roots = (0..).zip(&parents_left).filter(|(_, left)| **left == 0);
    let mut free: BinaryHeap<_> = roots.map(|(number, _)| key(number)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse((_, _, number))) = free.pop() {
        order.push(number);
        let of = starts[number as usize] as usize..starts[number as usize + 1] as usize;
        for &child in &children[of] {
            parents_left[child as usize] -= 1;
            if parents_left[child as usize] == 0 {
                free.push(key(child));
            }
        }
    }
    append_circles(nodes, &parents_left, &mut order);
    order
}

/// A hash cannot name what comes after it, but `git replace` can make a circle. Git tells such
/// commits too; here they come last, oldest first.
fn append_circles(nodes: &[Node], parents_left: &[u32], order: &mut Vec<u32>) {
    let left = (0..).zip(parents_left).filter(|(_, left)| **left > 0);
    let mut left: Vec<u32> = left.map(|(number, _)| number).collect();
    left.sort_by_key(|&number| (nodes[number as usize].seconds, nodes[number as usize].id));
    order.append(&mut left);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(seconds: i64, fill: u8) -> Node {
        let id = ObjectId::from_bytes_or_panic(&[fill; 20]);
        Node { id, tree: id, first_parent: NONE, seconds }
    }

    #[test]
    fn parents_come_first_then_the_oldest_then_the_smallest_hash() {
        /// Times by number, (child, parent), order.
        type Case = (&'static [i64], &'static [(u32, u32)], &'static [u32]);
        let cases: [Case; 6] = [
            (&[], &[], &[]),
            (&[3, 2, 1], &[], &[2, 1, 0]),
            (&[5, 5, 5], &[], &[0, 1, 2]),
            // A child whose clock was behind waits for its parent.
            (&[1, 9, 5], &[(0, 1)], &[2, 1, 0]),
            // A merge, one of whose parents stands there twice.
            (&[9, 1, 2, 3], &[(0, 1), (0, 1), (0, 2), (2, 3)], &[1, 3, 2, 0]),
            // A circle.
            (&[3, 2, 1], &[(0, 1), (1, 0)], &[2, 1, 0]),
        ];
        for (seconds, edges, expected) in cases {
            let nodes: Vec<_> = (0..).zip(seconds).map(|(fill, &at)| node(at, fill)).collect();
            assert_eq!(in_order(&nodes, edges), expected, "{seconds:?} {edges:?}");
        }
    }
}
