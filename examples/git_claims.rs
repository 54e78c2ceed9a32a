//! Turns a repository's history into claims: reads `git log` on standard input, writes one
//! attestation a line on standard output, in the JSON that `axwatch as -` takes.
//!
//! Expects `git log -z --format='%h%x1f%H%x1f%an%x1f%aI%x1f%P%x1f%s'`: records end with NUL, fields
//! with the unit separator. Every claim has an id made from its commit, so that the same history
//! again adds nothing.

use std::io::{self, BufRead, BufWriter, Write};

use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for record in io::stdin().lock().split(0) {
        let record = String::from_utf8_lossy(&record?).into_owned();
        let fields: Vec<&str> = record.trim_start_matches('\n').split('\x1f').collect();
        let [short, hash, author, at, parents, message] = fields[..] else {
            let message = format!("a record of git log has {} fields, not 6", fields.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        for claim in claims(short, hash, author, at, parents, message) {
            writeln!(out, "{claim}")?;
        }
    }
    out.flush()
}

/// What a commit claims: that it is one, and who wrote it.
fn claims(
    short: &str,
    hash: &str,
    author: &str,
    at: &str,
    parents: &str,
    message: &str,
) -> [Value; 2] {
    let parents: Vec<&str> = parents.split_whitespace().collect();
    let author = if author.is_empty() { "unknown" } else { author };
    let common = |kind: &str, predicate: &str, context: &str| {
        json!({
            "id": format!("git-{hash}-{kind}"),
            "subjects": [short],
            "predicates": [predicate],
            "contexts": [context],
            "actors": ["git"],
            "timestamp": at,
            "source": "git-log",
        })
    };
    let mut commit = common("commit", "is_commit", "commit_metadata");
    commit["attributes"] =
        json!({ "hash": hash, "author": author, "message": message, "parents": parents });
    [commit, common("author", "authored_by", author)]
}
