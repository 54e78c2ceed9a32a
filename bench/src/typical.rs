//! The queries by which parsing is measured, here and in `bench/criterion`.

/// Nanoseconds that a typical query of 45 bytes may take.
pub const LIMIT_NS: f64 = 260.0;

/// Queries of about 45 bytes, one of each kind: actions, `not`, three forms of a time, `where`, quotes.
pub const TYPICAL: [(&str, &str); 7] = [
    ("ax parse: terms and an action", "ALICE is author of GitHub by HR so notify it"),
    ("ax parse: terms and not", "ALICE BOB is author of GitHub is not draft ok"),
    ("ax parse: a named time", "ALICE is author of GitHub by HR since yesterday"),
    ("ax parse: a date", "ALICE is author_of of GitHub since 2024-01-01"),
    ("ax parse: an amount of time", "is deployed of prod by ci since 3 days ago"),
    ("ax parse: conditions", "is released where lang = 'rust' and stars > 5"),
    ("ax parse: quotes", "'John Doe' is 'senior developer' of 'ACME Corp'"),
];
