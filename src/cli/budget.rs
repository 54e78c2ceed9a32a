//! `axwatch budget`: how often handlers may be called and what they may spend.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::BudgetScope;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::Context;
use crate::fault::Fault;
use crate::output::{Output, TablePage, or_dash};
use crate::source::{BUDGETS, Source, need_server};
use crate::views::{self, LIMIT_MAX, Part, is_limit};

/// Show and set budgets: calls a minute, and spend in a day, a week and 30 days
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch budget show
  axwatch budget set all --per-month 20
  axwatch budget set git --calls-per-minute 60
  axwatch budget set git/ixgest.git --per-day 0.5 --per-week none")]
pub struct Budget {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(Set),
    /// Show budgets and what has been used of them
    #[command(
        after_help = "Examples:\n  axwatch budget show\n  axwatch budget show git\n  axwatch budget show git/ixgest.git --json"
    )]
    Show {
        /// Only this: all, a plugin, or plugin/handler, with or without a budget
        #[arg(value_name = "SCOPE", value_parser = scope)]
        scope: Option<BudgetScope>,
    },
}

/// Set limits of a budget: what is reached lets jobs wait, and they go on by themselves
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch budget set all --per-month 20
  axwatch budget set git --calls-per-minute 60 --per-day 1.5
  axwatch budget set git --per-day none

none takes back what was set: then am.toml says what holds, or nothing does.")]
struct Set {
    /// Whose jobs: all, a plugin, or plugin/handler
    #[arg(value_name = "SCOPE", value_parser = scope)]
    scope: BudgetScope,
    /// Attempts that may begin in any 60 seconds, or none
    #[arg(long, value_name = "N|none", value_parser = calls, allow_negative_numbers = true)]
    calls_per_minute: Option<Limit<u32>>,
    /// What may be spent in any 24 hours, or none
    #[arg(long, value_name = "AMOUNT|none", value_parser = amount, allow_negative_numbers = true)]
    per_day: Option<Limit<f64>>,
    /// What may be spent in any 7 days, or none
    #[arg(long, value_name = "AMOUNT|none", value_parser = amount, allow_negative_numbers = true)]
    per_week: Option<Limit<f64>>,
    /// What may be spent in any 30 days, or none
    #[arg(long, value_name = "AMOUNT|none", value_parser = amount, allow_negative_numbers = true)]
    per_month: Option<Limit<f64>>,
}

/// A limit as somebody says it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit<T> {
    Taken,
    Set(T),
}

impl<T: Into<Value>> Limit<T> {
    fn json(self) -> Value {
        match self {
            Limit::Taken => Value::Null,
            Limit::Set(value) => value.into(),
        }
    }
}

fn scope(text: &str) -> Result<BudgetScope, String> {
    // A shell makes the names of files of a star.
    let text = if text == "all" { "*" } else { text };
    text.parse().map_err(|error| format!("{error}; say all, a plugin, or plugin/handler"))
}

fn calls(text: &str) -> Result<Limit<u32>, String> {
    match text {
        "none" => Ok(Limit::Taken),
        _ => text.parse().map(Limit::Set).map_err(|_| {
            "it must be a whole number, 0 for no calls at all, or none for no limit of its own"
                .to_owned()
        }),
    }
}

fn amount(text: &str) -> Result<Limit<f64>, String> {
    let amount = || text.parse().ok().filter(|amount| is_limit(*amount));
    match text {
        "none" => Ok(Limit::Taken),
        _ => amount().map(Limit::Set).ok_or_else(|| {
            format!("it must be an amount of 0 or more, up to {LIMIT_MAX}, such as 2.5, or none for no limit of its own")
        }),
    }
}

impl Budget {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        match self.command {
            Command::Set(set) => set.run(context).await,
            Command::Show { scope } => show(context, scope.as_ref()).await,
        }
    }
}

impl Set {
    async fn run(self, context: &mut Context) -> Result<()> {
        let mut asked = json!({ "scope": self.scope.to_string() });
        let limits = [
            ("calls_per_minute", self.calls_per_minute.map(Limit::json)),
            ("per_day", self.per_day.map(Limit::json)),
            ("per_week", self.per_week.map(Limit::json)),
            ("per_month", self.per_month.map(Limit::json)),
        ];
        if limits.iter().all(|(_, limit)| limit.is_none()) {
            let told =
                "nothing is set; say --calls-per-minute, --per-day, --per-week or --per-month";
            return Err(Fault::Usage(told.to_owned()).into());
        }
        for (key, limit) in limits {
            if let Some(limit) = limit {
                asked[key] = limit;
            }
        }
        let client = need_server(&context.config()?.store).await?;
        let budget: views::Budget = client.send(Method::POST, BUDGETS, &asked).await?;
        tell(&mut context.out, &[budget])
    }
}

async fn show(context: &mut Context, scope: Option<&BudgetScope>) -> Result<()> {
    let config = context.config()?;
    let source = Source::find(&config.store).await?;
    let budgets = source.budgets(scope, &config.budgets).await?;
    tell(&mut context.out, &budgets)?;
    if budgets.is_empty() {
        let set = context.typed("axwatch budget set all --per-month 20");
        context.out.note(&format!("no budgets; one is set with `{set}`, or in am.toml"))?;
    }
    match source {
        Source::Server(_) => Ok(()),
        Source::Store(_) => context.out.note("no server runs; what was spent is as it was written"),
    }
}

fn tell(out: &mut Output, budgets: &[views::Budget]) -> Result<()> {
    let mut table = TablePage::new(&[
        "BUDGET",
        "LIMIT",
        "#OF",
        "#USED",
        "#LEFT",
        "SET BY",
        "#RESERVED",
        "STATE",
    ]);
    for budget in budgets {
        if out.json {
            out.object(budget)?;
            continue;
        }
        add(&mut table, budget, "calls_per_minute", &budget.calls_per_minute);
        let spans = [
            ("per_day", &budget.per_day),
            ("per_week", &budget.per_week),
            ("per_month", &budget.per_month),
        ];
        for (name, part) in spans {
            add(&mut table, budget, name, part);
        }
    }
    out.table(&mut table)
}

fn add<T: ToString + Copy>(
    table: &mut TablePage,
    budget: &views::Budget,
    name: &str,
    part: &Part<T>,
) {
    let held = budget.held_by.as_ref().filter(|held| held.limit == name);
    let state = held.map(|held| match held.until {
        Some(until) => format!("{} until {until}", held.reason),
        None => held.reason.clone(),
    });
    let style = match (&state, part.limit) {
        (Some(_), _) => AnsiColor::Yellow.on_default(),
        (None, Some(_)) => Style::new(),
        (None, None) => Style::new().dimmed(),
    };
    let reserved = match budget.all_reserved {
        true => Some("all".to_owned()),
        false => budget.reserved.map(|amount| amount.to_string()),
    };
    let cells = vec![
        budget.scope.clone(),
        name.to_owned(),
        or_dash(part.limit),
        or_dash(part.used),
        or_dash(part.left),
        or_dash(part.set_by.as_ref()),
        or_dash(reserved.filter(|_| name != "calls_per_minute")),
        state.unwrap_or_default(),
    ];
    table.row(style, cells);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!(calls("60"), Ok(Limit::Set(60)));
        assert_eq!(calls("none"), Ok(Limit::Taken));
        assert_eq!(amount("2.5"), Ok(Limit::Set(2.5)));
        assert_eq!(amount("none"), Ok(Limit::Taken));
        for text in ["", "-1", "nan", "inf", "x", "1e999", "1e10"] {
            assert!(amount(text).is_err(), "{text}");
        }
        for text in ["", "-1", "1.5", "many"] {
            assert!(calls(text).is_err(), "{text}");
        }
        assert_eq!(scope("all").unwrap().to_string(), "*");
        assert!(scope("git/").is_err());
    }
}
