//! Counts, slowly: work on a thread of its own, with progress, an end when nobody waits any more, and
//! a configuration that is checked when it comes.
//!
//! A job's payload says how far: `{"to": 20}`. The plugin's own table may say `every_ms`.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use axwatch_sdk::{About, ConfigField, Done, Failure, Job, Plugin, Start};
use serde::Deserialize;

struct Count;

#[derive(Deserialize)]
struct Payload {
    to: u64,
}

fn pause(config: &axwatch_sdk::Config) -> Result<Duration, Failure> {
    Ok(Duration::from_millis(config.parsed("every_ms")?.unwrap_or(50)))
}

impl Plugin for Count {
    fn about(&self) -> About {
        About::new("count", env!("CARGO_PKG_VERSION"), "counts, slowly")
    }

    async fn initialize(&self, start: Start) -> Result<(), Failure> {
        pause(start.config())?;
        Ok(())
    }

    fn handlers(&self) -> Vec<String> {
        vec!["count.up".into()]
    }

    fn config_schema(&self) -> Vec<ConfigField> {
        vec![ConfigField::number("every_ms", "from one number to the next").default_value("50")]
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        let Payload { to } = job.payload_as()?;
        let pause = pause(job.config())?;
        tracing::info!(to, "counting");
        // Work that blocks belongs on a thread of its own.
        let counted = tokio::task::spawn_blocking(move || {
            for number in 1..=to {
                if job.is_cancelled() {
                    return number - 1;
                }
                thread::sleep(pause);
                job.progress(number, to);
            }
            to
        });
        Ok(Done::new().result_json(&counted.await?))
    }
}

fn main() -> ExitCode {
    axwatch_sdk::serve(Count)
}
