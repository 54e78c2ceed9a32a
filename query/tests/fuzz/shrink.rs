//! From a text that fails to the shortest one that still does.

/// Takes out as much as still fails, in pieces that get ever smaller.
pub fn shrink(text: &str, fails: impl Fn(&str) -> bool) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut size = chars.len();
    while size > 0 {
        let (mut at, mut has_shrunk) = (0, false);
        while at < chars.len() {
            let end = (at + size).min(chars.len());
            let fewer = [&chars[..at], &chars[end..]].concat();
            if fails(&String::from_iter(&fewer)) {
                (chars, has_shrunk) = (fewer, true);
            } else {
                at = end;
            }
        }
        if !has_shrunk {
            size /= 2;
        }
    }
    String::from_iter(chars)
}

#[test]
fn what_has_no_part_in_the_failure_goes() {
    let cases = [
        ("xaxbx", "ab"),
        ("some a and a whole sentence with b in it", "ab"),
        ("ab", "ab"),
        ("山a田b", "ab"),
    ];
    for (text, expected) in cases {
        let fails = |text: &str| text.find('a').is_some_and(|at| text[at..].contains('b'));
        assert_eq!(shrink(text, fails), expected, "{text}");
    }
}
