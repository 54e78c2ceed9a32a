//! The watchers that wait for a number on one side of another, or between two, by the spans in which it
//! has to be: those that a value reaches are found, and the rest costs nothing.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::shape::KeyKind;
use super::spans::{Span, Spans};

/// By the key that leads to them, whose last term says which sides are asked for.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    spans: HashMap<(KeyKind, u128), Spans, RandomState>,
}

/// A double that is no NaN as a whole number without a sign that keeps its order.
pub(super) fn ordered(number: f64) -> u64 {
    // Both zeros are one number.
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

impl Ranges {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many keys lead to spans.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        let spans: usize = self.spans.values().map(Spans::memory_bytes).sum();
        self.spans.allocation_size() + spans
    }

    pub(super) fn add(&mut self, kind: KeyKind, tuple: u128, span: Span, id: u32) {
        self.spans.entry((kind, tuple)).or_default().insert(id, span);
    }

    pub(super) fn remove(&mut self, kind: KeyKind, tuple: u128, span: Span, id: u32) {
        if let Some(spans) = self.spans.get_mut(&(kind, tuple)) {
            spans.remove(id, span);
            if spans.is_empty() {
                self.spans.remove(&(kind, tuple));
                if self.spans.len() < self.spans.capacity() / 8 {
                    self.spans.shrink_to(self.spans.len() * 2);
                }
            }
        }
    }

    /// Collects the watchers whose bounds a value lies between or equals. Answers how many looks that
    /// took.
    pub(super) fn reached(
        &self,
        kind: KeyKind,
        tuple: u128,
        value: u64,
        into: &mut Vec<u32>,
    ) -> u64 {
        self.spans.get(&(kind, tuple)).map_or(1, |spans| spans.holding(value, into))
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::Shape;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_keep_their_order(one in any::<f64>(), other in any::<f64>()) {
            prop_assert_eq!(Some(ordered(one).cmp(&ordered(other))), one.partial_cmp(&other));
        }
    }

    #[test]
    fn a_value_reaches_the_bounds_around_it() {
        let kind = KeyKind::new(Shape::NOTHING, false);
        let mut ranges = Ranges::default();
        let above = |bound| Span { start: ordered(bound), end: u64::MAX };
        let below = |bound| Span { start: 0, end: ordered(bound) };
        let spans = [
            (1, above(-7.5)),
            (2, above(-0.0)),
            (3, below(0.0)),
            (4, below(f64::MAX)),
            (5, Span { start: ordered(-1e300), end: ordered(0.5) }),
        ];
        spans.iter().for_each(|(id, span)| ranges.add(kind, 9, *span, *id));
        let reached = |value: f64| {
            let mut ids = Vec::new();
            ranges.reached(kind, 9, ordered(value), &mut ids);
            ids.sort_unstable();
            ids
        };
        assert_eq!(reached(0.0), [1, 2, 3, 4, 5]);
        assert_eq!(reached(1.0), [1, 2, 4]);
        assert_eq!(reached(-8.0), [3, 4, 5]);
        assert_eq!(reached(-1e301), [3, 4]);
        for (id, span) in spans {
            ranges.remove(kind, 9, span, id);
        }
        assert!(ranges.is_empty());
    }
}
