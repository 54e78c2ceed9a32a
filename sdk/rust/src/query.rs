//! What to look for in the log: AX text, or terms.

use axwatch_proto::protocol;

use crate::failure::Failure;

/// A question to the log. What it finds comes newest first.
///
/// Either AX text, or lists of whole terms that are compared exactly: one of each dimension that is
/// named must be there. Without either everything matches.
///
/// ```
/// # use axwatch_sdk::Query;
/// let _ = Query::ax("is author of GitHub").limit(10);
/// let _ = Query::default().predicate("handler").context("python").limit(1);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Query {
    ax: String,
    subjects: Vec<String>,
    predicates: Vec<String>,
    contexts: Vec<String>,
    actors: Vec<String>,
    limit: Option<usize>,
    bytes_max: Option<usize>,
    between: Option<(i64, i64)>,
}

impl Query {
    /// What this AX text asks for. A mistake in it is a [`Failure::Permanent`] that says where.
    pub fn ax(text: impl Into<String>) -> Query {
        Query { ax: text.into(), ..Query::default() }
    }

    /// This subject, or another that is named.
    pub fn subject(mut self, subject: impl Into<String>) -> Query {
        self.subjects.push(subject.into());
        self
    }

    /// This predicate, or another that is named.
    pub fn predicate(mut self, predicate: impl Into<String>) -> Query {
        self.predicates.push(predicate.into());
        self
    }

    /// This context, or another that is named.
    pub fn context(mut self, context: impl Into<String>) -> Query {
        self.contexts.push(context.into());
        self
    }

    /// This actor, or another that is named.
    pub fn actor(mut self, actor: impl Into<String>) -> Query {
        self.actors.push(actor.into());
        self
    }

    /// The newest `count` of what is found. Without a limit all of it is read into memory.
    pub fn limit(mut self, count: usize) -> Query {
        self.limit = Some(count);
        self
    }

    /// Fails when what is found has more encoded bytes than these, as soon as that is seen.
    pub fn bytes_max(mut self, bytes: usize) -> Query {
        self.bytes_max = Some(bytes);
        self
    }

    pub(crate) fn most_bytes(&self) -> usize {
        self.bytes_max.unwrap_or(usize::MAX)
    }

    /// Only claims with a timestamp in this range, both ends included; milliseconds since 1970.
    pub fn between(mut self, start_ms: i64, end_ms: i64) -> Query {
        self.between = Some((start_ms, end_ms));
        self
    }

    /// Whether nothing at all is wanted: on the wire a limit of 0 would be none.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.limit == Some(0)
    }

    pub(crate) fn into_request(
        self,
        auth_token: String,
    ) -> Result<protocol::GetAttestationsRequest, Failure> {
        let lists = [&self.subjects, &self.predicates, &self.contexts, &self.actors];
        // A host would answer the text and pass over the lists.
        if !self.ax.is_empty() && lists.iter().any(|list| !list.is_empty()) {
            return Err(Failure::permanent(
                "query: AX text and terms together; say the terms in the text",
            ));
        }
        let filter = protocol::AttestationFilter {
            subjects: self.subjects,
            predicates: self.predicates,
            contexts: self.contexts,
            actors: self.actors,
            time_start: self.between.map(|(start, _)| start),
            time_end: self.between.map(|(_, end)| end),
            limit: self.limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX)),
        };
        Ok(protocol::GetAttestationsRequest { auth_token, filter: Some(filter), ax: self.ax })
    }
}

/// AX text.
impl From<&str> for Query {
    fn from(text: &str) -> Query {
        Query::ax(text)
    }
}

/// AX text.
impl From<String> for Query {
    fn from(text: String) -> Query {
        Query::ax(text)
    }
}
