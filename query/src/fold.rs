//! When two terms of AX are the same word: full Unicode case folding after NFC.

use std::borrow::Cow;

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_normalizer::{ComposingNormalizer, ComposingNormalizerBorrowed};

const CASES: CaseMapperBorrowed<'static> = CaseMapper::new();
const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizer::new_nfc();

/// The form in which AX compares terms: two terms are the same word if these are the same bytes.
///
/// A text that is in this form already comes back as it is, without a copy. The form is for
/// comparing and for keys, never for showing, and is made once: folding what was folded is not
/// promised to change nothing.
#[must_use]
pub fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { fold_ascii(text) } else { fold_unicode(text) }
}

fn fold_ascii(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

fn fold_unicode(text: &str) -> Cow<'_, str> {
    match NFC.normalize(text) {
        Cow::Borrowed(composed) => CASES.fold_string(composed),
        Cow::Owned(composed) => Cow::Owned(CASES.fold_string(&composed).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_that_differ_only_in_case_or_composition_are_one() {
        let cases = [
            ("GitHub", "github", true),
            ("Straße", "STRASSE", true),
            ("ẞ", "ss", true),
            ("ÉMILE", "émile", true),
            ("e\u{301}mile", "Émile", true),
            ("ΟΔΟΣ", "οδος", true),
            ("οδος", "οδοσ", true),
            ("\u{212B}", "å", true),
            ("ﬁne", "FINE", true),
            ("I", "ı", false),
            ("İ", "i", false),
            ("e", "é", false),
            ("山田", "山本", false),
            ("2", "²", false),
        ];
        for (one, other, same) in cases {
            assert_eq!(fold(one) == fold(other), same, "{one} and {other}");
        }
    }

    #[test]
    fn what_is_folded_already_is_not_copied() {
        for text in
            ["", "is_author", "did:key:z6", "émile", "山田", "straße".trim_end_matches("ße")]
        {
            assert!(matches!(fold(text), Cow::Borrowed(_)), "{text}");
        }
    }

    proptest! {
        /// The fast way for ASCII is a shortcut, never another answer.
        #[test]
        fn ascii_folds_as_unicode_does(text in "[ -~]{0,20}") {
            prop_assert_eq!(fold_ascii(&text), fold_unicode(&text));
        }
    }
}
