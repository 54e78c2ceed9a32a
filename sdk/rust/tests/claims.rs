//! Claims that jobs make, and questions that they ask.

use crate::support::{Scripted, job};
use axwatch_sdk::testing::Harness;
use axwatch_sdk::{Claim, Done, Failure, Query};

fn seen(subject: &str) -> Claim {
    Claim::new(subject, "seen", "test")
}

#[tokio::test]
async fn a_claim_comes_back_as_it_stands_in_the_log() {
    let plugin = Scripted::new(|job| async move {
        let claim = seen("ALICE").attribute("stars", 2).timestamp_ms(1_705_329_000_120);
        let made = job.attest(claim).await?;
        assert_eq!((made.seq, made.source.as_str()), (1, "scripted"));
        assert_eq!(
            (&made.actors[..], &made.attributes["stars"]),
            (&[made.id.clone()][..], &2.into())
        );
        assert_eq!(made.timestamp, "2024-01-15T14:30:00.120Z");
        assert!(job.exists(&made.id).await? && !job.exists("nobody").await?);
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    harness.execute(job()).await.expect_done();
    assert_eq!(harness.claims()[0].subjects, ["ALICE"]);
}

#[tokio::test]
async fn another_attempt_makes_the_same_claims_again() {
    let plugin = Scripted::new(|job| async move {
        job.attest(seen("ALICE")).await?;
        // Two of one content are two, on every attempt.
        job.attest_all(vec![seen("BOB"), seen("BOB"), seen("CAROL").id("mine")]).await?;
        if job.attempt() == 1 {
            return Err(Failure::retry("the answer gets lost"));
        }
        job.attest(seen("DAVE")).await?;
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    let first = job();
    harness.execute(first.clone()).await.expect_failure();
    assert_eq!(harness.claims().len(), 4);
    harness.execute(first.clone().attempt(2)).await.expect_done();
    assert_eq!(harness.claims().len(), 5);
    // Another job makes claims of its own, but not under an id that was given.
    harness.execute(job().attempt(2)).await.expect_done();
    let subjects: Vec<_> = harness.claims().iter().map(|claim| claim.subjects[0].clone()).collect();
    assert_eq!(subjects, ["ALICE", "BOB", "BOB", "CAROL", "DAVE", "ALICE", "BOB", "BOB", "DAVE"]);
}

#[tokio::test]
async fn many_claims_are_made_in_order_and_counted() {
    let plugin = Scripted::new(|job| async move {
        let claims = (0..2_500).map(|n| seen(&format!("s{n}")).id(format!("id-{n}"))).collect();
        let standing = job.attest_all(claims).await?;
        assert_eq!(job.attest_all(Vec::new()).await?, 0);
        Ok(Done::new().result_json(&standing))
    });
    let harness = Harness::start(plugin).await;
    for _ in 0..2 {
        let outcome = harness.execute(job()).await.expect_done();
        assert_eq!(outcome.result_as::<usize>(), 2_500, "repeats included");
    }
    let claims = harness.claims();
    assert_eq!(claims.len(), 2_500);
    assert!(claims.iter().enumerate().all(|(n, claim)| claim.id == format!("id-{n}")));
}

#[tokio::test]
async fn a_claim_that_is_refused_is_named_and_its_batch_falls() {
    let plugin = Scripted::new(|job| async move {
        let mut claims: Vec<_> = (0..1_500).map(|n| seen(&format!("s{n}"))).collect();
        match job.payload_as::<String>()?.as_str() {
            "invalid" => claims[1_200] = seen(""),
            "conflict" => claims[1_200] = seen("other").id("taken"),
            _ => {}
        }
        job.attest_all(claims).await?;
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    harness.append(seen("first").id("taken"));

    // Found before anything is sent.
    let failure = harness.execute(job().payload_json("invalid")).await.expect_failure();
    let reason = "claims[1200]: subjects[0]: 0 bytes; a term has 1 to 1000";
    assert_eq!(failure, Failure::Permanent(reason.into()));
    assert_eq!(harness.claims().len(), 0);

    let conflicting = job();
    let failure = harness.execute(conflicting.clone().payload_json("conflict")).await;
    let reason = "claims[1200]: attestation taken is already in the log as seq 1 and differs";
    assert_eq!(failure.expect_failure(), Failure::Permanent(reason.into()));
    assert_eq!(harness.claims().len(), 1_000, "the batch before it stands");
    harness.execute(conflicting.attempt(2).payload_json("good")).await.expect_done();
    assert_eq!(harness.claims().len(), 1_500);
}

#[tokio::test]
async fn trouble_of_the_host_is_tried_again_and_a_refusal_is_not() {
    let plugin = Scripted::new(|job| async move {
        match job.payload_as::<String>()?.as_str() {
            "exists" => drop(job.exists("x").await?),
            "query" => drop(job.query(Query::default()).await?),
            "batch" => drop(job.attest_all(vec![seen("x")]).await?),
            _ => drop(job.attest(seen("x")).await?),
        }
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    let passing = ["unavailable: a", "resource_exhausted: b", "unauthenticated: c"];
    for call in ["exists", "query", "batch", "attest"] {
        for error in passing {
            harness.fail_next_call(error);
            let failure = harness.execute(job().payload_json(call)).await.expect_failure();
            let Failure::Retry(reason) = failure else { panic!("{call}, {error}: {failure:?}") };
            assert!(reason.ends_with(error), "{reason}");
        }
    }
    for call in ["query", "batch", "attest"] {
        harness.fail_next_call("subjects: at least one is needed");
        let failure = harness.execute(job().payload_json(call)).await.expect_failure();
        assert_eq!(failure, Failure::Permanent("subjects: at least one is needed".into()));
    }
    harness.execute(job().payload_json("attest")).await.expect_done();
}

#[tokio::test]
async fn the_log_is_asked_in_terms_or_in_ax() {
    let plugin = Scripted::new(|job| async move {
        let found = |claims: Vec<axwatch_sdk::Attestation>| -> Vec<String> {
            claims.into_iter().map(|claim| claim.subjects[0].clone()).collect()
        };
        let all = Query::default();
        assert_eq!(found(job.query(all.clone()).await?), ["C", "B", "A"], "newest first");
        assert_eq!(found(job.query(all.clone().limit(2)).await?), ["C", "B"]);
        assert_eq!(found(job.query(all.clone().limit(0)).await?), [""; 0]);
        assert_eq!(found(job.query(all.clone().subject("A").subject("C")).await?), ["C", "A"]);
        assert_eq!(found(job.query(all.clone().predicate("see")).await?), [""; 0], "whole terms");
        assert_eq!(found(job.query(all.clone().context("test").actor("b")).await?), ["B"]);
        let range = all.clone().between(200_000_000_000, 300_000_000_000);
        assert_eq!(found(job.query(range).await?), ["C", "B"]);

        assert_eq!(found(job.query("is seen").await?), ["X"]);
        let unknown = job.query(Query::ax("is new")).await.unwrap_err();
        let says =
            "ax: the harness does not speak AX: say what \"is new\" finds with Harness::answer_ax";
        assert_eq!(unknown, Failure::Permanent(says.into()));
        let both = job.query(Query::ax("is seen").subject("A")).await.unwrap_err();
        assert!(matches!(both, Failure::Permanent(_)), "{both:?}");
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    let when = [("A", 100_000_000_000), ("B", 200_000_000_000), ("C", 300_000_000_000)];
    for (subject, ms) in when {
        harness.append(seen(subject).actor(subject.to_lowercase()).timestamp_ms(ms));
    }
    harness.answer_ax("is seen", [seen("X")]);
    harness.execute(job()).await.expect_done();
    assert!(harness.claims().is_empty(), "what the test gave is not the plugin's");
}

#[tokio::test]
async fn a_long_answer_arrives_whole() {
    let plugin = Scripted::new(|job| async move {
        let found = job.query(Query::default()).await?;
        let bytes: usize = found.iter().map(|claim| claim.attributes["t"].to_string().len()).sum();
        Ok(Done::new().result_json(&(found.len(), bytes > 8 * 1024 * 1024)))
    });
    let harness = Harness::start(plugin).await;
    for n in 0..20 {
        harness.append(seen(&n.to_string()).attribute("t", "v".repeat(500_000)));
    }
    let outcome = harness.execute(job()).await.expect_done();
    assert_eq!(outcome.result_as::<(usize, bool)>(), (20, true));
}

#[tokio::test]
async fn claims_outside_of_a_job_are_new_ones_every_time() {
    let plugin = Scripted::new(|job| async move {
        job.host().attest(seen("x")).await?;
        assert_eq!(job.host().attest_all(vec![seen("x"), seen("x")]).await?, 2);
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    harness.execute(job()).await.expect_done();
    assert_eq!(harness.claims().len(), 3);
}
