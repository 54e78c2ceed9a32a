//! Which dimensions a watcher asks about, and the keys that follow from it.

use crate::Dimension;

use super::interner::{TermId, Uses};

/// A subset of the four dimensions, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(pub(super) u8);

impl Shape {
    pub(super) const NOTHING: Shape = Shape(0);

    pub(super) fn with(self, dimension: Dimension) -> Shape {
        Shape(self.0 | 1 << dimension.index())
    }

    pub(super) fn has(self, dimension: Dimension) -> bool {
        self.0 & 1 << dimension.index() != 0
    }

    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) fn dimensions(self) -> impl Iterator<Item = Dimension> {
        Dimension::ALL.into_iter().filter(move |&dimension| self.has(dimension))
    }

    /// How many of its dimensions come before this one.
    pub(super) fn rank(self, dimension: Dimension) -> usize {
        (self.0 & ((1 << dimension.index()) - 1)).count_ones() as usize
    }
}

/// A kind of key: a shape, and whether an attestation that has its terms surely matches or has to be
/// verified. Its number is that of a table and of a bit in [`Uses`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyKind(u8);

impl KeyKind {
    pub(super) const COUNT: usize = 32;

    pub(super) fn new(shape: Shape, is_sure: bool) -> KeyKind {
        KeyKind(if is_sure { shape.0 } else { shape.0 | 16 })
    }

    /// The kinds whose bits are set, lowest first.
    pub(super) fn of_bits(mut bits: Uses) -> impl Iterator<Item = KeyKind> {
        std::iter::from_fn(move || {
            let lowest = bits.trailing_zeros();
            bits &= bits.wrapping_sub(1);
            (lowest < Uses::BITS).then_some(KeyKind(lowest as u8))
        })
    }

    pub(super) fn shape(self) -> Shape {
        Shape(self.0 & 15)
    }

    pub(super) fn is_sure(self) -> bool {
        self.0 < 16
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn bit(self) -> Uses {
        1 << self.0
    }
}

/// The bits of the kinds that no shape has: a term that leads to a watcher with too many tuples, and
/// one that leads to watchers when an attestation has too many tuples.
pub(super) const OVER: Uses = 1;
pub(super) const PIVOT: Uses = 1 << 16;

/// The kinds whose shape lacks a dimension, by dimension.
pub(super) const LACKING: [Uses; 4] = [lacking(0), lacking(1), lacking(2), lacking(3)];

const fn lacking(dimension: u32) -> Uses {
    let (mut kinds, mut kind) = (0, 0);
    while kind < 32 {
        if kind & 1 << dimension == 0 {
            kinds |= 1 << kind;
        }
        kind += 1;
    }
    kinds
}

/// Visits every way to take one term of each list, packed into one number in the lists' order.
pub(super) fn each_tuple<L: AsRef<[TermId]>>(lists: &[L], mut visit: impl FnMut(u128)) {
    walk(lists, 0, &mut visit);
}

fn walk<L: AsRef<[TermId]>>(lists: &[L], tuple: u128, visit: &mut impl FnMut(u128)) {
    match lists {
        [] => visit(tuple),
        [first, rest @ ..] => {
            for &term in first.as_ref() {
                walk(rest, tuple << 32 | u128::from(term), visit);
            }
        }
    }
}

/// How many tuples [`each_tuple`] visits.
pub(super) fn tuples<L: AsRef<[TermId]>>(lists: &[L]) -> usize {
    lists.iter().fold(1, |product, list| product.saturating_mul(list.as_ref().len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_takes_one_of_each_list() {
        let cases: [(&[&[TermId]], &[u128]); 4] = [
            (&[&[7, 8]], &[7, 8]),
            (&[&[1], &[2, 3]], &[1 << 32 | 2, 1 << 32 | 3]),
            (&[&[1], &[], &[3]], &[]),
            (&[], &[0]),
        ];
        for (lists, expected) in cases {
            let mut found = Vec::new();
            each_tuple(lists, |tuple| found.push(tuple));
            assert_eq!(found, expected, "{lists:?}");
            assert_eq!(tuples(lists), expected.len(), "{lists:?}");
        }
    }

    #[test]
    fn a_kind_is_a_shape_and_a_certainty() {
        let shape = Shape::NOTHING.with(Dimension::Predicate).with(Dimension::Actor);
        assert_eq!((shape.len(), shape.rank(Dimension::Actor)), (2, 1));
        for is_sure in [true, false] {
            let kind = KeyKind::new(shape, is_sure);
            assert_eq!((kind.shape(), kind.is_sure()), (shape, is_sure));
            assert!(KeyKind::of_bits(kind.bit() | OVER).eq([KeyKind(0), kind]));
            for dimension in Dimension::ALL {
                let lacks = LACKING[dimension.index()] & kind.bit() != 0;
                assert_eq!(lacks, !shape.has(dimension), "{dimension:?}");
            }
        }
    }
}
