//! The time of day, as axwatch writes it.

use jiff::Timestamp;

/// RFC 3339 in UTC; milliseconds only when there are some.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    if at.subsec_millisecond() == 0 { format!("{at:.0}") } else { format!("{at:.3}") }
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn milliseconds_only_when_there_are_some() {
        let cases = [
            ("2026-08-21T10:11:12Z", "2026-08-21T10:11:12Z"),
            ("2026-08-21T10:11:12.000999Z", "2026-08-21T10:11:12Z"),
            ("2026-08-21T10:11:12.12Z", "2026-08-21T10:11:12.120Z"),
            ("2026-08-21T10:11:12.9999Z", "2026-08-21T10:11:12.999Z"),
        ];
        for (at, text) in cases {
            assert_eq!(rfc3339(at.parse().unwrap()), text, "{at}");
        }
    }
}
