//! `axwatch-bench road`: measures the main job and prints each figure against its limit.
//! `axwatch-bench zoo`: what a plugin keeps of its speed beside others that misbehave.
//! `axwatch-bench handlers`: how fast the plugin `python` runs code.
//! `axwatch-bench start`: how long a start takes with a million watchers and many open jobs.
//! `axwatch-bench storm`: what thousands of registrations add to an append.
//! `axwatch-bench parse`: the same for queries. `axwatch-bench ax`: the same for their answers.
//!
//! The same program is, in hidden modes, the plugin that it measures and the launcher over it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use axwatch_bench::figure::{Figure, Setting};
use axwatch_bench::road::{self, Part};
use axwatch_bench::{ax, handlers, parse, plugin, start, storm, zoo};
use clap::{Parser, Subcommand, ValueEnum as _};

/// Benchmarks of axwatch.
#[derive(Parser)]
#[command(name = "axwatch-bench", version)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// The main job: append, fire, plugin, settle.
    Road(RoadArguments),
    /// How long a query takes to parse.
    Parse(ParseArguments),
    /// Questions over a large log.
    Ax(AxArguments),
    /// A plugin beside others that misbehave.
    Zoo(ZooArguments),
    /// How fast the plugin `python` runs code.
    Handlers(ParseArguments),
    /// A start with a million watchers and a hundred thousand open jobs.
    Start(StartArguments),
    /// One of these, in a process of its own: prints what took how long, as JSON.
    #[command(hide = true)]
    StartOnce {
        /// The store.
        store: PathBuf,
    },
    /// Watchers that are registered while claims arrive.
    Storm(StormArguments),
    /// The plugin at the end of the road.
    #[command(hide = true)]
    Plugin {
        /// Where to listen on loopback.
        #[arg(long)]
        port: u16,
        /// Where to write the port.
        #[arg(long)]
        port_file: Option<PathBuf>,
    },
    /// The launcher over the plugin.
    #[command(hide = true)]
    Launcher {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

#[derive(clap::Args)]
struct RoadArguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Everything at a small scale: shows that it works, and no figure that means anything.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// The folder to work in, whose disk is the one that is measured; by default that of this program,
    /// because what is meant for temporary files may lie in memory.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ZooArguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// A short load: shows that it works, and no figure that means anything.
    #[arg(long)]
    quick: bool,
    /// Only beside these, by their modes in `examples/zoo_plugin.rs`.
    #[arg(long)]
    only: Vec<String>,
    /// The folder to work in; by default that of this program.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ParseArguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// A few rounds: shows that it works, and no figure that means anything.
    #[arg(long)]
    quick: bool,
}

#[derive(clap::Args)]
struct StormArguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Few watchers, once: shows that it works, and no figure that means anything.
    #[arg(long)]
    quick: bool,
    /// The folder to work in; by default that of this program.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(clap::Args)]
struct AxArguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// A small log and a few questions: shows that it works, and no figure that means anything.
    #[arg(long)]
    quick: bool,
    /// How many claims the log has; a million by default, and 20,000 with --quick.
    #[arg(long)]
    claims: Option<u64>,
    /// The folder to work in; by default that of this program.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(clap::Args)]
struct StartArguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// A small store: shows that it works, and no figure that means anything.
    #[arg(long)]
    quick: bool,
    /// How many watchers there are; a million by default, and 2,000 with --quick.
    #[arg(long)]
    watchers: Option<u64>,
    /// How many jobs are open, at least; 100,000 by default, and 500 with --quick.
    #[arg(long)]
    jobs: Option<u64>,
    /// The folder to work in; by default that of this program.
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().mode {
        Mode::Road(arguments) => runtime()?.block_on(road(arguments)),
        Mode::Parse(arguments) => {
            parse(&arguments);
            Ok(ExitCode::SUCCESS)
        }
        Mode::Ax(arguments) => runtime()?.block_on(ax(arguments)),
        Mode::Zoo(arguments) => runtime()?.block_on(zoo(arguments)),
        Mode::Handlers(arguments) => runtime()?.block_on(handlers(arguments)),
        Mode::Start(arguments) => runtime()?.block_on(start(arguments)),
        Mode::StartOnce { store } => {
            let start = runtime()?.block_on(start::once(&store))?;
            println!("{}", serde_json::to_string(&start)?);
            Ok(ExitCode::SUCCESS)
        }
        Mode::Storm(arguments) => runtime()?.block_on(storm(arguments)),
        Mode::Plugin { port, port_file } => {
            runtime()?.block_on(plugin::serve(port, port_file))?;
            Ok(ExitCode::SUCCESS)
        }
        Mode::Launcher { command } => {
            let code = axwatch_engine::plugin::launcher::run(&command[0], &command[1..]);
            Ok(ExitCode::from(code))
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn road(arguments: RoadArguments) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let setting = Setting::look(arguments.quick);
    let folder = folder(arguments.folder)?;
    let parts =
        if arguments.only.is_empty() { Part::value_variants().to_vec() } else { arguments.only };
    head(&setting, arguments.json);
    let tell = |figure: &Figure| tell(figure, arguments.json);
    road::run(&folder, &setting, &parts, tell).await?;
    Ok(ExitCode::SUCCESS)
}

async fn ax(arguments: AxArguments) -> Result<ExitCode> {
    let setting = Setting::look(arguments.quick);
    let folder = folder(arguments.folder)?;
    let claims = arguments.claims.unwrap_or(if arguments.quick { 20_000 } else { 1_000_000 });
    head(&setting, arguments.json);
    let tell = |figure: &Figure| tell(figure, arguments.json);
    ax::run(&folder, &setting, claims, tell).await?;
    Ok(ExitCode::SUCCESS)
}

async fn zoo(arguments: ZooArguments) -> Result<ExitCode> {
    let setting = Setting::look(arguments.quick);
    let folder = folder(arguments.folder)?;
    head(&setting, arguments.json);
    let tell = |figure: &Figure| tell(figure, arguments.json);
    zoo::run(&folder, &setting, &arguments.only, tell).await?;
    Ok(ExitCode::SUCCESS)
}

async fn start(arguments: StartArguments) -> Result<ExitCode> {
    let setting = Setting::look(arguments.quick);
    let folder = folder(arguments.folder)?;
    let scale = if arguments.quick { start::Scale::QUICK } else { start::Scale::FULL };
    let scale = start::Scale {
        watchers: arguments.watchers.unwrap_or(scale.watchers),
        jobs: arguments.jobs.unwrap_or(scale.jobs),
        ..scale
    };
    head(&setting, arguments.json);
    let figures = start::run(&folder, &setting, scale).await?;
    figures.iter().for_each(|figure| tell(figure, arguments.json));
    Ok(ExitCode::SUCCESS)
}

async fn handlers(arguments: ParseArguments) -> Result<ExitCode> {
    let setting = Setting::look(arguments.quick);
    head(&setting, arguments.json);
    let figures = handlers::run(&setting).await?;
    figures.iter().for_each(|figure| tell(figure, arguments.json));
    Ok(ExitCode::SUCCESS)
}

async fn storm(arguments: StormArguments) -> Result<ExitCode> {
    let setting = Setting::look(arguments.quick);
    let folder = folder(arguments.folder)?;
    head(&setting, arguments.json);
    storm::run(&folder, &setting, |figure| tell(figure, arguments.json)).await?;
    Ok(ExitCode::SUCCESS)
}

/// The one that was named, or that of this program.
fn folder(named: Option<PathBuf>) -> Result<PathBuf> {
    Ok(match named {
        Some(folder) => folder,
        None => std::env::current_exe()?.with_file_name(""),
    })
}

fn parse(arguments: &ParseArguments) {
    let setting = Setting::look(arguments.quick);
    head(&setting, arguments.json);
    parse::run(&setting).iter().for_each(|figure| tell(figure, arguments.json));
}

fn head(setting: &Setting, json: bool) {
    if !json {
        let machine = &setting.machine;
        println!("commit {}, {} cores of {}", setting.commit, machine.cores, machine.cpu);
    }
}

fn tell(figure: &Figure, json: bool) {
    println!("{}", if json { figure.to_json() } else { figure.to_text() });
}
