//! How many columns of a terminal a text takes, well enough to put a mark under a word.
//!
//! The wide and the empty characters are given by block, not one by one: a rare character may move a
//! mark by a column, which costs less than a table of the whole of Unicode.

/// Columns that `text` takes.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(c: char) -> usize {
    match u32::from(c) {
        // Combining marks, joiners and variation selectors.
        0x0300..=0x036F | 0x1AB0..=0x1AFF | 0x1DC0..=0x1DFF | 0x200B..=0x200F => 0,
        0x20D0..=0x20FF | 0xFE00..=0xFE0F | 0xFE20..=0xFE2F | 0xE0100..=0xE01EF => 0,
        // Hangul, CJK, full-width forms and pictures.
        0x1100..=0x115F | 0x2E80..=0x303E | 0x3041..=0xA4CF | 0xAC00..=0xD7A3 => 2,
        0xF900..=0xFAFF | 0xFE30..=0xFE6F | 0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 => 2,
        0x1F300..=0x1F64F | 0x1F680..=0x1F6FF | 0x1F900..=0x1FAFF | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn marks_take_none_and_wide_letters_two() {
        let cases =
            [("", 0), ("abc", 3), ("Ärzt", 4), ("e\u{301}", 1), ("山田", 4), ("한", 2), ("🚀", 2)];
        for (text, expected) in cases {
            assert_eq!(columns(text), expected, "{text}");
        }
    }
}
