//! The bounds of watchers that wait for a number on one side of another, in order: those that a value
//! reaches are neighbours, and the rest costs nothing.

use std::collections::BTreeSet;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::attributes::Asked;
use super::shape::KeyKind;

/// By the key that leads to them, whose last term says which side is asked for.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    bounds: HashMap<(KeyKind, u128), BTreeSet<(Ordered, u32)>, RandomState>,
}

/// A double that is no NaN, as a whole number that keeps its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ordered(i64);

impl Ordered {
    fn new(number: f64) -> Ordered {
        // Both zeros are one number.
        let bits = if number == 0.0 { 0 } else { number.to_bits() as i64 };
        Ordered(if bits < 0 { i64::MIN + 1 + !bits } else { bits })
    }
}

impl Ranges {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.bounds.is_empty()
    }

    /// How many keys lead to bounds.
    pub(super) fn len(&self) -> usize {
        self.bounds.len()
    }

    /// Bytes that are allocated, those of the bounds as if their nodes were two thirds full.
    pub(super) fn memory_bytes(&self) -> usize {
        let bounds: usize = self.bounds.values().map(BTreeSet::len).sum();
        self.bounds.allocation_size() + bounds * size_of::<(Ordered, u32)>() * 3 / 2
    }

    pub(super) fn add(&mut self, kind: KeyKind, tuple: u128, bound: f64, id: u32) {
        self.bounds.entry((kind, tuple)).or_default().insert((Ordered::new(bound), id));
    }

    pub(super) fn remove(&mut self, kind: KeyKind, tuple: u128, bound: f64, id: u32) {
        if let Some(bounds) = self.bounds.get_mut(&(kind, tuple)) {
            bounds.remove(&(Ordered::new(bound), id));
            if bounds.is_empty() {
                self.bounds.remove(&(kind, tuple));
            }
        }
    }

    /// Collects the watchers whose bound a value reaches or equals.
    pub(super) fn reached(
        &self,
        kind: KeyKind,
        tuple: u128,
        asked: Asked,
        value: f64,
        into: &mut Vec<u32>,
    ) {
        let Some(bounds) = self.bounds.get(&(kind, tuple)) else { return };
        let value = Ordered::new(value);
        let ids = match asked {
            Asked::Below => bounds.range((value, 0)..),
            _ => bounds.range(..=(value, u32::MAX)),
        };
        into.extend(ids.map(|(_, id)| *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_keep_their_order(one in any::<f64>(), other in any::<f64>()) {
            prop_assert_eq!(Some(Ordered::new(one).cmp(&Ordered::new(other))), one.partial_cmp(&other));
        }
    }

    #[test]
    fn a_value_reaches_the_bounds_on_its_side() {
        let kind = KeyKind::new(super::super::shape::Shape::NOTHING, false);
        let mut ranges = Ranges::default();
        let bounds = [(1, -7.5), (2, -0.0), (3, 0.0), (4, 3.0), (5, f64::MAX), (6, -1e300)];
        bounds.iter().for_each(|(id, bound)| ranges.add(kind, 9, *bound, *id));
        let reached = |asked, value| {
            let mut ids = Vec::new();
            ranges.reached(kind, 9, asked, value, &mut ids);
            ids.sort_unstable();
            ids
        };
        assert_eq!(reached(Asked::Above, 0.0), [1, 2, 3, 6]);
        assert_eq!(reached(Asked::Below, 0.0), [2, 3, 4, 5]);
        assert_eq!(reached(Asked::Above, -8.0), [6]);
        assert_eq!(reached(Asked::Below, 1e301), [5]);
        for (id, bound) in bounds {
            ranges.remove(kind, 9, bound, id);
        }
        assert!(ranges.is_empty());
    }
}
