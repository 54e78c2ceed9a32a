//! Watchers by spans of numbers: those whose span holds a number are found without a look at the others.
//!
//! Every span that is more than a point has one place at which halving the range of all numbers, again
//! and again, first cuts it in two: the first bit in which its ends differ. A number on the left of that cut is
//! within the span just if it is not before the start, one on the right just if it is not after the end. So
//! each cut keeps its spans in order of both, and a number visits one cut of each size in use.

use std::collections::BTreeSet;

/// From a number to another, both within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    fn holds(self, number: u64) -> bool {
        (self.start..=self.end).contains(&number)
    }
}

/// Spans up to which all are looked at.
const FEW: usize = 32;

/// Watchers by their spans. One whose end comes before its start is never found.
#[derive(Debug)]
pub(super) enum Spans {
    /// In no order.
    Few(Vec<(Span, u32)>),
    Many(Box<Tree>),
}

/// How many of the lowest bits of numbers are cut, and the number and watcher: those of one cut are
/// neighbours.
type End = (u32, u64, u32);

#[derive(Debug)]
pub(super) struct Tree {
    starts: BTreeSet<End>,
    ends: BTreeSet<End>,
    /// How many spans there are by how many bits are cut.
    sizes: [u32; u64::BITS as usize + 1],
}

impl Default for Spans {
    fn default() -> Spans {
        Spans::Few(Vec::new())
    }
}

impl Spans {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Spans::Few(spans) => spans.len(),
            Spans::Many(tree) => tree.starts.len(),
        }
    }

    /// Bytes that are allocated, as if the nodes of trees were two thirds full.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Spans::Few(spans) => spans.capacity() * size_of::<(Span, u32)>(),
            Spans::Many(tree) => {
                size_of::<Tree>() + tree.starts.len() * 2 * size_of::<End>() * 3 / 2
            }
        }
    }

    /// Files a watcher under a span under which it is not.
    pub(super) fn insert(&mut self, id: u32, span: Span) {
        if span.start > span.end {
            return;
        }
        match self {
            Spans::Few(spans) if spans.len() < FEW => spans.push((span, id)),
            Spans::Few(spans) => {
                let mut tree = Box::new(Tree::new());
                spans.drain(..).for_each(|(span, id)| tree.insert(id, span));
                tree.insert(id, span);
                *self = Spans::Many(tree);
            }
            Spans::Many(tree) => tree.insert(id, span),
        }
    }

    pub(super) fn remove(&mut self, id: u32, span: Span) {
        match self {
            Spans::Few(spans) => {
                if let Some(place) = spans.iter().position(|one| *one == (span, id)) {
                    spans.swap_remove(place);
                }
            }
            Spans::Many(tree) => {
                tree.remove(id, span);
                if tree.starts.is_empty() {
                    *self = Spans::default();
                }
            }
        }
    }

    /// Collects the watchers whose span holds the number, and answers how many looks that took beyond
    /// them.
    pub(super) fn holding(&self, number: u64, into: &mut Vec<u32>) -> u64 {
        match self {
            Spans::Few(spans) => {
                into.extend(spans.iter().filter(|(span, _)| span.holds(number)).map(|(_, id)| *id));
                1
            }
            Spans::Many(tree) => tree.holding(number, into),
        }
    }
}

impl Tree {
    fn new() -> Tree {
        Tree { starts: BTreeSet::new(), ends: BTreeSet::new(), sizes: [0; u64::BITS as usize + 1] }
    }

    fn insert(&mut self, id: u32, span: Span) {
        let size = size(span);
        self.starts.insert((size, span.start, id));
        self.ends.insert((size, span.end, id));
        self.sizes[size as usize] += 1;
    }

    fn remove(&mut self, id: u32, span: Span) {
        let size = size(span);
        if self.starts.remove(&(size, span.start, id)) {
            self.ends.remove(&(size, span.end, id));
            self.sizes[size as usize] -= 1;
        }
    }

    fn holding(&self, number: u64, into: &mut Vec<u32>) -> u64 {
        let mut looks = 0;
        for (size, _) in (0..).zip(self.sizes).filter(|(_, spans)| *spans > 0) {
            looks += 1;
            let below = u64::MAX.checked_shr(u64::BITS - size).unwrap_or(0);
            // A point has no left and no right: its end is its start.
            let is_left = size > 0 && number >> (size - 1) & 1 == 0;
            if is_left {
                let starts =
                    self.starts.range((size, number & !below, 0)..=(size, number, u32::MAX));
                into.extend(starts.map(|(_, _, id)| *id));
            } else {
                let ends = self.ends.range((size, number, 0)..=(size, number | below, u32::MAX));
                into.extend(ends.map(|(_, _, id)| *id));
            }
        }
        looks
    }
}

/// How many bits are cut of a span, so that its ends are the same above them.
fn size(span: Span) -> u32 {
    u64::BITS - (span.start ^ span.end).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_number() -> impl Strategy<Value = u64> {
        let middle = 1_u64 << 63;
        prop_oneof![0..40_u64, middle - 9..middle + 9, any::<u64>(), Just(u64::MAX)]
    }

    proptest! {
        /// Just those that hold are found, whether few or many, and they can be taken out again.
        #[test]
        fn a_number_finds_the_spans_that_hold_it(
            ends in prop::collection::vec((any_number(), any_number()), 0..3 * FEW),
            numbers in prop::collection::vec(any_number(), 1..9),
        ) {
            let spans = ends.into_iter().map(|(start, end)| Span { start, end });
            let mut left: Vec<(u32, Span)> = (0..).zip(spans).collect();
            let mut index = Spans::default();
            left.iter().for_each(|(id, span)| index.insert(*id, *span));
            while let Some((id, span)) = left.pop() {
                index.remove(id, span);
                index.remove(id, span);
                for &number in &numbers {
                    let mut found = Vec::new();
                    index.holding(number, &mut found);
                    found.sort_unstable();
                    let holding = left.iter().filter(|(_, span)| span.holds(number));
                    prop_assert_eq!(found, holding.map(|(id, _)| *id).collect::<Vec<u32>>());
                }
            }
            prop_assert!(index.is_empty());
        }
    }
}
