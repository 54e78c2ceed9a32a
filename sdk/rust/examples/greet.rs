//! Greets whoever is an author of GitHub: a whole plugin.

use std::{process::ExitCode, time::Duration};

use axwatch_sdk::{About, Claim, Done, Failure, Job, Plugin, Watcher};

struct Greet;

impl Plugin for Greet {
    fn about(&self) -> About {
        About::new("greet", env!("CARGO_PKG_VERSION"), "greets authors")
    }

    fn handlers(&self) -> Vec<String> {
        vec!["greet.hello".into()]
    }

    fn watchers(&self) -> Vec<Watcher> {
        vec![Watcher::new("authors", "greet.hello").ax("is author of GitHub")]
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        if job.config().parsed("quiet")?.unwrap_or(false) {
            return Err(Failure::not_now(Duration::from_secs(60), "nobody is greeted now"));
        }
        let author = job.attestation()?; // a payload that is no claim fails for good
        let greeting = job.config().get("greeting").unwrap_or("Hello");
        let text = format!("{greeting}, {}!", author.subject());
        let claim = Claim::new(author.subject(), "greeted", "GitHub").attribute("text", &*text);
        job.attest(claim).await?; // on behalf of this job: another attempt makes no second one
        Ok(Done::new().result_json(&text))
    }
}

fn main() -> ExitCode {
    axwatch_sdk::serve(Greet)
}
