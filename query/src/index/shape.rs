//! Which axes a watcher asks about, and the keys that follow from it.

use crate::Dimension;

use super::interner::{TermId, Uses};

/// What a term stands on: one of the four dimensions, or the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Axis(u8);

impl Axis {
    /// A condition on a value among the attributes: the place of the value and what is asked of it are
    /// the term.
    pub(super) const ATTRIBUTE: Axis = Axis(4);
    /// How many there are.
    pub(super) const COUNT: usize = 5;
    /// All of them.
    pub(super) const ALL: [Axis; Axis::COUNT] = [Axis(0), Axis(1), Axis(2), Axis(3), Axis(4)];

    pub(super) fn of(dimension: Dimension) -> Axis {
        Axis(dimension.index() as u8)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn name(self) -> &'static str {
        Dimension::ALL.get(self.index()).map_or("attribute", |dimension| dimension.name())
    }

    const fn bit(self) -> u8 {
        1 << self.0
    }
}

/// A subset of the axes, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(u8);

impl Shape {
    pub(super) const NOTHING: Shape = Shape(0);
    /// How many there are.
    pub(super) const COUNT: usize = 1 << Axis::COUNT;

    pub(super) fn with(self, axis: Axis) -> Shape {
        Shape(self.0 | axis.bit())
    }

    pub(super) fn has(self, axis: Axis) -> bool {
        self.0 & axis.bit() != 0
    }

    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) fn axes(self) -> impl DoubleEndedIterator<Item = Axis> {
        Axis::ALL.into_iter().filter(move |&axis| self.has(axis))
    }

    /// How many of its axes come before this one.
    pub(super) fn rank(self, axis: Axis) -> usize {
        (self.0 & (axis.bit() - 1)).count_ones() as usize
    }
}

/// A kind of key: a shape, and whether an attestation that has its terms surely matches or has to be
/// verified. Its number is that of a table and of a bit in [`Uses`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyKind(u8);

impl KeyKind {
    pub(super) const COUNT: usize = 2 * Shape::COUNT;

    pub(super) fn new(shape: Shape, is_sure: bool) -> KeyKind {
        KeyKind(if is_sure { shape.0 } else { shape.0 | Shape::COUNT as u8 })
    }

    /// All, by number.
    pub(super) fn all() -> impl Iterator<Item = KeyKind> {
        (0..KeyKind::COUNT as u8).map(KeyKind)
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
        Shape(self.0 & (Shape::COUNT as u8 - 1))
    }

    pub(super) fn is_sure(self) -> bool {
        usize::from(self.0) < Shape::COUNT
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
pub(super) const PIVOT: Uses = 1 << Shape::COUNT;
/// The bit of a kind that stands in no table (subjects alone): a term beside which a watcher with too many tuples
/// asks about attributes.
pub(super) const OVER_ATTRIBUTES: Uses = 1 << 1;

/// The kinds whose shape lacks an axis, by axis.
pub(super) const LACKING: [Uses; Axis::COUNT] =
    [lacking(0), lacking(1), lacking(2), lacking(3), lacking(4)];

const fn lacking(axis: u32) -> Uses {
    let (mut kinds, mut kind) = (0, 0);
    while kind < KeyKind::COUNT {
        if kind & 1 << axis == 0 {
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
        let [predicate, actor] = [Dimension::Predicate, Dimension::Actor].map(Axis::of);
        let shape = Shape::NOTHING.with(predicate).with(actor).with(Axis::ATTRIBUTE);
        assert_eq!((shape.len(), shape.rank(actor), shape.rank(Axis::ATTRIBUTE)), (3, 1, 2));
        for is_sure in [true, false] {
            let kind = KeyKind::new(shape, is_sure);
            assert_eq!((kind.shape(), kind.is_sure()), (shape, is_sure));
            assert!(KeyKind::of_bits(kind.bit() | OVER).eq([KeyKind(0), kind]));
            for axis in Axis::ALL {
                let lacks = LACKING[axis.index()] & kind.bit() != 0;
                assert_eq!(lacks, !shape.has(axis), "{axis:?}");
            }
        }
    }
}
