//! `axwatch alias`: which words are one and the same to AX.
//!
//! A change is a claim like any other, so it has a place in the log, and `axwatch ax` finds it. Here it is
//! checked beforehand, so that nothing is appended that would change nothing.

use anstyle::Style;
use anyhow::Result;
use axwatch_model::{Seq, bounds};
use axwatch_query::{ALIAS_CLASS_MAX, ALIAS_WORDS_MAX, AliasChange, AliasChangeKind, fold};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::attest::{append_one, show};
use crate::answers::{AnswerError, Known};
use crate::fault::Fault;
use crate::output::{TablePage, cut, quoted};
use crate::source::Source;
use crate::views::{AliasChanged, AliasClass, Appended};

const ADD_EXAMPLES: &str = "\
Examples:
  axwatch alias add NY 'New York'
  axwatch alias add alice@example.com alice 'Alice Liddell'

Words compare without case, as everywhere in AX. Whoever is one with one of them becomes one with
all. It holds for watchers from the next claim on, and for questions about all claims.";

const RM_EXAMPLES: &str = "\
Examples:
  axwatch alias rm NY 'New York'      take away what links the two
  axwatch alias rm NY                 take away all that links NY";

/// Say which words are one and the same: in subjects, contexts and actors of AX
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch alias add NY 'New York' NYC
  axwatch alias list
  axwatch alias rm NYC")]
pub struct Alias {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make words one; again is harmless
    #[command(after_help = ADD_EXAMPLES)]
    Add {
        /// The words, at least two; one that holds a blank is quoted for the shell
        #[arg(required = true, num_args = 2.., value_name = "WORD")]
        words: Vec<String>,
    },
    /// List which words are one, the last change first
    #[command(after_help = "Examples:\n  axwatch alias list\n  axwatch alias list NY --json")]
    List {
        /// Only what this word is one with
        word: Option<String>,
    },
    /// Take away what links two words, or all that links one
    #[command(after_help = RM_EXAMPLES)]
    Rm {
        /// The word, or the two words
        #[arg(required = true, num_args = 1..=2, value_name = "WORD")]
        words: Vec<String>,
    },
}

impl Alias {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        match self.command {
            Command::Add { words } => add(context, words).await,
            Command::List { word } => list(context, word).await,
            Command::Rm { words } => rm(context, words).await,
        }
    }
}

async fn add(context: &mut Context, words: Vec<String>) -> Result<()> {
    check(&words)?;
    let store = context.config()?.store;
    // Whoever makes the first claim makes the store.
    let known = match store.exists() {
        true => Known::of(&Source::find(&store).await?.aliases().await?),
        false => Known::default(),
    };
    let size = known.size_with(&words);
    if size > ALIAS_CLASS_MAX {
        return Err(Fault::Refused(format!(
            "{size} words would be one, and at most {ALIAS_CLASS_MAX} can be; `axwatch alias list {}` shows what is one now",
            quoted(&words[0])
        ))
        .into());
    }
    let change = AliasChange { kind: AliasChangeKind::Link, words };
    let told = |known: &Known| format!("{} are one", known.class_of(&change.words[0]).join(", "));
    make(context, known, &change, &[], told).await
}

async fn rm(context: &mut Context, words: Vec<String>) -> Result<()> {
    check(&words)?;
    let known = Known::of(&Source::find(&context.config()?.store).await?.aliases().await?);
    let touched = known.class_of(&words[0]);
    let change = AliasChange { kind: AliasChangeKind::Unlink, words };
    if !known.clone().apply(Seq(0), &change) {
        return Err(AnswerError::NotFound(not_linked(&known, &change.words)).into());
    }
    let told = |known: &Known| match &change.words[..] {
        [one, other] if known.are_one(one, other) => {
            format!("{one} and {other} are still one, by way of others")
        }
        [one, other] => format!("{one} and {other} are two"),
        _ => format!("{} is one with nothing", change.words[0]),
    };
    make(context, known, &change, &touched, told).await
}

/// Why there is nothing to take away.
fn not_linked(known: &Known, words: &[String]) -> String {
    for word in words {
        if known.class_of(word).is_empty() {
            let near = known.nearest(word).map(|near| format!(" (did you mean {near}?)"));
            let near = near.unwrap_or_default();
            return format!(
                "{word} has no alias{near}; `axwatch alias list` shows the words that have"
            );
        }
    }
    let (one, other) = (&words[0], &words[words.len() - 1]);
    if known.are_one(one, other) {
        return format!(
            "{one} and {other} are not linked themselves, but by way of others: {}; take away one of those links",
            known.class_of(one).join(", ")
        );
    }
    format!("{one} and {other} are not one; `axwatch alias list` shows what is")
}

/// Appends a change, if it is one, and tells what came of it: `told` in a sentence, and the classes of its
/// words and of those `touched` by it.
async fn make(
    context: &mut Context,
    mut known: Known,
    change: &AliasChange,
    touched: &[String],
    told: impl Fn(&Known) -> String,
) -> Result<()> {
    let appended = match known.apply(Seq(0), change) {
        true => Some(append_one(&context.config()?.store, claim(change)).await?),
        false => None,
    };
    let out = &mut context.out;
    if out.json {
        return out.object(&changed(&known, change, touched, appended));
    }
    let already = if appended.is_none() { " already; nothing was changed" } else { " now" };
    out.line(&in_one_line(&format!("{}{already}", told(&known))))?;
    if change.kind == AliasChangeKind::Unlink {
        for class in classes(&known, change, touched) {
            out.line(&in_one_line(&format!("still one: {}", class.join(", "))))?;
        }
    }
    appended.map_or(Ok(()), |appended| show(out, &appended))
}

/// Words may hold anything, and are told to a terminal.
fn in_one_line(text: &str) -> String {
    cut(text, usize::MAX)
}

fn changed(
    known: &Known,
    change: &AliasChange,
    touched: &[String],
    appended: Option<Appended>,
) -> AliasChanged {
    let (id, seq, fires) =
        appended.map_or((None, None, None), |it| (Some(it.id), Some(it.seq), Some(it.fires)));
    AliasChanged { id, seq, fires, classes: classes(known, change, touched) }
}

/// The classes of these words, each once; words that stand alone have none.
fn classes(known: &Known, change: &AliasChange, touched: &[String]) -> Vec<Vec<String>> {
    let mut classes: Vec<_> =
        change.words.iter().chain(touched).map(|word| known.class_of(word)).collect();
    classes.retain(|class| !class.is_empty());
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// The claim that says so, as JSON.
fn claim(change: &AliasChange) -> String {
    let attributes: Value = serde_json::from_str(&change.attributes()).expect("we wrote it");
    json!({
        "subjects": [AliasChange::SUBJECT], "predicates": [change.predicate()],
        "contexts": ["_"], "attributes": attributes,
    })
    .to_string()
}

/// Refuses words that no claim could hold, and one that comes twice.
fn check(words: &[String]) -> Result<(), Fault> {
    if words.len() > ALIAS_WORDS_MAX {
        return Err(Fault::Usage(format!(
            "{} words; one change takes at most {ALIAS_WORDS_MAX}, so add the others to one of them with another",
            words.len()
        )));
    }
    for (place, word) in words.iter().enumerate() {
        if !(1..=bounds::TERM_BYTES_MAX).contains(&word.len()) {
            return Err(Fault::Usage(format!(
                "word {}: {} bytes; a word has 1 to {}",
                place + 1,
                word.len(),
                bounds::TERM_BYTES_MAX
            )));
        }
        if let Some(same) = words[..place].iter().find(|other| fold(other) == fold(word)) {
            let told = match same == word {
                true => format!("{word} is there twice; name different words"),
                false => format!(
                    "{same} and {word} are the same word to AX, which compares without case"
                ),
            };
            return Err(Fault::Usage(told));
        }
    }
    Ok(())
}

async fn list(context: &mut Context, word: Option<String>) -> Result<()> {
    let store = context.config()?.store;
    let mut classes = Source::find(&store).await?.aliases().await?;
    let known = Known::of(&classes);
    if let Some(word) = &word {
        let meant = known.class_of(word);
        classes.retain(|class| class.words == meant);
    }
    let add = context.typed("axwatch alias add WORD WORD");
    let out = &mut context.out;
    if out.json {
        return classes.iter().try_for_each(|class| out.object(class));
    }
    match (&word, classes.is_empty()) {
        (_, false) => {
            let mut table = TablePage::new(&["#SINCE", "WORDS"]);
            classes.iter().for_each(|class| table.row(Style::new(), cells(class)));
            out.table(&mut table)
        }
        (Some(word), true) => {
            let near = known.nearest(word).map(|near| format!("; did you mean {near}?"));
            out.note(&format!("{word} has no alias{}", near.unwrap_or_default()))
        }
        (None, true) => out.note(&format!("no aliases yet; `{add}` makes words one")),
    }
}

fn cells(class: &AliasClass) -> Vec<String> {
    vec![class.since.to_string(), class.words.join(", ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn words_that_cannot_be_are_refused() {
        let long = "x".repeat(bounds::TERM_BYTES_MAX + 1);
        let cases = [
            ("a b", None),
            ("a ", Some("word 2: 0 bytes; a word has 1 to 1000")),
            (&*format!("{long} a"), Some("word 1: 1001 bytes; a word has 1 to 1000")),
            ("a b a", Some("a is there twice; name different words")),
            (
                "Straße x STRASSE",
                Some("Straße and STRASSE are the same word to AX, which compares without case"),
            ),
        ];
        for (text, expected) in cases {
            let refused = check(&words(text)).err().map(|fault| fault.to_string());
            assert_eq!(refused.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_linked_is_told_with_what_is() {
        let mut known = Known::default();
        for (seq, text) in [(1, "NY NYC"), (2, "NYC Gotham"), (3, "LA Angeles")] {
            let change = AliasChange { kind: AliasChangeKind::Link, words: words(text) };
            known.apply(Seq(seq), &change);
        }
        let cases = [
            ("Gotam", "Gotam has no alias (did you mean Gotham?)"),
            ("NY Boston", "Boston has no alias;"),
            ("NY Gotham", "not linked themselves, but by way of others: Gotham, NY, NYC"),
            ("NY LA", "NY and LA are not one"),
        ];
        for (text, expected) in cases {
            let told = not_linked(&known, &words(text));
            assert!(told.contains(expected), "{told}");
        }
    }
}
