//! The plugin `greet`: greets whoever is new.

use std::process::ExitCode;

use axwatch_sdk::{About, Claim, ConfigField, Done, Failure, Job, Plugin, Watcher};

const HELLO: &str = "greet.hello";

struct Greeter;

impl Plugin for Greeter {
    fn about(&self) -> About {
        About::new("greet", env!("CARGO_PKG_VERSION"), "greets whoever is new")
    }

    fn handlers(&self) -> Vec<String> {
        vec![HELLO.into()]
    }

    fn watchers(&self) -> Vec<Watcher> {
        vec![Watcher::new("new", HELLO).ax("is new").max_fires_per_second(100)]
    }

    fn config_schema(&self) -> Vec<ConfigField> {
        vec![ConfigField::string("greeting", "how to greet").default_value("Hello")]
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        let claim = job.attestation()?; // a payload that is no claim fails for good
        let greeting = job.config().get("greeting").unwrap_or("Hello");
        let text = format!("{greeting}, {}!", claim.subject());
        // On behalf of this job: another attempt makes no second one.
        job.attest(Claim::new(claim.subject(), "greeted", "greet").attribute("text", &*text))
            .await?;
        Ok(Done::new().result_json(&text))
    }
}

fn main() -> ExitCode {
    axwatch_sdk::serve(Greeter)
}

#[cfg(test)]
mod tests {
    use axwatch_sdk::testing::{Harness, TestJob};

    use super::*;

    #[tokio::test]
    async fn who_is_new_is_greeted_once() {
        let harness = Harness::start_with(Greeter, [("greeting", "Good day")]).await;
        let job = TestJob::new(HELLO).fire(Claim::new("ALICE", "new", "here"));
        let outcome = harness.execute(job.clone()).await.expect_done();
        assert_eq!(outcome.result_as::<String>(), "Good day, ALICE!");

        // The host did not hear the answer, and tries again.
        harness.execute(job.attempt(2)).await.expect_done();
        assert_eq!(harness.claims().len(), 1);
        assert_eq!(harness.claims()[0].attributes["text"], "Good day, ALICE!");
    }
}
