//! The name that somebody probably meant.

/// The nearest of `known` to `given`, when one is near enough to be worth naming.
pub(crate) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let tolerated = (given.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn names_what_is_near() {
        let cases = [
            // (given, nearest)
            ("pth", Some("path")),
            ("paht", Some("path")),
            ("fsycn", Some("fsync")),
            ("url", None),
            ("", None),
        ];
        for (given, expected) in cases {
            assert_eq!(nearest(given, ["path", "fsync"]), expected, "{given}");
        }
    }
}
