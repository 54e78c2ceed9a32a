//! A bounded memory of what was used lately.
//!
//! Two generations instead of a list in order of use: what is asked for moves into the young one, and
//! when that holds half the bound the old one is forgotten whole. Nothing here survives the process.

use std::collections::HashMap;
use std::hash::Hash;

use gix::objs::Kind;
use gix::odb::pack::cache::DecodeEntry;

/// Values by key, of at most `bytes_max` in all; what was not asked for lately is forgotten.
pub(crate) struct Recent<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    young_bytes: usize,
    half_bytes: usize,
}

impl<K: Hash + Eq + Copy, V> Recent<K, V> {
    /// Empty, for values of at most `bytes_max` in all.
    pub(crate) fn new(bytes_max: usize) -> Recent<K, V> {
        Recent {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            half_bytes: bytes_max / 2,
        }
    }

    /// What was put under `key`, if it is still here.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        if let Some((value, bytes)) = self.old.remove(key) {
            self.put(*key, value, bytes);
        }
        self.young.get(key).map(|(value, _)| value)
    }

    /// Keeps `value`, which takes `bytes`. One over half the bound is not kept.
    pub(crate) fn put(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.half_bytes {
            return;
        }
        if self.young_bytes + bytes > self.half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        let replaced = self.young.insert(key, (value, bytes)).map_or(0, |(_, bytes)| bytes);
        self.young_bytes = self.young_bytes + bytes - replaced;
    }
}

/// What one decoded object costs beside its bytes: the key, the entry, the allocation.
const ENTRY_BYTES: usize = 96;

/// Objects that others in a pack are stored as differences from. Without it the oldest of a chain of
/// fifty is decoded fifty times, and oldest first is the order in which we read.
pub(crate) struct PackBases(Recent<(u32, u64), Base>);

struct Base {
    data: Box<[u8]>,
    kind: Kind,
    compressed_bytes: usize,
}

impl PackBases {
    /// Empty, for objects of at most `bytes_max` in all.
    pub(crate) fn new(bytes_max: usize) -> PackBases {
        PackBases(Recent::new(bytes_max))
    }
}

impl DecodeEntry for PackBases {
    fn put(&mut self, pack: u32, offset: u64, data: &[u8], kind: Kind, compressed_bytes: usize) {
        let base = Base { data: data.into(), kind, compressed_bytes };
        self.0.put((pack, offset), base, data.len() + ENTRY_BYTES);
    }

    fn get(&mut self, pack: u32, offset: u64, out: &mut Vec<u8>) -> Option<(Kind, usize)> {
        let base = self.0.get(&(pack, offset))?;
        out.clear();
        out.extend_from_slice(&base.data);
        Some((base.kind, base.compressed_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_bound_holds() {
        let mut recent = Recent::new(100);
        for key in 0..1_000_u32 {
            recent.put(key, key, 10);
            assert_eq!(recent.get(&0), Some(&0), "asked for each time, after {key}");
            assert!(recent.young.len() + recent.old.len() <= 11, "after {key}");
        }
        assert_eq!(recent.get(&999), Some(&999));
        assert_eq!(recent.get(&500), None);
        recent.put(5_000, 1, 51);
        assert_eq!(recent.get(&5_000), None, "over half the bound");
    }
}
