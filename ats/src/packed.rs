//! Rising numbers in few bytes: the first is kept beside, then the distance to each next as LEB128.
//! Neighbours in a busy term lie close together, so most take one byte.

/// Packs all but the first of strictly rising numbers.
pub(crate) fn pack(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(numbers.len());
    for pair in numbers.windows(2) {
        debug_assert!(pair[0] < pair[1], "packed numbers rise");
        let mut distance = pair[1] - pair[0];
        while distance >= 0x80 {
            bytes.push(distance as u8 | 0x80);
            distance >>= 7;
        }
        bytes.push(distance as u8);
    }
    bytes
}

/// Puts the numbers that begin with `first` behind those in `numbers`.
///
/// # Errors
/// What is wrong with the bytes; `numbers` then holds those before the fault.
pub(crate) fn unpack(first: u64, bytes: &[u8], numbers: &mut Vec<u64>) -> Result<(), String> {
    numbers.push(first);
    let (mut last, mut distance, mut shift) = (first, 0_u64, 0_u32);
    for &byte in bytes {
        if shift > 56 {
            return Err("a distance has more than 63 bits".to_owned());
        }
        distance |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 != 0 {
            shift += 7;
            continue;
        }
        let next = last.checked_add(distance).filter(|next| *next > last);
        last = next.ok_or_else(|| format!("the number after {last} is not a later one"))?;
        numbers.push(last);
        (distance, shift) = (0, 0);
    }
    if shift == 0 { Ok(()) } else { Err("it ends within a number".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_take_one_byte_and_a_single_number_none() {
        assert_eq!(pack(&[7]), [0; 0]);
        assert_eq!(pack(&[7, 8, 135, 263]), [1, 127, 0x80, 1]);
    }

    #[test]
    fn damaged_bytes_are_told() {
        let cases: [(&[u8], &str); 4] = [
            (&[1, 0], "not a later one"),
            (&[1, 0x80], "ends within"),
            (&[0xff; 12], "more than 63 bits"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x7f, 1], "not a later one"),
        ];
        for (bytes, reason) in cases {
            let first = if reason.contains("later") { u64::MAX - 1 } else { 1 };
            let error = unpack(first, bytes, &mut Vec::new()).unwrap_err();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out(
            numbers in proptest::collection::btree_set(0..=i64::MAX as u64, 1..50),
        ) {
            let numbers: Vec<u64> = numbers.into_iter().collect();
            let mut found = Vec::new();
            unpack(numbers[0], &pack(&numbers), &mut found).unwrap();
            prop_assert_eq!(found, numbers);
        }
    }
}
