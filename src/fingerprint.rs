//! What errors that mean the same have in common.
//!
//! In: what a failed attempt said. Out: the same text with all that differs from one failure to the next
//! masked, so that jobs which failed for one reason can be found, counted and tried again together.
//! Pure: equal texts have equal fingerprints, in this version of axwatch. Nothing is stored.

/// Characters that a fingerprint has at most; what comes after them is cut off, and `…` says so.
const CHARS_MAX: usize = 160;
/// Bytes of an error that are looked at.
const BYTES_MAX: usize = 4 * 1024;
/// Letters and digits of one run, from which on it may be an id.
const ID_CHARS_MIN: usize = 8;

/// The fingerprint of an error.
///
/// Shape: one line of at most 160 characters. Masked are, in this order: what stands in quotes
/// (`<text>`); URLs, host:port, IP and mail addresses (`<address>`); dates and times (`<time>`); absolute
/// paths (`<path>`); words with an id in them (`<id>`), which is `0x` and hex digits, or a run of at least 8
/// letters and digits with at least two digits and a letter; and every other number (`<n>`). Blanks and
/// control characters become one blank.
pub fn fingerprint(error: &str) -> String {
    let mut masked = Masked::default();
    let mut rest = axwatch_model::bounds::cut(error, BYTES_MAX);
    let mut follows_word = false;
    while let Some(first) = rest.chars().next() {
        if masked.is_full() {
            break;
        }
        let length = if is_blank(first) {
            masked.blank();
            first.len_utf8()
        } else if let Some(length) = quoted(rest).filter(|_| !follows_word) {
            masked.mask("<text>");
            length
        } else if ends_piece(first) {
            masked.plain(first);
            first.len_utf8()
        } else {
            let length = piece_length(rest);
            mask_piece(&rest[..length], &mut masked);
            length
        };
        follows_word = rest[..length].chars().next_back().is_some_and(char::is_alphanumeric);
        rest = &rest[length..];
    }
    masked.told()
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// The bytes of the piece that begins here. A URL goes on to a blank or a quote.
fn piece_length(text: &str) -> usize {
    let length = text.find(ends_piece).unwrap_or(text.len());
    if !text[..length].contains("://") {
        return length;
    }
    text.find(|c| is_blank(c) || "'\"`<>)".contains(c)).unwrap_or(text.len())
}

/// Whether a piece that is masked as a whole cannot go on over this.
fn ends_piece(c: char) -> bool {
    is_blank(c) || "'\"`()[]{}<>,;=|".contains(c)
}

/// The bytes of the quoted text that begins here, its quotes included.
fn quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| "'\"`".contains(*c))?;
    let inner = &text[1..];
    // A quote before a letter is an apostrophe: 'can't do it'.
    let closes = |(at, _): &(usize, &str)| {
        !inner[at + 1..].chars().next().is_some_and(char::is_alphanumeric)
    };
    let (at, _) = inner.match_indices(quote).find(closes)?;
    Some(at + 2)
}

/// Masks a piece without blanks and quotes.
fn mask_piece(piece: &str, masked: &mut Masked) {
    let core = piece.trim_end_matches(['.', ':', '!', '?', ',', ';']);
    match mask_of(core) {
        Some(mask) => masked.mask(mask),
        None => mask_words(core, masked),
    }
    piece[core.len()..].chars().for_each(|c| masked.plain(c));
}

/// The mask of a piece that is one thing.
fn mask_of(piece: &str) -> Option<&'static str> {
    if piece.contains("://") {
        Some("<address>")
    } else if is_time(piece) {
        Some("<time>")
    } else if is_address(piece) {
        Some("<address>")
    } else if piece.len() > 1 && piece.starts_with('/') {
        Some("<path>")
    } else {
        None
    }
}

/// `2024-01-15`, `2024/01/15T14:30:00Z`, `14:30:00.123`.
fn is_time(piece: &str) -> bool {
    let shape: String =
        piece.chars().take(10).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let is_date = shape == "0000-00-00" || shape == "0000/00/00";
    let ends_well = || piece[10..].chars().next().is_none_or(|c| !c.is_ascii_digit());
    (is_date && ends_well()) || shape.starts_with("00:00:00") || shape == "00:00"
}

/// `127.0.0.1:80`, `db.example.com:5432`, `localhost:80`, `fe80::1`, `ann@example.com`.
fn is_address(piece: &str) -> bool {
    let (host, port) = piece.rsplit_once(':').unwrap_or((piece, ""));
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-._".contains(c))
    };
    if is_port && is_name(host) && (host.contains('.') || host == "localhost") {
        return true;
    }
    if piece.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    piece.split_once('@').is_some_and(|(who, at)| is_name(who) && is_name(at) && at.contains('.'))
}

/// Masks the ids and numbers in a piece.
fn mask_words(mut piece: &str, masked: &mut Masked) {
    while let Some(first) = piece.chars().next() {
        let length = piece.find(|c| !is_of_word(c)).unwrap_or(piece.len());
        if length == 0 {
            masked.plain(first);
            piece = &piece[first.len_utf8()..];
            continue;
        }
        let (word, rest) = piece.split_at(length);
        match word.split(['-', '_']).any(is_id) {
            true => masked.mask("<id>"),
            false => mask_numbers(word, masked),
        }
        piece = rest;
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '-' || c == '_'
}

/// Whether a run of letters and digits looks like an id.
fn is_id(run: &str) -> bool {
    let is_hex =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if run.strip_prefix("0x").is_some_and(is_hex) {
        return true;
    }
    let digits = run.chars().filter(char::is_ascii_digit).count();
    let is_long = run.chars().count() >= ID_CHARS_MIN;
    is_long && digits >= 2 && run.chars().any(char::is_alphabetic)
}

fn mask_numbers(word: &str, masked: &mut Masked) {
    let mut was_digit = false;
    for c in word.chars() {
        let is_digit = c.is_ascii_digit();
        match (is_digit, was_digit) {
            (true, false) => masked.number(),
            (true, true) => {}
            (false, _) => masked.plain(c),
        }
        was_digit = is_digit;
    }
}

/// The text as far as it has been masked.
#[derive(Default)]
struct Masked {
    text: String,
    chars: usize,
}

impl Masked {
    fn plain(&mut self, c: char) {
        self.text.push(c);
        self.chars += 1;
    }

    fn mask(&mut self, mask: &str) {
        self.text.push_str(mask);
        self.chars += mask.len();
    }

    /// A number; one with a point in it is one number.
    fn number(&mut self) {
        if self.text.ends_with("<n>.") {
            self.text.pop();
            self.chars -= 1;
        } else {
            self.mask("<n>");
        }
    }

    fn blank(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.plain(' ');
        }
    }

    fn is_full(&self) -> bool {
        self.chars > CHARS_MAX
    }

    fn told(self) -> String {
        let is_cut = self.is_full();
        let text = self.text.trim_end();
        if !is_cut {
            return text.to_owned();
        }
        text.chars().take(CHARS_MAX - 1).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_failure_to_failure_is_masked() {
        // (what two failures said, what they have in common)
        let cases = [
            ("not yet (1)", "not yet (12)", "not yet (<n>)"),
            ("timed out after 30s", "timed out after 2.5s", "timed out after <n>s"),
            ("HTTP 503: busy", "HTTP 429: busy", "HTTP <n>: busy"),
            ("no file 'a b.txt'", "no file 'it's.txt'", "no file <text>"),
            ("no \"x\" in `y`", "no \"\" in `z 1`", "no <text> in <text>"),
            ("can't read 1 of 2", "can't read 3 of 4", "can't read <n> of <n>"),
            ("name=\"ann\", n=1", "name=\"bob\", n=22", "name=<text>, n=<n>"),
            (
                "cannot connect to 127.0.0.1:5432: refused",
                "cannot connect to db.example.com:5433: refused",
                "cannot connect to <address>: refused",
            ),
            ("no route to fe80::1.", "no route to 10.0.0.1.", "no route to <address>."),
            ("GET https://a/b?c=1: failed", "GET http://x: failed", "GET <address>: failed"),
            ("error (see https://a/b,c)", "error (see https://c)", "error (see <address>)"),
            ("mail to ann@example.com", "mail to bob@example.org", "mail to <address>"),
            (
                "since 2024-01-15T14:30:00Z it is full",
                "since 2024-02-01 it is full",
                "since <time> it is full",
            ),
            ("at 14:30:00.123 it ended", "at 09:05:59 it ended", "at <time> it ended"),
            ("cannot open /tmp/a.json", "cannot open /var/b", "cannot open <path>"),
            (
                "job 3ea27c14d1c994b3bc463569ba5fdcae is gone",
                "job 00112233445566778899aabbccddeeff is gone",
                "job <id> is gone",
            ),
            ("at 0x7ffd", "at 0xdead", "at <id>"),
            (
                "AS-ALICE-AUTHOR-GJJE7E959J8S is unknown",
                "AS-BOB-WRITER-7E959J8SGJJE is unknown",
                "<id> is unknown",
            ),
            (
                "lock 3f2504e0-4f89-41d3-9a0c-0305e82c3301 is held",
                "lock 00000000-4f89-41d3-9a0c-0305e82c33ff is held",
                "lock <id> is held",
            ),
            ("a\n  b\t1", "a b 2", "a b <n>"),
            ("us-east-1 is away", "us-east-2 is away", "us-east-<n> is away"),
        ];
        for (one, other, expected) in cases {
            assert_eq!(fingerprint(one), expected, "{one}");
            assert_eq!(fingerprint(other), expected, "{other}");
        }
    }

    #[test]
    fn what_says_what_went_wrong_stays() {
        let cases = [
            "",
            "connection refused",
            "git/ixgest.git does not know it",
            "permission denied (os error): it isn't ours",
            "don't, won't, can't",
            "facade and decade are words",
            "Straße → nowhere",
        ];
        for error in cases {
            assert_eq!(fingerprint(error), error);
        }
        assert_ne!(fingerprint("no disk"), fingerprint("no memory"));
    }

    #[test]
    fn it_is_bounded_and_stays_what_it_is() {
        let long = "wrong ".repeat(10_000);
        let masked = fingerprint(&long);
        assert_eq!(masked.chars().count(), CHARS_MAX);
        assert!(masked.ends_with('…'));
        for error in ["é".repeat(10_000), "'".repeat(10_000), "1".repeat(10_000)] {
            assert!(fingerprint(&error).chars().count() <= CHARS_MAX, "{}", &error[..8]);
        }
        assert_eq!(fingerprint(&"x".repeat(CHARS_MAX)), "x".repeat(CHARS_MAX));
    }
}
