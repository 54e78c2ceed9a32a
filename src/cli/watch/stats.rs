//! `axwatch watch stats`: how the watchers are found, and what that costs.

use anyhow::Result;

use crate::cli::Context;
use crate::output::{Output, TablePage, counted, size};
use crate::source::need_server;
use crate::views::{DearWatcher, Matching};

pub async fn run(context: &mut Context) -> Result<()> {
    let client = need_server(&context.config()?.store).await?;
    let matching: Matching = client.get("/api/v1/matching").await?;
    if context.out.json {
        return context.out.object(&matching);
    }
    show(&mut context.out, &matching)
}

fn show(out: &mut Output, matching: &Matching) -> Result<()> {
    let per_claim =
        |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
    let bytes = size(matching.memory_bytes as u64);
    let each = match matching.watchers {
        0 => String::new(),
        watchers => format!(", {} bytes a watcher", matching.memory_bytes / watchers),
    };
    let always = match (matching.asked_always, matching.questions) {
        (0, _) => "none".to_owned(),
        (watchers, 1) => format!("{watchers}, with one question"),
        (watchers, questions) => format!("{watchers}, with {questions} different questions"),
    };
    if let Some(reading) = &matching.reading {
        out.line(&format!(
            "the server has just started: of {} it has read the texts of {}, and claims wait to be matched until it has read all",
            counted(reading.of as u64, "watcher"),
            reading.done
        ))?;
    }
    out.fields(&[
        ("watchers", matching.watchers.to_string()),
        ("served", format!("{} % by look-ups alone", (matching.served_fully * 1e3).round() / 10.0)),
        ("by one term", matching.by_one_term.to_string()),
        ("by time", matching.by_time.to_string()),
        ("every claim", always),
        ("terms", matching.terms.to_string()),
        ("keys", matching.keys.to_string()),
        ("memory", format!("{bytes}{each}")),
        ("claims", format!("{} matched since the server started", matching.claims)),
        ("look-ups", per_claim(matching.probes_per_claim)),
        ("verified", per_claim(matching.candidates_per_claim)),
        ("matched", per_claim(matching.matches_per_claim)),
    ])?;
    shapes(out, matching)?;
    dearest(out, &matching.dearest)
}

fn shapes(out: &mut Output, matching: &Matching) -> Result<()> {
    if matching.shapes.is_empty() {
        return Ok(());
    }
    out.heading("found by")?;
    let mut table = TablePage::new(&["TERMS OF", "#WATCHERS", "THEN"]);
    for shape in &matching.shapes {
        let then = if shape.served_fully { "matches" } else { "verified" };
        let cells = vec![shape.terms_of.join(", "), shape.watchers.to_string(), then.to_owned()];
        table.row(anstyle::Style::new(), cells);
    }
    out.table(&mut table)
}

fn dearest(out: &mut Output, dearest: &[DearWatcher]) -> Result<()> {
    if dearest.is_empty() {
        return Ok(());
    }
    out.heading("dearest")?;
    let mut table = TablePage::new(&["ID", "#VERIFIED", "#MATCHES", "WHY"]);
    for dear in dearest {
        let why = if dear.asked_always {
            "no look-up finds it: every claim is held against it"
        } else {
            "its terms come often, and what else it asks is verified"
        };
        let cells =
            vec![dear.id.clone(), dear.verified.to_string(), dear.matches.to_string(), why.into()];
        table.row(anstyle::Style::new(), cells);
    }
    out.table(&mut table)
}
