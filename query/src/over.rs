//! `over 5y`: how long something has to have lasted, and the sum that is held against it.
//!
//! A claim says how long in `attributes.duration_years`, `duration_months` and `duration_days`. They
//! are summed for each subject over all claims that match, so [`Tally`] is for whoever answers a
//! question; [`crate::matches`] asks one claim at a time and knows nothing of it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axwatch_model::Attestation;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde::Serialize;

use crate::{Aliases, Dimension, Filter, fold};

/// A unit of a length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 24 hours.
    Days,
    /// 7 days.
    Weeks,
    /// 30 days, and a twelfth of a year.
    Months,
    /// 365 days, and twelve months.
    Years,
}

/// How long: `5y`, `6 months`, `1.5w`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Over {
    /// How many; finite and not negative.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
}

/// What a text lacks to be a length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Number,
    Unit,
}

/// Units as `over` takes them. `m` is months here, and nothing is shorter than a day.
pub(crate) const UNIT_NAMES: [(&str, Unit); 13] = [
    ("y", Unit::Years),
    ("year", Unit::Years),
    ("years", Unit::Years),
    ("mo", Unit::Months),
    ("m", Unit::Months),
    ("month", Unit::Months),
    ("months", Unit::Months),
    ("w", Unit::Weeks),
    ("week", Unit::Weeks),
    ("weeks", Unit::Weeks),
    ("d", Unit::Days),
    ("day", Unit::Days),
    ("days", Unit::Days),
];

impl Over {
    /// Reads `5y`, `5 years` or `0.5 mo`, in any case.
    pub(crate) fn read(text: &str) -> Result<Over, Lack> {
        let is_numeric = |c: char| c.is_ascii_digit() || c == '.';
        let digits = text.find(|c| !is_numeric(c)).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let is_number = number.starts_with(|c: char| c.is_ascii_digit())
            && number.ends_with(|c: char| c.is_ascii_digit());
        let value: f64 = number.parse().map_err(|_| Lack::Number)?;
        if !is_number || !value.is_finite() {
            return Err(Lack::Number);
        }
        let unit = unit.trim_ascii_start();
        let named = UNIT_NAMES.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name));
        let (_, unit) = named.ok_or(Lack::Unit)?;
        Ok(Over { value, unit: *unit })
    }
}

/// In its own words: `over 5 years`.
impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Days => "days",
            Unit::Weeks => "weeks",
            Unit::Months => "months",
            Unit::Years => "years",
        };
        write!(f, "over {} {unit}", self.value)
    }
}

/// What the claims of one subject say, added up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Lasted {
    days: f64,
    months: f64,
    years: f64,
}

impl Lasted {
    fn of(attestation: &Attestation) -> Option<Lasted> {
        let attributes = attestation.attributes.as_ref()?.to_value();
        let amount = |key: &str| attributes.get(key).and_then(serde_json::Value::as_f64);
        let [days, months, years] =
            ["duration_days", "duration_months", "duration_years"].map(amount);
        days.or(months).or(years)?;
        let [days, months, years] = [days, months, years].map(Option::unwrap_or_default);
        Some(Lasted { days, months, years })
    }

    fn add(&mut self, other: Lasted) {
        self.days += other.days;
        self.months += other.months;
        self.years += other.years;
    }

    /// All of it in one unit. Twelve months are a year, although 360 days are not 365.
    fn total(&self, unit: Unit) -> f64 {
        let Lasted { days, months, years } = self;
        match unit {
            Unit::Days => days + 30.0 * months + 365.0 * years,
            Unit::Weeks => self.total(Unit::Days) / 7.0,
            Unit::Months => days / 30.0 + months + 12.0 * years,
            Unit::Years => days / 365.0 + months / 12.0 + years,
        }
    }
}

/// How long each subject has lasted, summed over the claims that matched a question.
#[derive(Debug)]
pub struct Tally {
    over: Over,
    /// The subjects that the question names, folded, and by the first word of their class; empty for
    /// any.
    asked: Box<[Box<str>]>,
    aliases: Arc<Aliases>,
    lasted: HashMap<Box<str>, Lasted, RandomState>,
}

impl Tally {
    /// A tally of no claims, for the subjects that the filter asks about. Subjects that are one by an
    /// alias are added up together.
    #[must_use]
    pub fn new(over: Over, filter: &Filter, aliases: Arc<Aliases>) -> Tally {
        let asked = filter.any(Dimension::Subject).iter();
        let mut asked: Vec<Box<str>> =
            asked.map(|subject| Box::from(aliases.name_of(subject))).collect();
        asked.sort_unstable();
        asked.dedup();
        Tally { over, asked: asked.into(), aliases, lasted: HashMap::default() }
    }

    /// Counts a claim that matches, for each of its subjects that is asked about.
    pub fn add(&mut self, attestation: &Attestation) {
        let Some(lasted) = Lasted::of(attestation) else { return };
        let mut subjects: Vec<Box<str>> = self.asked_of(attestation).map(Box::from).collect();
        subjects.sort_unstable();
        subjects.dedup();
        for subject in subjects {
            self.lasted.entry(subject).or_default().add(lasted);
        }
    }

    /// Whether a claim that matches belongs to the answer: one of its subjects that is asked about has
    /// lasted long enough. Ask once every claim has been counted.
    #[must_use]
    pub fn keeps(&self, attestation: &Attestation) -> bool {
        self.asked_of(attestation).any(|subject| self.reaches(&subject))
    }

    /// The subjects that have lasted long enough, each by the first word of its class, folded, in byte order, with how long in the unit of
    /// the question.
    #[must_use]
    pub fn kept(&self) -> Vec<(&str, f64)> {
        let subjects = self.lasted.iter().filter(|(subject, _)| self.reaches(subject));
        let mut kept: Vec<(&str, f64)> =
            subjects.map(|(subject, lasted)| (&**subject, lasted.total(self.over.unit))).collect();
        kept.sort_unstable_by(|one, other| one.0.cmp(other.0));
        kept
    }

    fn asked_of<'s>(&'s self, attestation: &'s Attestation) -> impl Iterator<Item = Cow<'s, str>> {
        let is_asked = |subject: &Cow<'_, str>| {
            self.asked.is_empty()
                || self.asked.binary_search_by(|other| (**other).cmp(subject)).is_ok()
        };
        let name = |subject: &'s String| match fold(subject) {
            Cow::Borrowed(folded) => Cow::Borrowed(self.aliases.name_of(folded)),
            Cow::Owned(folded) => Cow::Owned(self.aliases.name_of(&folded).to_owned()),
        };
        attestation.subjects.iter().map(name).filter(is_asked)
    }

    /// Ten tenths are one, whatever binary fractions make of them.
    fn reaches(&self, subject: &str) -> bool {
        const SLACK: f64 = 1e-9;
        let lasted = self.lasted.get(subject).copied().unwrap_or_default();
        lasted.total(self.over.unit) >= self.over.value * (1.0 - SLACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use axwatch_model::{Attributes, Timestamp};

    fn claim(subjects: &[&str], attributes: &str) -> Attestation {
        let list = |terms: &[&str]| terms.iter().map(|term| (*term).to_owned()).collect();
        Attestation {
            id: "AS-1".parse().unwrap(),
            subjects: list(subjects),
            predicates: list(&["worked"]),
            contexts: list(&["_"]),
            actors: list(&["hr"]),
            timestamp: Timestamp::from_ms(0).unwrap(),
            created_at: Timestamp::from_ms(0).unwrap(),
            source: "test".into(),
            attributes: Attributes::parse(attributes).unwrap(),
            signature: None,
            signer_did: None,
        }
    }

    /// Who is kept by a query, of these claims.
    fn kept(query: &str, claims: &[Attestation]) -> String {
        let query = parse(query).unwrap();
        let filter = Filter::from_ax(&query);
        let mut tally = Tally::new(query.over().unwrap(), &filter, Arc::default());
        claims.iter().for_each(|claim| tally.add(claim));
        for claim in claims {
            let has_kept = tally
                .kept()
                .iter()
                .any(|(subject, _)| claim.subjects.iter().any(|other| fold(other) == *subject));
            assert_eq!(tally.keeps(claim), has_kept, "{query}: {claim:?}");
        }
        tally.kept().iter().map(|(subject, lasted)| format!("{subject} {lasted:.2} ")).collect()
    }

    #[test]
    fn durations_of_a_subject_add_up() {
        let claims = [
            claim(&["ALICE", "alice", "BOB"], r#"{"duration_years": 2}"#),
            claim(&["Alice"], r#"{"duration_months": 12}"#),
            claim(&["BOB"], r#"{"duration_days": 73}"#),
            claim(&["CAROL"], r#"{"duration_years": "9", "duration_days": 5, "x": 9}"#),
            claim(&["Carol"], r#"{"duration_days": -5}"#),
            claim(&["DAVE"], "{}"),
        ];
        let cases = [
            ("over 3y", "alice 3.00 "),
            ("over 2.2 years", "alice 3.00 bob 2.20 "),
            ("over 36mo", "alice 36.00 "),
            ("over 24m", "alice 36.00 bob 26.43 "),
            ("over 730d", "alice 1090.00 bob 803.00 "),
            ("over 114w", "alice 155.71 bob 114.71 "),
            ("over 115w", "alice 155.71 "),
            ("BOB CAROL over 1y", "bob 2.20 "),
            ("over 9y", ""),
        ];
        for (query, expected) in cases {
            assert_eq!(kept(query, &claims), expected, "{query}");
        }
    }

    #[test]
    fn ten_tenths_are_one() {
        let tenths = vec![claim(&["a"], r#"{"duration_years": 0.1}"#); 10];
        assert_eq!(kept("over 1y", &tenths), "a 1.00 ");
        assert_eq!(kept("over 1.001y", &tenths), "");
    }
}
