//! Texts to try: sentences of the grammar with a slip here and there, cases of the language's page and
//! sentences with bytes changed, heaps of pieces, and whatever comes.

use super::random::Random;

/// The largest text that is made: a little more than a query may have.
const BYTES_MAX: usize = 4_200;

/// Pieces that mean something, or nearly do.
const PIECES: [&str; 72] = [
    "is",
    "ARE",
    "of",
    "From",
    "by",
    "via",
    "since",
    "until",
    "on",
    "between",
    "over",
    "where",
    "so",
    "therefore",
    "and",
    "or",
    "not",
    "contains",
    "EXISTS",
    "now",
    "today",
    "yesterday",
    "tomorrow",
    "last",
    "this",
    "next",
    "monday",
    "Fri",
    "week",
    "month",
    "ago",
    "in",
    "3",
    "days",
    "5y",
    "90m",
    "1.5",
    "2024-06-15",
    "2024/02/29",
    "T14:30",
    "14:30:00.123Z",
    "+02:00",
    "attributes",
    "a.b",
    ".",
    "..",
    ".c",
    "true",
    "Null",
    "-1e3",
    "=",
    "!=",
    "<=",
    ">",
    "==",
    "!",
    ",",
    ";",
    "|",
    "*",
    "%",
    "#",
    "(",
    "''",
    "'",
    "\"",
    "\\",
    "'a b'",
    "\"it's\"",
    r"'it\'s'",
    "山田",
    "\u{a0}",
];

const WORDS: [&str; 26] = [
    "ALICE",
    "bob",
    "author",
    "GitHub",
    "HR",
    "on-call",
    "a#1",
    "user@host",
    "x.y",
    "/srv/log",
    "+1",
    "2024-01-15",
    "yesterday",
    "contains",
    "exists",
    "true",
    "5y",
    "é",
    "e\u{301}",
    "山田",
    "Straße",
    "İ",
    "ﬁ",
    "\u{a0}",
    "🦀",
    "\u{200d}",
];

const MISFITS: [&str; 22] = [
    "*", "^", "%x", "$", "|", "||", "''", "\"\"", "'x", "\"", "\\", "(", ")", "#x", "{", "\u{7}",
    "\u{b}", "!", "is", "not", "and", "OR",
];

const UNITS: [&str; 26] = [
    "second", "seconds", "sec", "secs", "s", "minute", "min", "m", "hour", "hrs", "h", "day",
    "days", "d", "week", "weeks", "w", "month", "months", "year", "years", "y", "mo", "dayz",
    "Yer", "",
];

/// Makes texts. Those of the cases are what some of them begin with.
#[derive(Debug)]
pub struct Generator {
    cases: Vec<String>,
}

impl Generator {
    pub fn new(cases: Vec<String>) -> Generator {
        Generator { cases }
    }

    /// The text that this chance makes.
    pub fn text(&self, random: &mut Random) -> String {
        let mut text = match random.below(40) {
            0..=15 => sentence(random),
            16..=22 => {
                let text = sentence(random);
                changed(random, text)
            }
            23..=31 => {
                let text = self.cases[random.below(self.cases.len())].clone();
                changed(random, text)
            }
            32..=36 => heap(random),
            37 => {
                let text = if random.one_in(2) { heap(random) } else { sentence(random) };
                repeated(random, text)
            }
            _ => chars(random),
        };
        text.truncate(text.floor_char_boundary(BYTES_MAX));
        text
    }
}

// ---- sentences ----

/// A text under way.
struct Sentence<'r> {
    random: &'r mut Random,
    text: String,
}

fn sentence(random: &mut Random) -> String {
    let (clauses, has_actions) = (random.below(5), random.one_in(4));
    let mut sentence = Sentence { random, text: String::new() };
    if !sentence.random.one_in(3) {
        sentence.list();
    }
    for _ in 0..clauses {
        sentence.clause();
    }
    if has_actions {
        sentence.actions();
    }
    sentence.text
}

impl Sentence<'_> {
    /// Adds a piece, with some blank before it.
    fn push(&mut self, piece: &str) {
        let blanks = [" ", " ", " ", " ", " ", " ", "  ", "\t", "\n", "\r\n ", "\u{c}"];
        self.text.push_str(self.random.pick(&blanks));
        self.text.push_str(piece);
    }

    fn keyword(&mut self, names: &[&str]) {
        let name = self.random.pick(names);
        let keyword = match self.random.below(6) {
            0 => name.to_uppercase(),
            1 => name[..1].to_uppercase() + &name[1..],
            _ => name.to_owned(),
        };
        self.push(&keyword);
    }

    fn clause(&mut self) {
        match self.random.below(12) {
            0..=2 => self.terms(&["is", "are"]),
            3 | 4 => self.terms(&["of", "from"]),
            5 | 6 => self.terms(&["by", "via"]),
            7 | 8 => {
                self.keyword(&["since", "until", "on"]);
                self.time();
            }
            9 => {
                self.keyword(&["between"]);
                self.time();
                self.keyword(&["and"]);
                self.time();
            }
            10 => self.conditions(),
            _ => {
                self.keyword(&["over"]);
                self.length_of_time();
            }
        }
    }

    fn terms(&mut self, keywords: &[&str]) {
        self.keyword(keywords);
        if self.random.one_in(4) {
            self.keyword(&["not"]);
        }
        self.list();
    }

    fn list(&mut self) {
        self.word();
        for _ in 0..self.random.below(3) {
            match self.random.below(8) {
                0 => self.text.push(self.random.pick(&[',', ';'])),
                1 => self.push(","),
                2 => self.keyword(&["and", "or"]),
                _ => {}
            }
            self.word();
        }
    }

    fn word(&mut self) {
        let word = match self.random.below(40) {
            0 => self.random.pick(&MISFITS).to_owned(),
            1..=8 => quoted(self.random),
            9..=14 => bare(self.random),
            _ => self.random.pick(&WORDS).to_owned(),
        };
        self.push(&word);
    }

    fn actions(&mut self) {
        for _ in 0..self.random.within(1..=2) {
            self.keyword(&["so", "therefore"]);
            for _ in 0..self.random.within(1..=3) {
                let others = ["{{x}}", "a,b", ";", "|", "*", "git.sync", "ä=1", "so-what", "#"];
                if self.random.one_in(2) {
                    let action = self.random.pick(&others);
                    self.push(action);
                } else {
                    self.word();
                }
            }
        }
    }

    fn time(&mut self) {
        let time = time(self.random);
        if self.random.one_in(6) {
            let blank = self.random.pick(&[" ", "  ", "\t"]);
            self.push(&format!("'{}'", time.replace(' ', blank)));
        } else {
            self.push(&time);
        }
    }

    fn length_of_time(&mut self) {
        let (number, unit) = (number(self.random), self.random.pick(&UNITS));
        let blank = self.random.pick(&["", " ", "  "]);
        let length = format!("{number}{blank}{unit}");
        if self.random.one_in(6) { self.push(&format!("\"{length}\"")) } else { self.push(&length) }
    }

    fn conditions(&mut self) {
        self.keyword(&["where"]);
        self.condition();
        for _ in 0..self.random.below(3) {
            self.keyword(&["and", "and", "and", "and", "and", "and", "or"]);
            self.condition();
        }
    }

    fn condition(&mut self) {
        let path = path(self.random);
        self.push(&path);
        let op = self.random.pick(&[
            "=", "=", "=", "!=", "<", "<=", ">", ">=", "contains", "exists", "exists", "==", "=>",
        ]);
        if self.random.one_in(3) && !op.starts_with(['c', 'e']) {
            self.text.push_str(op);
        } else {
            self.keyword(&[op]);
        }
        if op == "exists" {
            return;
        }
        let value = match self.random.below(12) {
            0..=3 => quoted(self.random),
            4..=8 => number(self.random),
            9 => bare(self.random),
            _ => self.random.pick(&["true", "FALSE", "null", "-0", "1e5", "-1.25E-3"]).to_owned(),
        };
        if self.random.one_in(3) { self.text.push_str(&value) } else { self.push(&value) }
    }
}

fn path(random: &mut Random) -> String {
    let mut path = String::new();
    for i in 0..random.within(1..=3) {
        if i > 0 {
            path.push('.');
        }
        match random.below(10) {
            0 | 1 => path.push_str(&quoted(random)),
            2 => path.push_str(&bare(random)),
            _ => path.push_str(random.pick(&["attributes", "lang", "stars", "a", "is", "0", "é"])),
        }
    }
    path
}

fn bare(random: &mut Random) -> String {
    let alphabet: Vec<char> = "abcXYZ019_-.:@/+#éß山\u{a0}".chars().collect();
    (0..random.within(1..=6)).map(|_| random.pick(&alphabet)).collect()
}

fn quoted(random: &mut Random) -> String {
    let mark = random.pick(&["'", "'", "'", "\""]);
    let inside = [
        "New York", "is", "SO", "not", "a", "b c", " ", r"\'", r#"\""#, r"\\", "*", "|", "=", ",",
        "\n", "\0", "山田", "e\u{301}", "#", "\"", "'", r"\n",
    ];
    let count = if random.one_in(30) { 0 } else { random.within(1..=3) };
    // The last three, which may end the quote or mean nothing in it, are rare.
    let sound = inside.len() - 3;
    let inside: Vec<&str> = (0..count)
        .map(|_| if random.one_in(20) { random.pick(&inside) } else { inside[random.below(sound)] })
        .collect();
    format!("{mark}{}{mark}", inside.concat())
}

fn number(random: &mut Random) -> String {
    match random.below(6) {
        0 => format!("{}.{}", random.below(100), random.below(1_000)),
        _ => whole(random),
    }
}

fn whole(random: &mut Random) -> String {
    match random.below(12) {
        0 => random.next().to_string(),
        1 => format!("{}000000", random.below(10_000)),
        2 => "0".to_owned(),
        _ => random.below(50).to_string(),
    }
}

fn time(random: &mut Random) -> String {
    let which = random.pick(&["last", "next", "this", "LAST"]);
    match random.below(14) {
        0..=2 => random.pick(&["now", "today", "yesterday", "tomorrow", "Yesterday"]).to_owned(),
        3 => format!("{which} {}", random.pick(&["week", "month", "year"])),
        4 => format!("{which} {}", random.pick(&["monday", "Tue", "sunday", "SAT", "mondy"])),
        5 | 6 => format!("{} {} ago", whole(random), random.pick(&UNITS)),
        7 => format!("in {} {}", whole(random), random.pick(&UNITS)),
        8 => format!("{}{}", whole(random), random.pick(&["m", "h", "d", "w", "y", "x"])),
        9 | 10 => date(random),
        11 | 12 => {
            let (date, between) = (date(random), random.pick(&["T", "T", "t", " "]));
            format!("{date}{between}{}", clock(random))
        }
        _ => bare(random),
    }
}

fn date(random: &mut Random) -> String {
    let year = match random.below(6) {
        0 => random.below(10_001),
        _ => random.within(2000..=2040),
    };
    // Hardly ever a month or a day that there is not.
    let (month, day) = match random.below(6) {
        0 => (random.below(14), random.below(33)),
        _ => (random.within(1..=12), random.within(1..=28)),
    };
    let mark = random.pick(&['-', '-', '-', '/']);
    format!("{year:04}{mark}{month:02}{mark}{day:02}")
}

fn clock(random: &mut Random) -> String {
    let beyond = usize::from(random.one_in(10));
    let (hour, minute) = (random.below(24 + beyond), random.below(60 + beyond));
    let second = random.below(60 + beyond);
    let second = match random.below(3) {
        0 => String::new(),
        1 => format!(":{second:02}"),
        _ => format!(":{second:02}.{}", random.below(1_000_000)),
    };
    let zone = random.pick(&["", "", "", "Z", "z", "+02:00", "-23:59", "+2"]);
    format!("{hour:02}:{minute:02}{second}{zone}")
}

// ---- other texts ----

/// Pieces side by side, with blanks between most of them.
fn heap(random: &mut Random) -> String {
    let mut text = String::new();
    for _ in 0..random.within(1..=16) {
        text.push_str(random.pick(&PIECES));
        text.push_str(random.pick(&[" ", " ", " ", "", "\n"]));
    }
    text
}

/// The text again and again, up to about what a query may have.
fn repeated(random: &mut Random, text: String) -> String {
    let mut text = text;
    text.truncate(text.floor_char_boundary(random.within(1..=60)));
    text.push(' ');
    // Mostly some hundred bytes, because long texts take long to try.
    let bytes = if random.one_in(4) { BYTES_MAX } else { BYTES_MAX / 8 };
    text.repeat(random.within(1..=bytes / text.len() + 1))
}

/// Characters of any kind.
fn chars(random: &mut Random) -> String {
    let any = |random: &mut Random| match random.below(4) {
        0 => char::from_u32(random.below(0x11_0000) as u32).unwrap_or('\u{fffd}'),
        1 => char::from(random.below(0x300) as u8),
        _ => char::from(random.within(0x20..=0x7e) as u8),
    };
    (0..random.within(0..=24)).map(|_| any(random)).collect()
}

/// A text with some of its bytes changed; what then is no text is replaced.
fn changed(random: &mut Random, text: String) -> String {
    let mut bytes = text.into_bytes();
    for _ in 0..random.within(1..=4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.within(1..=8)).min(bytes.len());
        match random.below(8) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.extend_from_within(at..end),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 if at < bytes.len() => bytes[at] = random.next() as u8,
            4 => bytes.truncate(at),
            5 => {
                let slice = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, slice);
            }
            _ => {
                let piece = format!(" {} ", random.pick(&PIECES));
                let piece = if random.one_in(2) { piece.trim() } else { &piece };
                bytes.splice(at..at, piece.bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
