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

#[cfg(test)]
mod tests {
    use axwatch_sdk::testing::{Harness, TestJob};

    use super::*;

    fn fire() -> TestJob {
        TestJob::new("greet.hello").fire(Claim::new("ALICE", "author", "GitHub"))
    }

    #[tokio::test]
    async fn an_author_is_greeted_once() {
        let harness = Harness::start_with(Greet, [("greeting", "Good day")]).await;
        let job = fire();
        let outcome = harness.execute(job.clone()).await.expect_done();
        assert_eq!(outcome.result_as::<String>(), "Good day, ALICE!");

        // The host did not hear the answer, and tries again.
        harness.execute(job.attempt(2)).await.expect_done();
        assert_eq!(harness.claims().len(), 1);
        assert_eq!(harness.claims()[0].attributes["text"], "Good day, ALICE!");
    }

    #[tokio::test]
    async fn nobody_is_greeted_while_it_is_quiet() {
        let harness = Harness::start_with(Greet, [("quiet", "true")]).await;
        let failure = harness.execute(fire()).await.expect_failure();
        assert!(matches!(failure, Failure::NotNow { .. }), "{failure:?}");
        assert!(harness.claims().is_empty());
    }
}
