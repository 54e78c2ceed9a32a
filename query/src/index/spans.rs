//! Watchers by spans of numbers: those whose span holds a number are found without a look at the others.
//!
//! The numbers are laid out in cells, longer than a span and at most twice as long. A span that crosses from
//! its cell into the next holds each number of the one that is not before its start, and each of the other that is
//! not after its end. A span inside of one cell holds its middle, so that on the left of that only the start
//! counts, and on the right only the end. Each of these ends is kept in order. A number looks at one cell of
//! each length in use.

use super::list::{Entry, List};

/// From a number to another, both within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    pub(super) fn holds(self, number: u64) -> bool {
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

/// The binary logarithm of a cell's length, and the number and watcher: those of one cell are neighbours.
type End = (u32, u64, u32);

impl Entry for End {
    type Key = End;

    fn key(&self) -> End {
        *self
    }
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    crossing: Ends,
    inside: Ends,
}

#[derive(Debug)]
struct Ends {
    starts: List<End>,
    ends: List<End>,
    /// A bit for each length of cells in use.
    in_use: u128,
    /// How many spans there are, by the logarithm of their cell's length.
    sizes: [u32; u64::BITS as usize + 1],
}

impl Default for Ends {
    fn default() -> Ends {
        let [starts, ends] = [List::Few(Vec::new()), List::Few(Vec::new())];
        Ends { starts, ends, in_use: 0, sizes: [0; u64::BITS as usize + 1] }
    }
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
            Spans::Many(tree) => tree.len(),
        }
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Spans::Few(spans) => spans.capacity() * size_of::<(Span, u32)>(),
            Spans::Many(tree) => {
                size_of::<Tree>() + tree.crossing.memory_bytes() + tree.inside.memory_bytes()
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
                let mut tree = Box::<Tree>::default();
                spans.drain(..).for_each(|(span, id)| tree.insert(id, span));
                tree.insert(id, span);
                *self = Spans::Many(tree);
            }
            Spans::Many(tree) => tree.insert(id, span),
        }
    }

    pub(super) fn remove(&mut self, id: u32, span: Span) {
        if span.start > span.end {
            return;
        }
        match self {
            Spans::Few(spans) => {
                if let Some(place) = spans.iter().position(|one| *one == (span, id)) {
                    spans.swap_remove(place);
                }
            }
            Spans::Many(tree) => {
                tree.remove(id, span);
                if tree.len() == 0 {
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
    fn len(&self) -> usize {
        self.crossing.starts.len() + self.inside.starts.len()
    }

    fn ends_of(&mut self, span: Span) -> &mut Ends {
        let size = size(span);
        let first_and_last = [span.start, span.end].map(|end| end & !below(size));
        let is_inside = first_and_last[0] == first_and_last[1];
        if is_inside { &mut self.inside } else { &mut self.crossing }
    }

    fn insert(&mut self, id: u32, span: Span) {
        let size = size(span);
        let ends = self.ends_of(span);
        ends.starts.add((size, span.start, id));
        ends.ends.add((size, span.end, id));
        ends.sizes[size as usize] += 1;
        ends.in_use |= 1 << size;
    }

    fn remove(&mut self, id: u32, span: Span) {
        let size = size(span);
        let ends = self.ends_of(span);
        let before = ends.starts.len();
        ends.starts.remove((size, span.start, id));
        if ends.starts.len() < before {
            ends.ends.remove((size, span.end, id));
            ends.sizes[size as usize] -= 1;
            if ends.sizes[size as usize] == 0 {
                ends.in_use &= !(1 << size);
            }
        }
    }

    fn holding(&self, number: u64, into: &mut Vec<u32>) -> u64 {
        let mut looks = 0;
        for size in self.crossing.sizes() {
            looks += 2;
            self.crossing.started(size, number, into);
            self.crossing.not_ended(size, number, into);
        }
        for size in self.inside.sizes() {
            looks += 1;
            let middle = below(size) / 2;
            if number & below(size) <= middle {
                self.inside.started(size, number, into);
            } else {
                self.inside.not_ended(size, number, into);
            }
        }
        looks
    }
}

impl Ends {
    fn memory_bytes(&self) -> usize {
        self.starts.memory_bytes() + self.ends.memory_bytes()
    }

    fn sizes(&self) -> impl Iterator<Item = u32> {
        let mut left = self.in_use;
        std::iter::from_fn(move || {
            let size = (left != 0).then(|| left.trailing_zeros());
            left &= left.wrapping_sub(1);
            size
        })
    }

    /// Collects those that start in the cell of this number, and not after it.
    fn started(&self, size: u32, number: u64, into: &mut Vec<u32>) {
        let first = (size, number & !below(size), 0);
        collect(&self.starts, first, (size, number, u32::MAX), into);
    }

    /// Collects those that end in the cell of this number, and not before it.
    fn not_ended(&self, size: u32, number: u64, into: &mut Vec<u32>) {
        let last = (size, number | below(size), u32::MAX);
        collect(&self.ends, (size, number, 0), last, into);
    }
}

fn collect(ends: &List<End>, first: End, last: End, into: &mut Vec<u32>) {
    let pieces = ends.between(first, last);
    pieces.for_each(|piece| into.extend(piece.iter().map(|(_, _, id)| *id)));
}

/// The smallest length of cells that is more than the span's, as its binary logarithm.
fn size(span: Span) -> u32 {
    u64::BITS - (span.end - span.start).leading_zeros()
}

/// The bits of a number below those that say in which cell of a size it lies.
fn below(size: u32) -> u64 {
    u64::MAX.checked_shr(u64::BITS - size).unwrap_or(0)
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
            // Some are short, so that they cross cells of all lengths.
            let spans = ends.into_iter().map(|(start, end)| match start % 3 {
                0 => Span { start, end },
                1 => Span { start, end: start.saturating_add(end % 9) },
                _ => Span { start, end: start.saturating_add(end % 1_000) },
            });
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
