//! A plugin as a process: its arguments, its port, its log, and its end.
//!
//! The host starts `BINARY --port N`, reads the port from standard output and the log from standard
//! error, and ends the process with the call Shutdown, SIGTERM and, three seconds later, SIGKILL.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::failure::chain;
use crate::plugin::Plugin;
use crate::server::Service;

/// How long running jobs may still take after a signal. A host kills after 3 s.
const JOBS_WITHIN: Duration = Duration::from_secs(2);
/// How long they and the plugin's last words may take.
const END_WITHIN: Duration = Duration::from_millis(2_400);
/// How long the last answers may take to leave after that.
const ANSWERS_WITHIN: Duration = Duration::from_millis(400);

/// Exit code for arguments that do not do.
const USAGE_ERROR: u8 = 2;

/// Runs a plugin as the program it is: reads `--port N` or `--address HOST:PORT`, serves, and ends on
/// SIGTERM, SIGINT or the host's Shutdown.
///
/// Prints `QNTX_PLUGIN_PORT=<port>` on standard output. Events of `tracing` go to standard error, a
/// JSON object a line, from level info up or as `RUST_LOG` says, unless a subscriber is installed
/// already.
///
/// Exit codes: 0 for an orderly end, 1 when it cannot listen, 2 for arguments that do not do.
pub fn serve(plugin: impl Plugin) -> ExitCode {
    match Wanted::from_arguments(std::env::args().skip(1)) {
        Ok(Wanted::Serve(address)) => serve_at(plugin, address),
        Ok(Wanted::Help) => {
            let about = plugin.about();
            say(&format!("{} {}: {}\n\n{USAGE}", about.name, about.version, about.description));
            ExitCode::SUCCESS
        }
        Ok(Wanted::Version) => {
            let about = plugin.about();
            say(&format!("{} {}", about.name, about.version));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            ExitCode::from(USAGE_ERROR)
        }
    }
}

/// As [`serve`], for a program that reads its own arguments. Port 0 is any free one.
///
/// Exit codes: 0 for an orderly end, 1 when it cannot listen there.
pub fn serve_at(plugin: impl Plugin, address: SocketAddr) -> ExitCode {
    install_log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start its threads: {error}")),
    };
    let ended = runtime.block_on(serve_until_end(Service::new(plugin), address));
    // Not waiting for threads that a handler blocks.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => failed(&reason),
    }
}

async fn serve_until_end<P: Plugin>(
    service: Service<P>,
    address: SocketAddr,
) -> Result<(), String> {
    // Before the port is told, so that no signal of a host that knows us is missed.
    let (mut terminate, mut interrupt) = signals().map_err(|e| format!("no signals: {e}"))?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let bound = listener.local_addr().map_err(|error| format!("no port: {error}"))?;
    say(&format!("QNTX_PLUGIN_PORT={}", bound.port()));

    let stopped = service.clone();
    let server = service.clone().serve(listener, async move { stopped.dismissed().await });
    let mut server = tokio::spawn(server);
    tokio::select! {
        served = &mut server => {
            return match served {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(format!("cannot serve: {}", chain(&error))),
                Err(error) => Err(format!("cannot serve: {error}")),
            };
        }
        () = service.dismissed() => {}
        _ = terminate.recv() => end(&service).await,
        _ = interrupt.recv() => end(&service).await,
    }
    // The last answers leave. A host that keeps its connection open does not keep us.
    let _ = tokio::time::timeout(ANSWERS_WITHIN, server).await;
    Ok(())
}

/// The end after a signal.
async fn end<P: Plugin>(service: &Service<P>) {
    if tokio::time::timeout(END_WITHIN, service.end(JOBS_WITHIN)).await.is_err() {
        tracing::warn!("ended before the plugin was ready to");
    }
    service.dismiss();
}

fn signals() -> io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

/// Says a line on standard output. Who closed it does not want to know.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}

/// A host reads a JSON object a line by its `level` and `message`, and notes the time itself.
fn install_log() {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse_lossy(filter);
    let json = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_target(false)
        .without_time()
        .with_writer(io::stderr)
        // It would complain to standard error, of which nobody may be at the other end any more, and panic.
        .log_internal_errors(false)
        .with_env_filter(filter);
    // One that is installed already is what the author wanted.
    let _ = json.try_init();
}

const USAGE: &str = "\
Usage: PLUGIN --port N              listen on port N of 127.0.0.1; 0 for any free one
       PLUGIN --address HOST:PORT   listen there
       PLUGIN --help | --version

A host such as axwatch starts this program, and speaks gRPC with it.";

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
enum Wanted {
    Serve(SocketAddr),
    Help,
    Version,
}

/// What is wrong with the arguments.
#[derive(Debug, PartialEq)]
enum BadArguments {
    None,
    Unknown(String),
    NoValue(&'static str),
    Port(String),
    Address(String),
    Twice,
}

impl fmt::Display for BadArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadArguments::None => f.write_str("no port is given"),
            BadArguments::Unknown(word) => write!(f, "unknown argument {word:?}"),
            BadArguments::NoValue(flag) => write!(f, "{flag} needs a value"),
            BadArguments::Port(port) => {
                write!(f, "--port {port:?} is no port; it must be a number from 0 to 65535")
            }
            BadArguments::Address(address) => write!(
                f,
                "--address {address:?} is no address; it must be HOST:PORT, such as 127.0.0.1:7000"
            ),
            BadArguments::Twice => f.write_str("more than one port or address is given"),
        }
    }
}

impl Wanted {
    fn from_arguments(words: impl Iterator<Item = String>) -> Result<Wanted, BadArguments> {
        let mut words = words;
        let mut found = None;
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value =
                |flag| value.clone().or_else(|| words.next()).ok_or(BadArguments::NoValue(flag));
            let address = match flag {
                "--port" => port(&value("--port")?)?,
                "--address" => address(&value("--address")?)?,
                "--help" | "-h" => return Ok(Wanted::Help),
                "--version" | "-V" => return Ok(Wanted::Version),
                _ => return Err(BadArguments::Unknown(word)),
            };
            if found.replace(address).is_some() {
                return Err(BadArguments::Twice);
            }
        }
        found.map(Wanted::Serve).ok_or(BadArguments::None)
    }
}

fn port(text: &str) -> Result<SocketAddr, BadArguments> {
    let port: u16 = text.parse().map_err(|_| BadArguments::Port(text.to_owned()))?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

fn address(text: &str) -> Result<SocketAddr, BadArguments> {
    let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| BadArguments::Address(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_where_to_listen_or_what_is_wrong() {
        let at = |address: &str| Ok(Wanted::Serve(address.parse().unwrap()));
        let cases: [(&[&str], Result<Wanted, BadArguments>); 13] = [
            (&["--port", "7000"], at("127.0.0.1:7000")),
            (&["--port=0"], at("127.0.0.1:0")),
            (&["--address", "127.0.0.2:7000"], at("127.0.0.2:7000")),
            (&["--address=[::1]:7000"], at("[::1]:7000")),
            (&["--help"], Ok(Wanted::Help)),
            (&["--port", "7000", "-V"], Ok(Wanted::Version)),
            (&[], Err(BadArguments::None)),
            (&["--port"], Err(BadArguments::NoValue("--port"))),
            (&["--port", "70000"], Err(BadArguments::Port("70000".into()))),
            (&["--port", "-1"], Err(BadArguments::Port("-1".into()))),
            (&["--address", "7000"], Err(BadArguments::Address("7000".into()))),
            (&["--fast"], Err(BadArguments::Unknown("--fast".into()))),
            (&["--port", "1", "--address", "127.0.0.1:2"], Err(BadArguments::Twice)),
        ];
        for (words, expected) in cases {
            let found = Wanted::from_arguments(words.iter().map(|&word| word.to_owned()));
            assert_eq!(found, expected, "{words:?}");
        }
    }
}
