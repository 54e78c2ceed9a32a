//! The command line: one file a command, and here what they share.

mod alias;
mod attest;
mod audit;
mod ax;
mod backup;
mod budget;
mod completions;
mod confirm;
mod demo;
mod doctor;
mod fires;
mod handler;
mod jobs;
mod man;
mod plugin;
mod restore;
mod retain;
mod schedule;
mod serve;
mod status;
mod torture;
mod trace;
mod watch;
mod why;
mod why_not;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Overrides};
use crate::fault::{self, Fault};
use crate::output::{Output, quoted};

const EXAMPLES: &str = "\
Examples:
  axwatch demo                                         see it work on a repository of yours
  axwatch serve                                        run the engine
  axwatch as ALICE is author of GitHub                 make a claim
  axwatch ax is author of GitHub                       ask for claims
  axwatch watch create prs --when 'is author' --run notify.log
  axwatch fires --follow                               see what it causes
  axwatch handler create hello --file hello.py         store code of yours that watchers can run
  axwatch jobs run notify.log --watch                  run a handler yourself, and see how it goes on
  axwatch schedule create poll --every 5m --run ixgest.git
  axwatch budget set all --per-month 20                let jobs wait that would cost more
  axwatch status                                       see how everything is
  axwatch why 3ea27c14d1c994b3bc463569ba5fdcae         see why a job ran
  axwatch trace 3ea27c                                 see what led to it, and what came of it
  axwatch why-not prs AS-ALICE-AUTHOR-GJJE7E959J8S     see why a watcher did not fire

Exit codes: 0 done; 1 refused, failed, or audit not ok; 2 usage or configuration;
3 store in use, newer or corrupt; 74 storage failure.";

/// A reactive engine for claims: append them, watch for them, act on them, know why.
#[derive(Debug, Parser)]
#[command(name = "axwatch", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Globals {
    /// The store: an SQLite file, made with its folder [env: AXWATCH_STORE] [default: $XDG_DATA_HOME/axwatch/axwatch.db]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Everywhere")]
    store: Option<PathBuf>,
    /// The configuration [env: AXWATCH_CONFIG] [default: ./am.toml, else $XDG_CONFIG_HOME/axwatch/am.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    config: Option<PathBuf>,
    /// Print one JSON object a line instead of tables
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoCommand),
    Serve(serve::Serve),
    Status(status::Status),
    As(attest::As),
    Ax(ax::Ax),
    Alias(alias::Alias),
    Watch(watch::Watch),
    Handler(handler::HandlerCommand),
    Fires(fires::Fires),
    Jobs(jobs::Jobs),
    Schedule(schedule::ScheduleCommand),
    Budget(budget::Budget),
    Plugin(plugin::Plugin),
    Audit(audit::Audit),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Retain(retain::Retain),
    Doctor(doctor::Doctor),
    Torture(torture::Torture),
    Why(why::Why),
    WhyNot(why_not::WhyNotCommand),
    Trace(trace::TraceCommand),
    Completions(completions::Completions),
    Man(man::Man),
}

/// How much of a list.
#[derive(Debug, Clone, Copy, Args)]
pub struct Limit {
    /// At most so many, the newest first
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,
    /// All there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

impl Limit {
    /// How many lines at most; `None` is all.
    pub fn lines(self) -> Option<usize> {
        (!self.all).then_some(self.limit)
    }
}

/// What a command works with.
pub struct Context {
    globals: Globals,
    /// Where it prints to.
    pub out: Output,
}

impl Context {
    /// The configuration.
    pub fn config(&self) -> Result<Config> {
        self.config_with(None)
    }

    fn config_with(&self, http: Option<String>) -> Result<Config> {
        let overrides = Overrides {
            store: self.globals.store.clone(),
            config: self.globals.config.clone(),
            http,
        };
        let config = Config::load(&overrides, variable)?;
        refuse_folder(&config.store)?;
        Ok(config)
    }
}

/// A folder holds a store, and is none.
fn refuse_folder(store: &Path) -> Result<()> {
    if !store.is_dir() {
        return Ok(());
    }
    let shown = store.display();
    let told =
        format!("the store {shown} is a folder; name a file in it, such as {shown}/axwatch.db");
    Err(Fault::Usage(told).into())
}

impl Context {
    /// A command of ours as it has to be typed to reach the same store.
    pub fn typed(&self, command: &str) -> String {
        match &self.globals.store {
            Some(store) if command.starts_with("axwatch ") => {
                format!("{command} --store {}", quoted(&store.display().to_string()))
            }
            _ => command.to_owned(),
        }
    }
}

/// A variable of our environment; one that is empty counts as not set.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs the command of this process, and answers with what to exit with.
pub fn run() -> ExitCode {
    if let Some((program, args)) = launched(std::env::args_os().skip(1)) {
        return axwatch_engine::plugin::launcher::run(&program, &args).into();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    if let Command::Plugin(command) = &cli.command
        && let Some((name, address)) = command.served()
    {
        return crate::shipped::serve(name, address);
    }
    if let Command::Torture(command) = &cli.command
        && let Some(code) = command.served()
    {
        return code;
    }
    let as_json = cli.globals.json;
    match arm_failpoints().and_then(|()| run_command(cli)) {
        Ok(()) => ExitCode::from(fault::DONE),
        Err(error) => {
            fault::report(&error, as_json);
            fault::exit_code(&error).into()
        }
    }
}

/// A command line that is none, or asks for help. With `--json` in it a mistake is told as JSON too.
fn not_parsed(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().skip(1).any(|arg| arg == "--json");
    if wants_json && error.use_stderr() {
        let told = error.render().to_string();
        let told = told.strip_prefix("error: ").unwrap_or(&told).trim_end().to_owned();
        fault::report(&Fault::Usage(told).into(), true);
        return ExitCode::from(fault::USAGE);
    }
    error.exit()
}

/// The program and its arguments behind `plugin-launcher --`: what stands between the engine and one
/// plugin. The engine alone starts it so; no person is shown it, in help or by a shell.
fn launched(mut args: impl Iterator<Item = OsString>) -> Option<(OsString, Vec<OsString>)> {
    let is_launcher = args.next()? == "plugin-launcher" && args.next()? == "--";
    let program = args.next().filter(|_| is_launcher)?;
    Some((program, args.collect()))
}

/// Arms what a developer wants to fail. Nothing does otherwise.
fn arm_failpoints() -> Result<()> {
    let Some(plan) = variable(axwatch_failpoints::VARIABLE) else { return Ok(()) };
    axwatch_failpoints::arm(&plan).map_err(|error| Fault::Usage(error.to_string()).into())
}

fn run_command(cli: Cli) -> Result<()> {
    let is_server = matches!(cli.command, Command::Serve(_) | Command::Demo(_));
    let mut builder = if is_server {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build().context("cannot start the async runtime")?;
    let mut context = Context { out: Output::new(cli.globals.json), globals: cli.globals };
    let done = runtime.block_on(async {
        let done = dispatch(cli.command, &mut context).await;
        // What was printed before a failure comes before its message.
        let flushed = context.out.flush();
        done.and(flushed)
    });
    // A thread that waits for standard input must not hold us up.
    runtime.shutdown_background();
    done
}

async fn dispatch(command: Command, context: &mut Context) -> Result<()> {
    match command {
        Command::Demo(command) => command.run(context).await,
        Command::Serve(command) => command.run(context).await,
        Command::Status(command) => command.run(context).await,
        Command::As(command) => command.run(context).await,
        Command::Ax(command) => command.run(context).await,
        Command::Alias(command) => command.run(context).await,
        Command::Watch(command) => command.run(context).await,
        Command::Handler(command) => command.run(context).await,
        Command::Fires(command) => command.run(context).await,
        Command::Jobs(command) => command.run(context).await,
        Command::Schedule(command) => command.run(context).await,
        Command::Budget(command) => command.run(context).await,
        Command::Plugin(command) => command.run(context).await,
        Command::Audit(command) => command.run(context).await,
        Command::Backup(command) => command.run(context).await,
        Command::Restore(command) => command.run(context).await,
        Command::Retain(command) => command.run(context).await,
        Command::Doctor(command) => command.run(context).await,
        Command::Torture(command) => command.run(context).await,
        Command::Why(command) => command.run(context).await,
        Command::WhyNot(command) => command.run(context).await,
        Command::Trace(command) => command.run(context).await,
        Command::Completions(command) => command.run(context),
        Command::Man(command) => command.run(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            let leaves = command.get_subcommands().collect::<Vec<_>>();
            if leaves.is_empty() && !command.is_hide_set() && command.get_name() != "help" {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{} has no examples", command.get_name());
            }
            leaves.into_iter().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn only_the_engine_s_words_start_a_launcher() {
        let launched = |args: &[&str]| launched(args.iter().map(OsString::from));
        let (program, args) = launched(&["plugin-launcher", "--", "a", "--b"]).unwrap();
        assert_eq!((program, args), ("a".into(), vec!["--b".into()]));
        for other in [&["plugin-launcher", "--"][..], &["plugin-launcher", "a"], &["serve"], &[]] {
            assert_eq!(launched(other), None, "{other:?}");
        }
    }

    #[test]
    fn global_flags_go_anywhere() {
        for args in
            [["axwatch", "--store", "a.db", "ax", "x"], ["axwatch", "ax", "x", "--store", "a.db"]]
        {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.globals.store.as_deref(), Some(std::path::Path::new("a.db")));
        }
        assert!(Cli::try_parse_from(["axwatch", "ax", "x", "--limit", "0"]).is_err());
        assert!(Cli::try_parse_from(["axwatch", "ax", "x", "--limit", "1", "--all"]).is_err());
    }
}
