//! Other ways to find the same: every watcher asked in turn, and the crate `a-tree`.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};

use a_tree::{ATree, AttributeDefinition};
use anyhow::{Result, anyhow};
use axwatch_model::{Attestation, Attributes, Declared};
use axwatch_query::{Aliases, Dimension, Filter, matches};

use crate::measure::Matcher;

/// Every watcher is asked about every attestation: the meaning itself.
pub struct Naive {
    filters: Vec<Filter>,
}

impl Naive {
    pub fn new(filters: &[Filter]) -> Naive {
        Naive { filters: filters.to_vec() }
    }
}

impl Matcher for Naive {
    fn matching(&mut self, attestation: &Attestation, found: &mut Vec<u32>) -> u64 {
        found.clear();
        let holds = |filter: &Filter| matches(filter, attestation, Aliases::none());
        let ids = self.filters.iter().enumerate().filter(|(_, filter)| holds(filter));
        found.extend(ids.map(|(id, _)| id as u32));
        self.filters.len() as u64
    }
}

/// The public crate, with a list of texts for each dimension, and an attribute for each path.
///
/// It knows no `where` as we do; only what both can say is measured.
pub struct Tree {
    tree: ATree<u32>,
    attributes: BTreeMap<String, Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
}

impl Tree {
    /// `None` when a watcher asks for something that the crate cannot be asked.
    pub fn new(watchers: &[Declared]) -> Result<Option<Tree>> {
        let Some(expressions) =
            watchers.iter().map(expression).collect::<Option<Vec<Expression>>>()
        else {
            return Ok(None);
        };
        let mut attributes = BTreeMap::new();
        let lists =
            Dimension::ALL.map(|dimension| AttributeDefinition::string_list(dimension.name()));
        for (path, kind) in expressions.iter().flat_map(|expression| &expression.attributes) {
            attributes.insert(path.clone(), *kind);
        }
        let more = attributes.iter().map(|(path, kind)| match kind {
            Kind::Text => AttributeDefinition::string(path),
            Kind::Whole => AttributeDefinition::integer(path),
        });
        let definitions: Vec<AttributeDefinition> = lists
            .into_iter()
            .chain([AttributeDefinition::integer(TIMESTAMP)])
            .chain(more)
            .collect();
        let mut tree = ATree::new(&definitions).map_err(|error| anyhow!("a-tree: {error}"))?;
        for (id, expression) in expressions.iter().enumerate() {
            tree.insert(&(id as u32), &expression.text)
                .map_err(|error| anyhow!("a-tree: {}: {error}", expression.text))?;
        }
        Ok(Some(Tree { tree, attributes }))
    }

    fn find(&self, attestation: &Attestation, found: &mut Vec<u32>) -> Result<()> {
        let wrong = |error: &dyn std::fmt::Display| anyhow!("a-tree: {error}");
        let mut event = self.tree.make_event();
        for dimension in Dimension::ALL {
            let terms: Vec<&str> =
                dimension.terms(attestation).iter().map(String::as_str).collect();
            event.with_string_list(dimension.name(), &terms).map_err(|e| wrong(&e))?;
        }
        event.with_integer(TIMESTAMP, attestation.timestamp.ms()).map_err(|e| wrong(&e))?;
        let value = attestation.attributes.as_ref().map(Attributes::to_value).unwrap_or_default();
        for (path, kind) in &self.attributes {
            let given = value.get(path);
            match (kind, given.and_then(|v| v.as_str()), given.and_then(|v| v.as_i64())) {
                (Kind::Text, Some(text), _) => event.with_string(path, text),
                (Kind::Whole, _, Some(whole)) => event.with_integer(path, whole),
                _ => event.with_undefined(path),
            }
            .map_err(|e| wrong(&e))?;
        }
        let event = event.build().map_err(|e| wrong(&e))?;
        let report = self.tree.search(&event).map_err(|e| wrong(&e))?;
        found.extend(report.matches().iter().map(|id| **id));
        Ok(())
    }
}

impl Matcher for Tree {
    fn matching(&mut self, attestation: &Attestation, found: &mut Vec<u32>) -> u64 {
        found.clear();
        self.find(attestation, found).expect("what the tree was made for");
        found.sort_unstable();
        0
    }
}

const TIMESTAMP: &str = "timestamp";

/// A watcher as the crate has it.
struct Expression {
    text: String,
    attributes: HashMap<String, Kind>,
}

fn expression(declared: &Declared) -> Option<Expression> {
    let mut parts = Vec::new();
    let mut attributes = HashMap::new();
    match declared {
        Declared::Structural(lists) => {
            let lists = [&lists.subjects, &lists.predicates, &lists.contexts, &lists.actors];
            for (dimension, terms) in Dimension::ALL.into_iter().zip(lists) {
                if !terms.is_empty() {
                    parts.push(format!("{} one of {}", dimension.name(), list(terms)?));
                }
            }
        }
        Declared::Ax(text) => {
            let query = axwatch_query::parse_watcher(text).ok()?;
            for dimension in Dimension::ALL {
                for (terms, word) in
                    [(query.any(dimension), "one of"), (query.none(dimension), "none of")]
                {
                    if !terms.is_empty() {
                        parts.push(format!("{} {word} {}", dimension.name(), list(terms)?));
                    }
                }
            }
            // Only times that are the same at every now.
            let filter = Filter::from_ax(&query);
            let bounds = [(filter.time_start(), ">="), (filter.time_end(), "<=")];
            if !query.temporal.is_empty() && bounds.iter().any(|(bound, _)| bound.is_none()) {
                return None;
            }
            for (bound, sign) in bounds {
                parts.extend(bound.map(|ms| format!("{TIMESTAMP} {sign} {ms}")));
            }
            for condition in &query.conditions {
                let path = condition.path.dotted();
                let (kind, value) = match condition.value.as_ref()?.to_value() {
                    serde_json::Value::String(text) => (Kind::Text, quoted(&text)?),
                    serde_json::Value::Number(number) => {
                        (Kind::Whole, number.as_i64()?.to_string())
                    }
                    _ => return None,
                };
                let is_plain = path.bytes().all(|byte| byte.is_ascii_lowercase());
                match attributes.entry(path.clone()) {
                    Entry::Occupied(before) if *before.get() != kind => return None,
                    Entry::Occupied(_) => {}
                    Entry::Vacant(place) => {
                        place.insert(kind);
                    }
                }
                if !is_plain {
                    return None;
                }
                parts.push(format!("{path} {} {value}", condition.op.sign()));
            }
        }
    }
    Some(Expression { text: parts.join(" and "), attributes })
}

fn list<T: AsRef<str>>(terms: &[T]) -> Option<String> {
    let terms: Option<Vec<String>> = terms.iter().map(|term| quoted(term.as_ref())).collect();
    Some(format!("[{}]", terms?.join(", ")))
}

/// Its texts have no way to write a quote.
fn quoted(text: &str) -> Option<String> {
    (!text.contains(['"', '\'', '\\'])).then(|| format!("\"{text}\""))
}
