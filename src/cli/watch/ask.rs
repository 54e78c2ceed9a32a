//! Asking for what a watcher needs, line by line.
//!
//! In: what the command line said already, the handlers that there are, and the lines of a person. Out:
//! a whole declaration, or nothing when the person went away. Not here: whether anybody is there to be
//! asked, and what is then done (`super::create`).

use std::io::{self, BufRead, Write};

use anstyle::{AnsiColor, Style};
use axwatch_model::{Declared, HandlerName, LocalId};
use axwatch_query::Filter;

/// What is known of a watcher that is to be declared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Its id.
    pub id: Option<String>,
    /// What it waits for.
    pub when: Option<String>,
    /// Who acts, beside those that the text names.
    pub run: Vec<String>,
    /// Attempts a second at most.
    pub max_fires_per_second: Option<i64>,
}

impl Wanted {
    /// What is missing, as the command line calls it.
    pub fn missing(&self) -> Vec<&'static str> {
        let names_handler = self.when.as_deref().is_some_and(|text| !actions(text).is_empty());
        let mut missing = Vec::new();
        missing.extend(self.id.is_none().then_some("ID"));
        missing.extend(self.when.is_none().then_some("--when AX"));
        missing.extend((self.run.is_empty() && !names_handler).then_some("--run HANDLER"));
        missing
    }
}

/// The handlers that a text names after `so`; none when it is no AX.
fn actions(text: &str) -> Vec<String> {
    Filter::declared(&Declared::Ax(text.to_owned())).map(|(_, actions)| actions).unwrap_or_default()
}

/// Asks for what is missing; `None` when the lines ended before all was said.
///
/// # Errors
/// When a line cannot be read or a question cannot be written.
pub fn complete(
    mut wanted: Wanted,
    handlers: &[String],
    lines: &mut impl BufRead,
    out: &mut impl Write,
) -> io::Result<Option<Wanted>> {
    let mut person = Person { lines, out };
    if wanted.id.is_none() {
        let Some(id) = person.ask("id (a short name of your own)", &mut id_of)? else {
            return Ok(None);
        };
        wanted.id = Some(id);
    }
    if wanted.when.is_none() {
        let question = "when (in AX, such as: is author of GitHub)";
        let Some(when) = person.ask(question, &mut when_of)? else { return Ok(None) };
        wanted.when = Some(when);
    }
    if wanted.missing().contains(&"--run HANDLER") {
        person.show(handlers)?;
        let question = if handlers.is_empty() {
            "run (the name of a handler)"
        } else {
            "run (a number or a name; several with blanks between)"
        };
        let mut run_of = |line: &str| run_of(line, handlers);
        let Some(run) = person.ask(question, &mut run_of)? else { return Ok(None) };
        wanted.run = run;
    }
    if wanted.max_fires_per_second.is_none() {
        let question = "at most so many a second [no limit]";
        let Some(rate) = person.ask(question, &mut rate_of)? else { return Ok(None) };
        wanted.max_fires_per_second = Some(rate);
    }
    Ok(Some(wanted))
}

/// Whoever is asked.
struct Person<'a, R, W> {
    lines: &'a mut R,
    out: &'a mut W,
}

impl<R: BufRead, W: Write> Person<'_, R, W> {
    /// Asks until the answer can be used; `None` when there are no more lines.
    fn ask<T>(
        &mut self,
        question: &str,
        read: &mut impl FnMut(&str) -> Result<T, String>,
    ) -> io::Result<Option<T>> {
        let (bold, red) = (Style::new().bold(), AnsiColor::Red.on_default());
        loop {
            write!(self.out, "{bold}{question}:{bold:#} ")?;
            self.out.flush()?;
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                writeln!(self.out)?;
                return Ok(None);
            }
            match read(line.trim()) {
                Ok(answer) => return Ok(Some(answer)),
                Err(problem) => {
                    for line in problem.lines() {
                        writeln!(self.out, "  {red}{line}{red:#}")?;
                    }
                }
            }
        }
    }

    fn show(&mut self, handlers: &[String]) -> io::Result<()> {
        if handlers.is_empty() {
            return writeln!(self.out, "no plugin is ready now; a watcher waits for its handler");
        }
        for (number, handler) in (1..).zip(handlers) {
            writeln!(self.out, "  {number:>2}  {handler}")?;
        }
        Ok(())
    }
}

fn id_of(line: &str) -> Result<String, String> {
    if line.is_empty() {
        return Err("an id is needed, such as: prs".to_owned());
    }
    line.parse::<LocalId>().map(|_| line.to_owned()).map_err(|error| error.to_string())
}

fn when_of(line: &str) -> Result<String, String> {
    axwatch_query::parse(line).map_err(|mistakes| mistakes.render(line))?;
    let declared = Declared::Ax(line.to_owned());
    let (filter, _) = Filter::declared(&declared).map_err(|mistakes| mistakes.render(line))?;
    if filter.is_empty() {
        return Err("name at least one subject, predicate, context or actor".to_owned());
    }
    Ok(line.to_owned())
}

fn run_of(line: &str, handlers: &[String]) -> Result<Vec<String>, String> {
    let words: Vec<&str> = line.split([' ', ',', '\t']).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Err("somebody has to act; notify.log writes the claim to the log".to_owned());
    }
    words.into_iter().map(|word| handler_of(word, handlers)).collect()
}

fn handler_of(word: &str, handlers: &[String]) -> Result<String, String> {
    if let Ok(number) = word.parse::<usize>() {
        let found = number.checked_sub(1).and_then(|place| handlers.get(place));
        return found.cloned().ok_or_else(|| format!("there is no number {number} in the list"));
    }
    HandlerName::parse_qualified(word).map(|_| word.to_owned()).map_err(|error| error.to_string())
}

fn rate_of(line: &str) -> Result<i64, String> {
    match line {
        "" => Ok(0),
        line => match line.parse() {
            Ok(rate @ 0..=100_000) => Ok(rate),
            _ => Err("a whole number up to 100000, or nothing".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(wanted: Wanted, said: &str) -> (Option<Wanted>, String) {
        let handlers = ["git/x".to_owned(), "notify.log".to_owned()];
        let mut out = Vec::new();
        let done = complete(wanted, &handlers, &mut said.as_bytes(), &mut out).unwrap();
        let shown = anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string();
        (done, shown)
    }

    fn wanted(id: &str, when: &str, run: &[&str], rate: i64) -> Wanted {
        Wanted {
            id: Some(id.to_owned()),
            when: Some(when.to_owned()),
            run: run.iter().map(ToString::to_string).collect(),
            max_fires_per_second: Some(rate),
        }
    }

    #[test]
    fn everything_is_asked_for() {
        let (done, shown) = talk(Wanted::default(), "prs\nis author\n2\n\n");
        assert_eq!(done, Some(wanted("prs", "is author", &["notify.log"], 0)));
        assert!(shown.contains("   2  notify.log"), "{shown}");
    }

    #[test]
    fn what_was_said_is_not_asked_for_again() {
        let given = Wanted { id: Some("a".into()), run: vec!["h".into()], ..Wanted::default() };
        let (done, shown) = talk(given, "by me\n5\n");
        assert_eq!(done, Some(wanted("a", "by me", &["h"], 5)));
        assert!(!shown.contains("id (") && !shown.contains("run ("), "{shown}");
        let given = Wanted { id: Some("a".into()), ..Wanted::default() };
        let (done, _) = talk(given, "by me so notify.log\n\n");
        assert_eq!(done, Some(wanted("a", "by me so notify.log", &[], 0)), "the text names one");
    }

    #[test]
    fn a_mistake_is_shown_and_asked_for_again() {
        let said = "\n prs \nis\n*\nis a\n3\nnobody.here, 1\nmany\n7\n";
        let (done, shown) = talk(Wanted::default(), said);
        assert_eq!(done, Some(wanted("prs", "is a", &["nobody.here", "git/x"], 7)));
        for words in ["an id is needed", "^", "there is no number 3", "up to 100000"] {
            assert!(shown.contains(words), "nothing of {words:?} in:\n{shown}");
        }
    }

    #[test]
    fn whoever_goes_away_declares_nothing() {
        for said in ["", "prs\n", "prs\nis a\n", "prs\nis a\n1\n"] {
            assert_eq!(talk(Wanted::default(), said).0, None, "{said:?}");
        }
    }
}
