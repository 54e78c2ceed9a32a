//! What every store has to do. One list of checks that each backend passes, and a comparison of SQLite
//! with memory under random use.

use std::path::PathBuf;
use std::sync::Arc;

use axwatch_model::{
    Announced, AttestationId, Attributes, Counters, CursorNumber, CursorRow, Declared,
    DefaultActor, Defaults, Draft, HandlerRef, HoldRow, Incoming, JobId, JobNumber, JobOrigin,
    JobRow, JobState, LaneKey, LeafNumber, Lineage, LineageKind, Owner, PassRow, PluginName,
    PluginRow, RefusedRow, RevisionRow, RouteRow, ScheduleRow, Seq, StoreId, Stored,
    StructuralFilter, Timestamp, WatcherKey, WatcherNumber, WatcherRow, WatcherState,
};
use axwatch_query::{AliasChange, AliasChangeKind, Aliases, Filter};
use proptest::prelude::*;

use crate::sqlite::tests::{crashed_copy, open_small};
use crate::store::{PAGE_BYTES_MAX, SEGMENT_BYTES_MAX};
use crate::{
    AliasBook, Appended, AuditRow, Batch, CancelQueued, JobCounts, JobsQuery, LaneQuery,
    MemoryStore, Page, Question, Retention, RetentionPlace, SqliteStore, Store, StoreWriter,
    aliases_before, append,
};

/// A store under test.
struct Subject {
    writer: Box<dyn StoreWriter>,
    /// Where it lies, if anywhere.
    place: Option<(tempfile::TempDir, PathBuf)>,
}

impl Subject {
    fn memory() -> Subject {
        Subject { writer: MemoryStore::new(StoreId([1; 16])), place: None }
    }

    async fn sqlite() -> Subject {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("axwatch.db");
        Subject { writer: open_small(&path).await, place: Some((folder, path)) }
    }

    fn reader(&self) -> Arc<dyn Store> {
        self.writer.reader()
    }

    async fn append(&mut self, claims: Vec<Incoming>) -> Vec<Result<Appended, String>> {
        let outcomes = append(self.writer.as_mut(), claims, at(9_000)).await.unwrap();
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| error.to_string())).collect()
    }

    async fn commit(&mut self, batch: Batch) {
        self.writer.commit(&batch).await.unwrap();
    }

    /// Closes it and opens it again; a store without a place just goes on.
    async fn reopen(self) -> Subject {
        let Some((folder, path)) = self.place else { return self };
        self.writer.close().await.unwrap();
        Subject { writer: open_small(&path).await, place: Some((folder, path)) }
    }

    /// Opens what the disk held at this moment, as after a power cut.
    async fn crash(self) -> Subject {
        let Some((_folder, path)) = &self.place else { return self };
        let copy = crashed_copy(path);
        let path = copy.path().join("axwatch.db");
        Subject { writer: open_small(&path).await, place: Some((copy, path)) }
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms).unwrap()
}

fn claim(id: &str, subject: &str, predicate: &str, time_ms: i64) -> Incoming {
    let draft = Draft {
        id: Some(id.to_owned()),
        subjects: vec![subject.to_owned()],
        predicates: vec![predicate.to_owned()],
        timestamp: Some(at(time_ms)),
        ..Draft::default()
    };
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "test".into() };
    draft.complete(&defaults, "user", at(1), 0).unwrap()
}

fn job_id(n: u64) -> JobId {
    // The high half is the hash, so neighbours share it and must be told apart.
    JobId([(n / 2).to_be_bytes(), n.to_be_bytes()].concat().try_into().unwrap())
}

fn job(number: u64, watcher: Option<u64>) -> JobRow {
    let origin = if watcher.is_some() { JobOrigin::Fire } else { JobOrigin::Api };
    let handler = "git/ixgest.git".into();
    JobRow {
        watcher: watcher.map(WatcherNumber),
        revision: 1,
        seq: watcher.map(|_| Seq(number)),
        ..JobRow::queued(JobNumber(number), job_id(number), origin, handler, at(number as i64))
    }
}

fn structural(subjects: &[&str], predicates: &[&str]) -> Filter {
    let owned = |terms: &[&str]| terms.iter().map(|&term| term.to_owned()).collect();
    Filter::structural(&StructuralFilter {
        subjects: owned(subjects),
        predicates: owned(predicates),
        ..StructuralFilter::default()
    })
}

fn ax(text: &str) -> Filter {
    Filter::declared(&Declared::Ax(text.to_owned())).unwrap().0
}

async fn found(store: &dyn Store, filter: Filter, before: Option<u64>, limit: usize) -> Page {
    store
        .query(&Question { filter, aliases: Arc::default(), before: before.map(Seq), limit })
        .await
        .unwrap()
}

fn seqs(rows: &[Stored]) -> Vec<u64> {
    rows.iter().map(|row| row.seq.0).collect()
}

/// Runs each check against each backend.
macro_rules! conformance {
    ($($check:ident),* $(,)?) => {
        mod memory { $(
            #[tokio::test]
            async fn $check() { super::$check(super::Subject::memory()).await; }
        )* }
        mod sqlite { $(
            #[tokio::test]
            async fn $check() { super::$check(super::Subject::sqlite().await).await; }
        )* }
    };
}

conformance! {
    a_claim_is_found_by_its_id_and_its_number,
    every_field_comes_back,
    appending_again_changes_nothing,
    the_log_is_read_in_order,
    questions_are_answered_newest_first,
    pages_follow_each_other,
    a_page_has_so_many_bytes_and_leaves_nothing_out,
    claims_of_a_job_are_found,
    jobs_are_kept_changed_and_found,
    jobs_are_counted_by_state,
    jobs_are_found_by_the_beginning_of_their_id,
    queued_jobs_of_a_watcher_are_withdrawn,
    jobs_are_found_by_the_claim_that_caused_them,
    passes_move_with_their_cursor,
    holds_of_a_watcher_are_kept,
    watchers_handlers_and_plugins_are_kept,
    what_plugins_announce_is_kept,
    revisions_of_a_watcher_are_kept,
    people_s_changes_of_aliases_are_kept_in_their_place,
    aliases_lead_a_question_to_what_is_one_with_its_words,
    the_first_claim_since_a_time_is_found,
    retention_takes_what_is_old_and_nobody_needs,
    a_late_repeat_of_a_removed_claim_is_still_a_repeat,
    the_audit_is_found_by_its_records,
    readers_see_what_was_committed,
}

async fn a_claim_is_found_by_its_id_and_its_number(mut subject: Subject) {
    let reader = subject.reader();
    let [a, b] = ["a", "b"].map(|id| id.parse::<AttestationId>().unwrap());
    assert_eq!(reader.head().await.unwrap(), Seq(0));
    assert_eq!(reader.get(&a).await.unwrap(), None);
    subject.append(vec![claim("a", "x", "is", 5), claim("c", "y", "is", 6)]).await;
    assert_eq!(reader.head().await.unwrap(), Seq(2));
    assert_eq!(reader.get(&a).await.unwrap().unwrap().attestation.subjects, ["x"]);
    assert!(reader.exists(&a).await.unwrap() && !reader.exists(&b).await.unwrap());
    let rows = reader.by_seqs(&[Seq(2), Seq(7), Seq(0), Seq(1), Seq(2)]).await.unwrap();
    assert_eq!(seqs(&rows), [1, 2]);
    let known = subject.writer.known(&[b, a]).await.unwrap();
    assert_eq!(known.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
}

async fn every_field_comes_back(mut subject: Subject) {
    let mut full = claim("a\"b", "quote \" and \\ and \u{1F680}", "is", -62_000_000_000_000);
    full.attestation.subjects.push("\u{7f}\t".into());
    full.attestation.attributes =
        Attributes::parse(r#"{"n":123456789012345678901234567890,"t":"\u0001]"}"#).unwrap();
    full.attestation.signature = Some(vec![0, 255, 16]);
    full.attestation.signer_did = Some("did:key:z\"6".into());
    full.appended_by = "git".into();
    full.lineage = Lineage {
        kind: LineageKind::Unsure,
        root: Some("root \"1\"".parse().unwrap()),
        parent_job: Some(job_id(3)),
        depth: 7,
        chain: vec![Some(WatcherNumber(3)), None, Some(WatcherNumber(3))],
    };
    let plain = claim("plain", "x", "is", 0);
    subject.append(vec![full.clone(), plain.clone()]).await;
    let rows = subject.reader().read_after(Seq(0), 9).await.unwrap();
    for (seq, (row, given)) in (1..).zip(rows.iter().zip([full, plain])) {
        let Incoming { mut attestation, filled, appended_by, lineage } = given;
        attestation.created_at = at(9_000);
        assert_eq!(*row, Stored { seq: Seq(seq), attestation, appended_by, filled, lineage });
    }
    let mut busy = job(1, Some(4));
    busy.plugin = Some("git".parse().unwrap());
    busy.payload = Some(vec![0, 1, 255].into());
    busy.result = Some(Vec::new().into());
    (busy.state, busy.attempts, busy.counted, busy.uncounted) = (JobState::Running, 3, 2, 1);
    busy.first_counted_at = Some(at(5));
    (busy.started_at, busy.completed_at) = (Some(at(6)), Some(at(7)));
    (busy.due_at, busy.delay_ms) = (Some(at(8)), 9);
    busy.error = Some("a \"b\" \n c".into());
    busy.progress = Some((-1, i32::MAX));
    busy.cost = Some(0.1 + 0.2);
    busy.leaves = vec![LeafNumber(4), LeafNumber(900)];
    subject.commit(Batch { jobs: vec![busy.clone()], ..Batch::default() }).await;
    assert_eq!(subject.reader().job(busy.id).await.unwrap(), Some(busy));
}

async fn appending_again_changes_nothing(mut subject: Subject) {
    let first = subject.append(vec![claim("a", "x", "is", 5)]).await;
    assert_eq!(first, [Ok(Appended { seq: Seq(1), repeated: false })]);
    let again = vec![claim("a", "x", "is", 5), claim("a", "y", "is", 5), claim("b", "y", "is", 5)];
    let expected = [
        Ok(Appended { seq: Seq(1), repeated: true }),
        Err("attestation a is already in the log as seq 1 and differs".to_owned()),
        Ok(Appended { seq: Seq(2), repeated: false }),
    ];
    assert_eq!(subject.append(again).await, expected);
    assert_eq!(subject.reader().head().await.unwrap(), Seq(2));
}

async fn the_log_is_read_in_order(mut subject: Subject) {
    let claims = (1..=120).map(|n| claim(&n.to_string(), "x", "is", n)).collect();
    subject.append(claims).await;
    let reader = subject.reader();
    assert_eq!(seqs(&reader.read_after(Seq(3), 4).await.unwrap()), [4, 5, 6, 7]);
    assert_eq!(seqs(&reader.read_after(Seq(118), 9).await.unwrap()), [119, 120]);
    assert_eq!(reader.read_after(Seq(120), 9).await.unwrap(), []);
    assert_eq!(reader.read_after(Seq(u64::MAX), 9).await.unwrap(), []);
    assert_eq!(reader.read_after(Seq(0), usize::MAX).await.unwrap().len(), 120);
}

async fn questions_are_answered_newest_first(mut subject: Subject) {
    let words = [("ALICE", "author"), ("alice", "Author"), ("Bob", "author"), ("ALICE", "reader")];
    for round in 0..30 {
        let claims = words.iter().enumerate().map(|(i, (subject, predicate))| {
            let n = round * 4 + i as i64 + 1;
            claim(&n.to_string(), subject, predicate, n)
        });
        subject.append(claims.collect()).await;
    }
    let within = |filter: Filter| filter.within(Some(3), Some(6));
    let cases = [
        (ax("alice is author"), None, 4, vec![118, 117, 114, 113]),
        (ax("alice bob is AUTHOR"), Some(8), 9, vec![7, 6, 5, 3, 2, 1]),
        (structural(&["ALICE"], &["author"]), Some(10), 9, vec![9, 5, 1]),
        (structural(&["ALICE", "Bob"], &[]), Some(8), 3, vec![7, 5, 4]),
        (within(ax("alice")), None, 9, vec![6, 5, 4]),
        (within(structural(&[], &[])), None, 9, vec![6, 5, 4, 3]),
        (ax("is not author"), Some(9), 9, vec![8, 4]),
        (ax("nobody"), None, 9, vec![]),
        (ax("alice is nothing"), None, 9, vec![]),
        (ax("alice"), Some(1), 9, vec![]),
        (ax("alice"), Some(0), 9, vec![]),
        (ax("alice"), None, 0, vec![]),
    ];
    for _ in 0..2 {
        let reader = subject.reader();
        for (filter, before, limit, expected) in cases.clone() {
            let page = found(reader.as_ref(), filter.clone(), before, limit).await;
            assert_eq!(seqs(&page.rows), expected, "{filter:?} before {before:?}");
            assert!(page.rows_read >= page.rows.len() as u64, "{filter:?}");
        }
        while subject.writer.tidy().await.unwrap() {}
    }
}

async fn pages_follow_each_other(mut subject: Subject) {
    let claims = (1..=100).map(|n| claim(&n.to_string(), ["x", "y"][n as usize % 2], "is", n));
    subject.append(claims.collect()).await;
    let reader = subject.reader();
    for filter in [ax("y"), structural(&[], &[]).within(Some(1), None)] {
        let (mut all, mut before) = (Vec::new(), None);
        loop {
            let page = found(reader.as_ref(), filter.clone(), before, 7).await;
            all.extend(seqs(&page.rows));
            let Some(next) = page.next else { break };
            before = Some(next.0);
        }
        let expected: Vec<u64> = (1..=100)
            .rev()
            .filter(|n| filter.dimensions().next().is_none() || n % 2 == 1)
            .collect();
        assert_eq!(all, expected);
    }
}

async fn a_page_has_so_many_bytes_and_leaves_nothing_out(mut subject: Subject) {
    const LARGE: usize = 100 * 1024;
    // One at a time, several at once, and in between some that are small.
    let is_large = |n: i64| n % 3 == 0 || n > 80;
    let claims = (1..=100).map(|n| {
        let mut claim = claim(&n.to_string(), ["x", "y"][n as usize % 2], "is", n);
        let padding = if is_large(n) { LARGE } else { 10 };
        let padded = serde_json::json!({ "padding": "x".repeat(padding) }).to_string();
        claim.attestation.attributes = Attributes::parse(&padded).unwrap();
        claim
    });
    subject.append(claims.collect()).await;
    let reader = subject.reader();
    let filters = [ax("y"), structural(&[], &[]).within(Some(1), None)];
    for (filter, limit) in
        filters.into_iter().flat_map(|filter| [(filter.clone(), 90), (filter, 4)])
    {
        let (mut all, mut before) = (Vec::new(), None);
        loop {
            let page = found(reader.as_ref(), filter.clone(), before, limit).await;
            let bytes = |row: &Stored| row.attestation.text_bytes();
            let without_last = page.rows.iter().rev().skip(1).map(bytes).sum::<usize>();
            assert!(without_last <= PAGE_BYTES_MAX, "{without_last} bytes, and one more claim");
            all.extend(seqs(&page.rows));
            let Some(next) = page.next else { break };
            before = Some(next.0);
        }
        let expected =
            (1..=100).rev().filter(|n| filter.dimensions().next().is_none() || n % 2 == 1);
        assert_eq!(all, expected.collect::<Vec<u64>>());
    }
    // Rising as well; there is more than is read at once.
    let (mut all, mut reads) = (Vec::new(), 0);
    loop {
        let rows = reader.read_after(Seq(all.len() as u64), 90).await.unwrap();
        let Some((_, before_last)) = rows.split_last() else { break };
        let bytes: usize = before_last.iter().map(|row| row.attestation.text_bytes()).sum();
        assert!(bytes <= SEGMENT_BYTES_MAX, "{bytes} bytes, and one more claim");
        all.extend(seqs(&rows));
        reads += 1;
    }
    assert_eq!(all, (1..=100).collect::<Vec<u64>>());
    assert!(reads > 1);
}

async fn claims_of_a_job_are_found(mut subject: Subject) {
    for n in 0..60 {
        let mut made = claim(&n.to_string(), "x", "is", n);
        made.lineage.parent_job = (n % 3 > 0).then(|| job_id(n as u64 % 3));
        subject.append(vec![made]).await;
    }
    let rows = subject.reader().made_by(job_id(2), 100).await.unwrap().first;
    assert_eq!(seqs(&rows), (1..=60).filter(|seq| seq % 3 == 0).collect::<Vec<_>>());
    assert_eq!(subject.reader().made_by(job_id(9), 1).await.unwrap().all, 0);
}

async fn jobs_are_kept_changed_and_found(mut subject: Subject) {
    let jobs: Vec<_> = (1..=8).map(|n| job(n, (n % 2 == 0).then_some(n % 4))).collect();
    subject.commit(Batch { jobs: jobs.clone(), ..Batch::default() }).await;
    let mut done = jobs[3].clone();
    done.state = JobState::Completed;
    let mut later = jobs[5].clone();
    later.due_at = Some(at(100));
    let mut running = jobs[0].clone();
    running.state = JobState::Running;
    let changed = vec![running.clone(), done.clone(), later, job(9, Some(2))];
    subject.commit(Batch { jobs: changed, ..Batch::default() }).await;
    let reader = subject.reader();
    let numbers = |jobs: Vec<JobRow>| jobs.iter().map(|job| job.number.0).collect::<Vec<_>>();
    assert_eq!(reader.job(job_id(4)).await.unwrap(), Some(done));
    assert_eq!(reader.job(job_id(1)).await.unwrap(), Some(running));
    assert_eq!(reader.job(job_id(99)).await.unwrap(), None);
    let open = reader.open_jobs(JobNumber(1), 6).await.unwrap();
    assert_eq!(numbers(open), [2, 3, 5, 6, 7, 8]);
    let lane = |watcher: Option<u64>, due_by| LaneQuery {
        lane: LaneKey {
            watcher: watcher.map(WatcherNumber),
            generation: 0,
            handler: "git/ixgest.git".into(),
        },
        from: JobNumber(2),
        due_by: at(due_by),
        limit: 2,
    };
    assert_eq!(numbers(reader.lane_jobs(&lane(Some(2), 99)).await.unwrap()), [2, 9]);
    assert_eq!(numbers(reader.lane_jobs(&lane(Some(2), 100)).await.unwrap()), [2, 6]);
    assert_eq!(numbers(reader.lane_jobs(&lane(None, 0)).await.unwrap()), [3, 5]);
    let mut of_replay = lane(Some(2), 100);
    of_replay.lane.generation = 1;
    assert_eq!(reader.lane_jobs(&of_replay).await.unwrap(), []);
    subject
        .writer
        .commit(&Batch {
            jobs: vec![JobRow { generation: 1, ..job(10, Some(2)) }],
            ..Batch::default()
        })
        .await
        .unwrap();
    assert_eq!(numbers(reader.lane_jobs(&of_replay).await.unwrap()), [10]);
    assert_eq!(numbers(reader.lane_jobs(&lane(Some(2), 100)).await.unwrap()), [2, 6]);
    let any = JobsQuery { limit: 100, ..JobsQuery::default() };
    let between =
        JobsQuery { before: Some(JobNumber(8)), after: Some(JobNumber(5)), ..any.clone() };
    let cases = [
        (JobsQuery { limit: 2, ..any.clone() }, vec![10, 9]),
        (between, vec![7, 6]),
        (JobsQuery { state: Some(JobState::Completed), ..any.clone() }, vec![4]),
        (JobsQuery { state: Some(JobState::Paused), ..any.clone() }, vec![]),
        (JobsQuery { watcher: Some(WatcherNumber(2)), ..any.clone() }, vec![10, 9, 6, 2]),
        (JobsQuery { fires_only: true, ..any }, vec![10, 9, 8, 6, 4, 2]),
    ];
    for (query, expected) in cases {
        assert_eq!(numbers(reader.jobs(&query).await.unwrap()), expected, "{query:?}");
    }
}

async fn jobs_are_counted_by_state(mut subject: Subject) {
    assert_eq!(subject.reader().job_counts().await.unwrap(), JobCounts::default());
    let states = [
        JobState::Completed,
        JobState::Failed,
        JobState::Queued,
        JobState::Completed,
        JobState::Cancelled,
        JobState::Failed,
        JobState::Running,
        JobState::Completed,
    ];
    let jobs = (1..).zip(states).map(|(n, state)| JobRow { state, ..job(n, None) }).collect();
    let open_jobs_from = Some(JobNumber(3));
    subject.commit(Batch { jobs, open_jobs_from, ..Batch::default() }).await;
    let expected = JobCounts { queued: 1, running: 1, completed: 3, failed: 2, cancelled: 1 };
    assert_eq!(subject.reader().job_counts().await.unwrap(), expected);
    // A dead letter is tried again, and ends well.
    let again = |state| Batch {
        jobs: vec![JobRow { state, ..job(2, None) }],
        open_jobs_from: Some(JobNumber(2)),
        ..Batch::default()
    };
    subject.commit(again(JobState::Queued)).await;
    let expected = JobCounts { queued: 2, failed: 1, ..expected };
    assert_eq!(subject.reader().job_counts().await.unwrap(), expected);
    subject.commit(again(JobState::Completed)).await;
    let subject = subject.reopen().await;
    let expected = JobCounts { queued: 1, completed: 4, ..expected };
    assert_eq!(subject.reader().job_counts().await.unwrap(), expected);
}

async fn jobs_are_found_by_the_beginning_of_their_id(mut subject: Subject) {
    let id = |text: &str| JobId(text.parse::<JobId>().unwrap().0);
    let ids = [
        "80ab0000000000000000000000000001",
        "7fff0000000000000000000000000002",
        "80ab0000000000010000000000000003",
        "80ab0000000000010000000000000004",
        "ffff0000000000000000000000000005",
    ];
    let jobs = (1..).zip(ids).map(|(n, text)| JobRow { id: id(text), ..job(n, None) }).collect();
    subject.commit(Batch { jobs, ..Batch::default() }).await;
    let cases: [(&str, &[u64]); 8] = [
        ("80ab", &[1, 3, 4]),
        ("80AB000000000001", &[3, 4]),
        ("80ab0000000000010000000000000004", &[4]),
        ("80ab000000000001000000000000000", &[3, 4]),
        ("7fff", &[2]),
        ("ffff", &[5]),
        ("0000", &[]),
        ("80ac", &[]),
    ];
    for _ in 0..2 {
        for (prefix, expected) in cases {
            let prefix = prefix.parse().unwrap();
            let found = subject.reader().jobs_beginning(&prefix, 10).await.unwrap();
            let found: Vec<_> = found.iter().map(|job| job.number.0).collect();
            assert_eq!(found, expected, "{prefix}");
        }
        subject = subject.reopen().await;
    }
    let two = subject.reader().jobs_beginning(&"80ab".parse().unwrap(), 2).await.unwrap();
    assert_eq!(two.len(), 2);
}

async fn queued_jobs_of_a_watcher_are_withdrawn(mut subject: Subject) {
    let mut jobs: Vec<_> = (1..=7).map(|n| job(n, Some(n % 2))).collect();
    jobs[4].state = JobState::Running;
    jobs[5].generation = 3;
    jobs[6].generation = 3;
    subject.commit(Batch { jobs, ..Batch::default() }).await;
    let of_generation = |watcher, generation| CancelQueued {
        watcher: WatcherNumber(watcher),
        from: JobNumber(2),
        generation,
        at: at(77),
        reason: "its watcher was retired".into(),
    };
    let back = job(4, Some(0));
    let cancelled = vec![of_generation(1, None), of_generation(0, Some(3))];
    subject.commit(Batch { cancelled, jobs: vec![back], ..Batch::default() }).await;
    let jobs = subject.reader().jobs(&JobsQuery { limit: 9, ..JobsQuery::default() }).await;
    let told: Vec<_> = jobs
        .unwrap()
        .into_iter()
        .map(|job| (job.number.0, job.state, job.completed_at.is_some(), job.error.is_some()))
        .collect();
    let queued = |number| (number, JobState::Queued, false, false);
    let cancelled = |number| (number, JobState::Cancelled, true, true);
    let expected = [
        cancelled(7),
        cancelled(6),
        (5, JobState::Running, false, false),
        queued(4),
        cancelled(3),
        queued(2),
        queued(1),
    ];
    assert_eq!(told, expected);
}

async fn jobs_are_found_by_the_claim_that_caused_them(mut subject: Subject) {
    let of = |number: u64, seq: u64| JobRow { seq: Some(Seq(seq)), ..job(number, Some(1)) };
    for number in 1..=60 {
        subject.commit(Batch { jobs: vec![of(number, number % 7)], ..Batch::default() }).await;
    }
    let asked = job(61, None);
    let changed = JobRow { state: JobState::Failed, ..of(3, 3) };
    subject.commit(Batch { jobs: vec![asked, changed.clone()], ..Batch::default() }).await;
    for _ in 0..2 {
        let jobs = subject.reader().jobs_of(Seq(3), 100).await.unwrap().first;
        let numbers: Vec<_> = jobs.iter().map(|job| job.number.0).collect();
        assert_eq!(numbers, [3, 10, 17, 24, 31, 38, 45, 52, 59]);
        assert_eq!(jobs[0], changed);
        assert_eq!(subject.reader().jobs_of(Seq(7), 9).await.unwrap().all, 0);
        while subject.writer.tidy().await.unwrap() {}
        subject = subject.reopen().await;
    }
}

async fn passes_move_with_their_cursor(mut subject: Subject) {
    let pass = |watcher: u64, generation, cursor: Option<u64>| PassRow {
        watcher: WatcherNumber(watcher),
        generation,
        from_seq: Seq(4),
        until_seq: Some(Seq(90)).filter(|_| generation > 0),
        cursor: cursor.map(CursorNumber),
        started_at: at(5),
        ended_at: cursor.is_none().then(|| at(8)),
        stopped: Some("a \"person\"".to_owned()).filter(|_| cursor.is_none()),
    };
    let cursor = |number, seq| CursorRow { number: CursorNumber(number), seq: Seq(seq) };
    let replay = pass(1, 2, Some(6));
    subject
        .commit(Batch {
            passes: vec![replay.clone(), pass(2, 0, Some(5)), pass(1, 0, Some(5))],
            cursors: vec![cursor(5, 10), cursor(6, 11)],
            ..Batch::default()
        })
        .await;
    subject.commit(Batch { cursors: vec![cursor(5, 20)], ..Batch::default() }).await;
    let mut subject = subject.reopen().await;
    let expected =
        [(pass(1, 0, Some(5)), Seq(20)), (replay.clone(), Seq(11)), (pass(2, 0, Some(5)), Seq(20))];
    assert_eq!(subject.reader().passes().await.unwrap(), expected);
    let ended = pass(1, 2, None);
    subject
        .commit(Batch {
            passes: vec![ended.clone(), pass(3, 0, Some(7))],
            passes_gone: vec![(WatcherNumber(2), 0), (WatcherNumber(1), 1)],
            cursors: vec![cursor(7, 0)],
            cursors_gone: vec![CursorNumber(6)],
            ..Batch::default()
        })
        .await;
    let reader = subject.reader();
    let expected = [(pass(1, 0, Some(5)), Seq(20)), (pass(3, 0, Some(7)), Seq(0))];
    assert_eq!(reader.passes().await.unwrap(), expected);
    let expected = [(pass(1, 0, Some(5)), Some(Seq(20))), (ended, None)];
    assert_eq!(reader.passes_of(WatcherNumber(1)).await.unwrap(), expected);
    assert_eq!(reader.passes_of(WatcherNumber(2)).await.unwrap(), []);
}

async fn holds_of_a_watcher_are_kept(mut subject: Subject) {
    let hold = |watcher: u64, number| HoldRow {
        watcher: WatcherNumber(watcher),
        number,
        kind: if number == 1 { WatcherState::Muted } else { WatcherState::Paused },
        drops: number == 1,
        at: at(3),
        until: Some(at(9)).filter(|_| number == 1),
        from_seq: Seq(4),
        from_job: JobNumber(5),
        ended_at: None,
        to_seq: None,
        to_job: None,
    };
    subject.commit(Batch { holds: vec![hold(2, 1), hold(1, 1)], ..Batch::default() }).await;
    let ended = HoldRow {
        ended_at: Some(at(7)),
        to_seq: Some(Seq(6)),
        to_job: Some(JobNumber(7)),
        ..hold(1, 1)
    };
    subject.commit(Batch { holds: vec![ended.clone(), hold(1, 2)], ..Batch::default() }).await;
    let over = |number| HoldRow { ended_at: Some(at(8)), drops: false, ..hold(3, number) };
    subject.commit(Batch { holds: vec![over(1), over(2)], ..Batch::default() }).await;
    let subject = subject.reopen().await;
    let reader = subject.reader();
    let needed = [ended.clone(), hold(1, 2), hold(2, 1), over(2)];
    assert_eq!(reader.holds().await.unwrap(), needed);
    assert_eq!(reader.holds_of(WatcherNumber(1)).await.unwrap(), [ended, hold(1, 2)]);
    assert_eq!(reader.holds_of(WatcherNumber(4)).await.unwrap(), []);
}

fn watcher(number: u64, owner: Owner) -> WatcherRow {
    WatcherRow {
        number: WatcherNumber(number),
        key: WatcherKey { owner, local: "new \"docs\"".parse().unwrap() },
        revision: 2,
        generation: 1,
        last_generation: 4,
        declared: Declared::Ax("ALICE is author".into()),
        handlers: vec![HandlerRef { declared: "notify.log".into(), plugin: None }],
        params: Some(r#"{"a":1}"#.into()),
        max_fires_per_second: Some(100_000),
        max_chain: None,
        max_attempts: Some(7).filter(|_| number == 1),
        max_age_ms: Some(86_400_000).filter(|_| number == 1),
        state: WatcherState::WaitingForHandler,
        error: None,
        since_seq: Seq(5),
        created_at: at(1),
        updated_at: at(2),
    }
}

async fn revisions_of_a_watcher_are_kept(mut subject: Subject) {
    let row = |watcher: u64, revision: u64| RevisionRow {
        watcher: WatcherNumber(watcher),
        revision,
        generation: 1,
        declared: Declared::Ax("ALICE is 'a \"b\"'".into()),
        handlers: vec!["notify.log".into(), "a/b".into()],
        max_fires_per_second: Some(5).filter(|_| revision == 2),
        at: at(3),
        leaf: Some(LeafNumber(7)).filter(|_| revision == 2),
        since_seq: Seq(4),
        from_seq: Seq(4 + revision),
        retired_seq: None,
    };
    subject
        .commit(Batch { revisions: vec![row(1, 1), row(2, 1), row(1, 2)], ..Batch::default() })
        .await;
    subject
        .commit(Batch {
            revisions: vec![row(1, 3)],
            retired: vec![(WatcherNumber(1), 2, Seq(9)), (WatcherNumber(1), 3, Seq(10))],
            ..Batch::default()
        })
        .await;
    let subject = subject.reopen().await;
    let found = subject.reader().revisions(WatcherNumber(1)).await.unwrap();
    let retired = |revision, seq| RevisionRow { retired_seq: Some(Seq(seq)), ..row(1, revision) };
    assert_eq!(found, [row(1, 1), retired(2, 9), retired(3, 10)]);
    assert_eq!(subject.reader().revisions(WatcherNumber(2)).await.unwrap(), [row(2, 1)]);
    assert_eq!(subject.reader().revisions(WatcherNumber(3)).await.unwrap(), []);
    let between = subject.reader().revisions_between(WatcherNumber(1), WatcherNumber(3)).await;
    assert_eq!(between.unwrap(), [&found[..], &[row(2, 1)]].concat());
}

fn link(words: &[&str]) -> AliasChange {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    AliasChange { kind: AliasChangeKind::Link, words }
}

fn change(id: &str, change: &AliasChange) -> Incoming {
    let mut claim = claim(id, AliasChange::SUBJECT, change.predicate(), 5);
    claim.attestation.attributes = Attributes::parse(&change.attributes()).unwrap();
    claim
}

async fn people_s_changes_of_aliases_are_kept_in_their_place(mut subject: Subject) {
    let first = link(&["NY", "New \"York\""]);
    let unlink = AliasChange { kind: AliasChangeKind::Unlink, words: vec!["NY".into()] };
    let mut of_plugin = change("p", &link(&["a", "b"]));
    of_plugin.appended_by = "git".into();
    subject.append(vec![claim("a", "x", "is", 5), change("b", &first), of_plugin]).await;
    let book = AliasBook::new();
    assert_eq!(book.at_head(&*subject.reader()).await.unwrap().1.class_of("ny").len(), 2);
    subject.append(vec![change("c", &unlink), change("d", &link(&["c", "d"]))]).await;
    assert_eq!(book.at_head(&*subject.reader()).await.unwrap().1.class_of("ny").len(), 0);
    let subject = subject.reopen().await;
    let reader = subject.reader();
    let expected = [(Seq(2), first), (Seq(4), unlink), (Seq(5), link(&["c", "d"]))];
    assert_eq!(reader.alias_changes(Seq(0)).await.unwrap(), expected);
    assert_eq!(reader.alias_changes(Seq(2)).await.unwrap(), expected[1..]);
    // A change is in force after its own claim.
    for (seq, words) in [(2, 0), (3, 2), (4, 2), (5, 0)] {
        let aliases = aliases_before(&*reader, Seq(seq)).await.unwrap();
        assert_eq!(aliases.class_of("ny").len(), words, "{seq}");
    }
}

async fn aliases_lead_a_question_to_what_is_one_with_its_words(mut subject: Subject) {
    let claims = [("a", "NY", "is"), ("b", "nyc", "is"), ("c", "Boston", "is"), ("d", "x", "ny")];
    let claims = claims.map(|(id, subject, predicate)| claim(id, subject, predicate, 5));
    subject.append(claims.into()).await;
    let mut aliases = Aliases::default();
    aliases.apply(&link(&["NYC", "New York"]));
    aliases.apply(&link(&["NY", "New York"]));
    let aliases = Arc::new(aliases);
    let cases: [(Filter, &[u64]); 5] = [
        (ax("'new york'"), &[2, 1]),
        (ax("NYC boston"), &[3, 2, 1]),
        (ax("is 'new york'"), &[]),
        (ax("is ny"), &[4]),
        (structural(&["NY"], &[]), &[1]),
    ];
    for (filter, expected) in cases {
        let question = Question { filter, aliases: aliases.clone(), before: None, limit: 9 };
        let page = subject.reader().query(&question).await.unwrap();
        assert_eq!(seqs(&page.rows), expected, "{question:?}");
    }
}

async fn the_first_claim_since_a_time_is_found(mut subject: Subject) {
    subject.append(vec![claim("a", "x", "is", 5), claim("b", "x", "is", 5)]).await;
    let reader = subject.reader();
    for (time, expected) in [(0, Some(1)), (9_000, Some(1)), (9_001, None)] {
        assert_eq!(reader.first_since(at(time)).await.unwrap(), expected.map(Seq), "{time}");
    }
}

/// Takes away all that may go, and answers how many claims and jobs that were.
async fn retain(subject: &mut Subject, before: Timestamp, below: u64) -> (usize, usize) {
    let mut retention = Retention { before, below: Seq(below), from: RetentionPlace::default() };
    let (mut claims, mut jobs) = (0, 0);
    loop {
        let removal = subject.writer.removable(&retention).await.unwrap();
        claims += removal.claims.len();
        jobs += removal.jobs.len();
        let next = removal.next;
        subject.commit(Batch { removal: Some(removal), ..Batch::default() }).await;
        let Some(next) = next else { return (claims, jobs) };
        retention.from = next;
    }
}

async fn retention_takes_what_is_old_and_nobody_needs(mut subject: Subject) {
    let of = |number: u64, seq: u64, state: JobState, ended: Option<i64>| JobRow {
        seq: Some(Seq(seq)),
        state,
        completed_at: ended.map(at),
        ..job(number, Some(1))
    };
    let words = ["x", "y", "z"];
    let claims = (1..=20).map(|n| match n {
        7 => change("7", &link(&["a", "b"])),
        n => claim(&n.to_string(), words[n as usize % 3], "is", n),
    });
    // Half of them at 9,000 by our clock, and half later.
    let mut claims: Vec<_> = claims.collect();
    let later = claims.split_off(10);
    subject.append(claims).await;
    append(subject.writer.as_mut(), later, at(10_000)).await.unwrap();
    let jobs = vec![
        of(1, 1, JobState::Completed, Some(9_500)),
        of(2, 2, JobState::Failed, Some(9_500)),
        of(3, 3, JobState::Queued, None),
        of(4, 4, JobState::Running, None),
        of(5, 5, JobState::Cancelled, Some(9_500)),
        of(6, 6, JobState::Completed, Some(9_700)),
        of(7, 6, JobState::Completed, Some(9_500)),
        of(8, 12, JobState::Completed, Some(9_500)),
        of(9, 8, JobState::Completed, Some(9_500)),
    ];
    subject.commit(Batch { jobs, open_jobs_from: Some(JobNumber(3)), ..Batch::default() }).await;

    assert_eq!(retain(&mut subject, at(9_000), 20).await, (0, 0), "nothing is that old");
    // Numbers 1, 5 and 9 lead to claims that go; 9 is the last job, and stays with its claim.
    assert_eq!(retain(&mut subject, at(9_600), 9).await, (3, 4));
    let stays = [2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];
    for _ in 0..2 {
        let reader = subject.reader();
        assert_eq!(reader.head().await.unwrap(), Seq(20));
        assert_eq!(seqs(&reader.read_after(Seq(0), 99).await.unwrap()), stays);
        assert_eq!(seqs(&reader.read_after(Seq(4), 3).await.unwrap()), [6, 7, 8]);
        let all: Vec<Seq> = (1..=20).map(Seq).collect();
        assert_eq!(seqs(&reader.by_seqs(&all).await.unwrap()), stays);
        let found_x = found(reader.as_ref(), ax("x"), None, 99).await;
        assert_eq!(seqs(&found_x.rows), [18, 15, 12, 6, 3]);
        let found_y = found(reader.as_ref(), ax("y"), Some(12), 2).await;
        assert_eq!(seqs(&found_y.rows), [10, 4]);
        assert_eq!(reader.first_since(at(0)).await.unwrap(), Some(Seq(2)));
        assert!(!reader.exists(&"5".parse().unwrap()).await.unwrap());
        assert_eq!(reader.alias_changes(Seq(0)).await.unwrap().len(), 1);
        let expected = JobCounts { queued: 1, running: 1, completed: 2, failed: 1, cancelled: 0 };
        assert_eq!(reader.job_counts().await.unwrap(), expected);
        assert_eq!(reader.job(job_id(5)).await.unwrap(), None);
        assert_eq!(reader.jobs_of(Seq(6), 9).await.unwrap().all, 1);
        assert_eq!(reader.jobs_of(Seq(1), 9).await.unwrap().all, 0);
        let jobs = reader.jobs(&JobsQuery { limit: 99, ..JobsQuery::default() }).await.unwrap();
        let numbers: Vec<_> = jobs.iter().map(|job| job.number.0).collect();
        assert_eq!(numbers, [9, 6, 4, 3, 2]);
        subject = subject.reopen().await;
    }
    assert_eq!(retain(&mut subject, at(20_000), 99).await, (11, 1));
    assert_eq!(seqs(&subject.reader().read_after(Seq(0), 99).await.unwrap()), [2, 3, 4, 7, 8, 20]);
    let new = subject.append(vec![claim("new", "x", "is", 1)]).await;
    assert_eq!(new, [Ok(Appended { seq: Seq(21), repeated: false })]);
}

async fn a_late_repeat_of_a_removed_claim_is_still_a_repeat(mut subject: Subject) {
    let claims =
        || (1..=90).map(|n| claim(&n.to_string(), &(n % 7).to_string(), "is", n)).collect();
    subject.append(claims()).await;
    assert_eq!(retain(&mut subject, at(20_000), 80).await, (80, 0));
    for _ in 0..2 {
        let repeated: Vec<u64> = subject
            .append(claims())
            .await
            .into_iter()
            .map(|outcome| outcome.unwrap())
            .map(|appended| if appended.repeated { appended.seq.0 } else { 0 })
            .collect();
        assert_eq!(repeated, (1..=90).collect::<Vec<_>>());
        let other = subject.append(vec![claim("5", "other", "is", 5)]).await;
        let conflict = "attestation 5 is already in the log as seq 5 and differs";
        assert_eq!(other, [Err(conflict.to_owned())]);
        subject = subject.reopen().await;
    }
    assert_eq!(subject.reader().head().await.unwrap(), Seq(90));
}

async fn watchers_handlers_and_plugins_are_kept(mut subject: Subject) {
    let mut of_git = watcher(2, Owner::Plugin("git".parse().unwrap()));
    of_git.declared = Declared::Structural(StructuralFilter {
        subjects: vec!["a'b".into()],
        ..StructuralFilter::default()
    });
    let git_row = |incarnation| PluginRow {
        name: "git".parse().unwrap(),
        version: "1.2.3".into(),
        incarnation,
        up_at: Some(at(5)),
        disabled_at: None,
        called_back: incarnation == 2,
        doubted_until: Some(at(7)),
    };
    // Nobody ever saw it up.
    let off = PluginRow {
        name: "off".parse().unwrap(),
        version: String::new(),
        incarnation: 0,
        up_at: None,
        disabled_at: Some(at(6)),
        called_back: false,
        doubted_until: None,
    };
    let counters = |fires| Counters { matches: 9, fires, errors: 1, last_fired_at: Some(at(3)) };
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    subject
        .commit(Batch {
            watchers: vec![of_git.clone(), watcher(1, Owner::User)],
            handlers: vec![
                ("git".parse().unwrap(), names(&["a", "b", "a"])),
                ("bot".parse().unwrap(), names(&["z"])),
            ],
            plugins: vec![git_row(1), off.clone()],
            counters: Some((
                LeafNumber(4),
                vec![(WatcherNumber(2), counters(1)), (WatcherNumber(1), Counters::default())],
            )),
            ..Batch::default()
        })
        .await;
    of_git.state = WatcherState::Retired;
    subject
        .commit(Batch {
            watchers: vec![of_git.clone()],
            handlers: vec![("git".parse().unwrap(), names(&["c"]))],
            plugins: vec![git_row(2)],
            counters: Some((LeafNumber(5), vec![(WatcherNumber(2), counters(2))])),
            ..Batch::default()
        })
        .await;
    let subject = subject.reopen().await;
    let reader = subject.reader();
    let watchers = reader.watchers().await.unwrap();
    assert_eq!(watchers, [watcher(1, Owner::User), of_git]);
    for (after, limit, expected) in
        [(0, 1, &watchers[..1]), (0, 9, &watchers[..]), (1, 9, &watchers[1..]), (2, 9, &[])]
    {
        let found = reader.watchers_after(WatcherNumber(after), limit).await.unwrap();
        assert_eq!(found, expected, "after {after}, up to {limit}");
    }
    let expected = [(WatcherNumber(1), Counters::default()), (WatcherNumber(2), counters(2))];
    assert_eq!(reader.counters().await.unwrap(), expected);
    let handlers: Vec<_> = reader
        .handlers()
        .await
        .unwrap()
        .into_iter()
        .map(|row| format!("{}/{}", row.plugin, row.name))
        .collect();
    assert_eq!(handlers, ["bot/z", "git/c"]);
    assert_eq!(reader.plugins().await.unwrap(), [git_row(2), off]);
}

async fn what_plugins_announce_is_kept(mut subject: Subject) {
    let name = |name: &str| -> PluginName { name.parse().unwrap() };
    let schedule = |owner: Owner, handler: &str, interval_secs| ScheduleRow {
        owner,
        name: handler.parse().unwrap(),
        handler: handler.parse().unwrap(),
        interval_secs,
        enabled_by_default: true,
        description: "every 'so' often\n".into(),
        ats_code: "x is y".into(),
        declared_at: at(1),
        changed_at: at(2),
        retired_at: None,
    };
    let git = || Owner::Plugin(name("git"));
    let route = |method: &str, path: &str| RouteRow {
        method: method.into(),
        path: path.into(),
        description: "it's one".into(),
    };
    let refused =
        |kind, name: &str| RefusedRow { kind, name: name.into(), reason: format!("{name}: no") };
    subject
        .commit(Batch {
            schedules: vec![
                schedule(git(), "poll", 60),
                schedule(git(), "clean", 0),
                schedule(Owner::User, "poll", u32::MAX),
            ],
            routes: vec![
                (name("git"), vec![route("POST", "/b"), route("GET", "/b"), route("GET", "/a")]),
                (name("git-hub"), vec![route("GET", "/a")]),
            ],
            refused: vec![
                (
                    name("git"),
                    vec![refused(Announced::Route, "z"), refused(Announced::Watcher, "")],
                ),
                (name("git-hub"), vec![refused(Announced::Schedule, "s")]),
            ],
            ..Batch::default()
        })
        .await;
    let gone = ScheduleRow { retired_at: Some(at(9)), ..schedule(git(), "poll", 30) };
    subject
        .commit(Batch {
            schedules: vec![gone.clone()],
            routes: vec![(name("git"), vec![route("GET", "/c")])],
            refused: vec![(name("git"), vec![refused(Announced::Handler, "h")])],
            ..Batch::default()
        })
        .await;
    let subject = subject.reopen().await;
    let reader = subject.reader();
    let expected = [schedule(git(), "clean", 0), gone, schedule(Owner::User, "poll", u32::MAX)];
    assert_eq!(reader.schedules().await.unwrap(), expected);
    let expected = [(name("git"), route("GET", "/c")), (name("git-hub"), route("GET", "/a"))];
    assert_eq!(reader.routes().await.unwrap(), expected);
    let expected = [
        (name("git"), vec![refused(Announced::Handler, "h")]),
        (name("git-hub"), vec![refused(Announced::Schedule, "s")]),
    ];
    assert_eq!(reader.refused().await.unwrap(), expected);
}

async fn the_audit_is_found_by_its_records(mut subject: Subject) {
    assert_eq!(subject.reader().audit_last().await.unwrap(), None);
    assert_eq!(subject.reader().audit_head().await.unwrap(), None);
    let row = |first_leaf, count: u64| AuditRow {
        first_leaf: LeafNumber(first_leaf),
        count,
        at: at(first_leaf as i64),
        records: "{}\n{\"a\":\"\u{e9}\"}".into(),
        nodes: vec![first_leaf as u8; 32 * count as usize].into(),
        head: [count as u8; 32],
    };
    for (first_leaf, count) in [(0, 3), (3, 1), (4, 2)] {
        subject.commit(Batch { audit: Some(row(first_leaf, count)), ..Batch::default() }).await;
        let head = Some((first_leaf + count, [count as u8; 32]));
        assert_eq!(subject.reader().audit_head().await.unwrap(), head);
    }
    subject.commit(Batch { matched_seq: Some(Seq(0)), ..Batch::default() }).await;
    let subject = subject.reopen().await;
    assert_eq!(subject.reader().audit_head().await.unwrap(), Some((6, [2; 32])));
    let reader = subject.reader();
    assert_eq!(reader.audit_last().await.unwrap(), Some(row(4, 2)));
    for (leaf, expected) in [(0, Some(0)), (2, Some(0)), (3, Some(3)), (5, Some(4)), (6, None)] {
        let found = reader.audit_row(LeafNumber(leaf)).await.unwrap();
        assert_eq!(found.map(|row| row.first_leaf.0), expected, "leaf {leaf}");
    }
    for (from, limit, expected) in [
        (0, 2, vec![0, 3]),
        (2, 9, vec![0, 3, 4]),
        (3, 1, vec![3]),
        (5, 9, vec![4]),
        (6, 9, vec![]),
    ] {
        let rows = reader.audit_after(LeafNumber(from), limit).await.unwrap();
        let firsts: Vec<_> = rows.iter().map(|row| row.first_leaf.0).collect();
        assert_eq!(firsts, expected, "from {from}");
    }
}

async fn readers_see_what_was_committed(mut subject: Subject) {
    let reader = subject.reader();
    for n in 1..=150_u64 {
        subject.append(vec![claim(&n.to_string(), "x", "is", n as i64)]).await;
        let page = found(reader.as_ref(), ax("x"), None, 2).await;
        let expected: Vec<u64> = (1..=n).rev().take(2).collect();
        assert_eq!(seqs(&page.rows), expected);
    }
    let room = subject.writer.room().unwrap();
    assert!(room.free_bytes > 0 && room.total_bytes >= room.free_bytes);
    subject.writer.close().await.unwrap();
}

/// Something that happens to a store.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Incoming>),
    /// Numbers of jobs, rising: those beyond the last are new, the others change.
    Jobs(Vec<(u64, JobState, Option<u64>, Option<i64>)>),
    Cancel(u64, u64, Option<u32>),
    /// Up to this claim, with jobs that ended before this time.
    Retain(u64, i64),
    Ask(Filter, Option<u64>, usize),
    AskJobs(JobsQuery, LaneQuery),
    Tidy,
    Reopen,
    Crash,
}

fn any_claim() -> impl Strategy<Value = Incoming> {
    let words = ["Alice", "ALICE", "bob", "straße", "STRASSE", "_"];
    let word = || proptest::sample::select(words.to_vec());
    let words = move || proptest::collection::vec(word(), 1..3);
    (0..80_u32, words(), words(), words(), 0..50_i64, 0..6_u64).prop_map(
        |(id, subjects, predicates, contexts, time_ms, parent)| {
            let mut claim = claim(&id.to_string(), "x", "is", time_ms / 10);
            let owned = |terms: Vec<&str>| terms.into_iter().map(str::to_owned).collect();
            claim.attestation.subjects = owned(subjects);
            claim.attestation.predicates = owned(predicates);
            claim.attestation.contexts = owned(contexts);
            claim.lineage.parent_job = (parent > 3).then(|| job_id(parent));
            claim
        },
    )
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let word = || proptest::sample::select(vec!["alice", "ALICE", "bob", "Straße", "_", "nobody"]);
    let words = move |most| proptest::collection::vec(word(), 0..most);
    let bounds = (proptest::option::of(0..5_i64), proptest::option::of(0..5_i64));
    (any::<bool>(), words(3), words(3), words(2), bounds).prop_map(
        |(folded, subjects, predicates, not, (start, end))| {
            let filter = if folded {
                let clause = |keyword: &str, words: &[&str]| match words {
                    [] => String::new(),
                    words => format!("{keyword} '{}' ", words.join("' '")),
                };
                let text = [
                    clause("", &subjects),
                    clause("is", &predicates),
                    clause("of not", &not),
                    clause("so", &["notify"]),
                ];
                ax(&text.concat())
            } else {
                structural(&subjects, &predicates)
            };
            filter.within(start, end)
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let states = proptest::sample::select(vec![
        JobState::Queued,
        JobState::Queued,
        JobState::Running,
        JobState::Completed,
    ]);
    let watcher = || proptest::option::of(0..3_u64);
    let jobs = proptest::collection::vec(
        (0..60_u64, states, watcher(), proptest::option::of(0..9_i64)),
        1..40,
    );
    let number = || proptest::option::of(0..50_u64);
    let ask_jobs = (number(), number(), any::<bool>(), watcher(), 0..20_usize, 0..9_i64).prop_map(
        |(before, after, fires_only, watcher, limit, due_by)| {
            let jobs = JobsQuery {
                before: before.map(JobNumber),
                after: after.map(JobNumber),
                state: (limit % 2 == 0).then_some(JobState::Queued),
                watcher: watcher.map(WatcherNumber),
                fires_only,
                limit,
            };
            let lane = LaneQuery {
                lane: LaneKey {
                    watcher: watcher.map(WatcherNumber),
                    generation: limit as u32 % 3,
                    handler: "git/ixgest.git".into(),
                },
                from: JobNumber(after.unwrap_or(0)),
                due_by: at(due_by),
                limit,
            };
            Step::AskJobs(jobs, lane)
        },
    );
    let ask = (any_filter(), proptest::option::of(0..200_u64), 0..40_usize);
    prop_oneof![
        4 => proptest::collection::vec(any_claim(), 1..60).prop_map(Step::Append),
        2 => jobs.prop_map(Step::Jobs),
        1 => (0..3_u64, 0..50_u64, proptest::option::of(0..2_u32))
            .prop_map(|(watcher, from, generation)| Step::Cancel(watcher, from, generation)),
        1 => (0..200_u64, proptest::sample::select(vec![3_i64, 9_001]))
            .prop_map(|(below, before)| Step::Retain(below, before)),
        6 => ask.prop_map(|(filter, before, limit)| Step::Ask(filter, before, limit)),
        2 => ask_jobs,
        3 => Just(Step::Tidy),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// The two stores, and what they agree on so far.
struct Pair {
    memory: Subject,
    sqlite: Subject,
    /// A reader of the SQLite store that knows nothing of its writer.
    stranger: Arc<dyn Store>,
    last_job: u64,
}

impl Pair {
    async fn new() -> Pair {
        let sqlite = Subject::sqlite().await;
        let stranger = stranger(&sqlite).await;
        Pair { memory: Subject::memory(), sqlite, stranger, last_job: 0 }
    }

    fn readers(&self) -> [Arc<dyn Store>; 3] {
        [self.memory.reader(), self.sqlite.reader(), self.stranger.clone()]
    }

    async fn commit(&mut self, batch: Batch) {
        self.memory.commit(batch.clone()).await;
        self.sqlite.commit(batch).await;
    }

    async fn take(mut self, step: Step) -> Result<Pair, TestCaseError> {
        match step {
            Step::Append(claims) => {
                let expected = self.memory.append(claims.clone()).await;
                prop_assert_eq!(self.sqlite.append(claims).await, expected);
            }
            Step::Jobs(changes) => {
                let batch = Batch { jobs: self.changed_jobs(changes).await, ..Batch::default() };
                self.commit(batch).await;
            }
            Step::Cancel(watcher, from, generation) => {
                let cancel = CancelQueued {
                    watcher: WatcherNumber(watcher),
                    from: JobNumber(from),
                    generation,
                    at: at(5),
                    reason: "withdrawn".into(),
                };
                self.commit(Batch { cancelled: vec![cancel], ..Batch::default() }).await;
            }
            Step::Retain(below, before) => {
                let expected = retain(&mut self.memory, at(before), below).await;
                prop_assert_eq!(retain(&mut self.sqlite, at(before), below).await, expected);
                prop_assert_eq!(
                    self.sqlite.reader().job_counts().await.unwrap(),
                    self.memory.reader().job_counts().await.unwrap()
                );
            }
            Step::Ask(filter, before, limit) => self.ask(filter, before, limit).await?,
            Step::AskJobs(jobs, lane) => self.ask_jobs(&jobs, &lane).await?,
            Step::Tidy => drop(self.sqlite.writer.tidy().await.unwrap()),
            Step::Reopen => {
                self.sqlite = self.sqlite.reopen().await;
                self.stranger = stranger(&self.sqlite).await;
            }
            Step::Crash => {
                self.sqlite = self.sqlite.crash().await;
                self.stranger = stranger(&self.sqlite).await;
            }
        }
        Ok(self)
    }

    async fn changed_jobs(
        &mut self,
        changes: Vec<(u64, JobState, Option<u64>, Option<i64>)>,
    ) -> Vec<JobRow> {
        let mut rows = std::collections::BTreeMap::new();
        let last_before = self.last_job;
        for (number, state, watcher, due_at) in changes {
            let number = if number == 0 || number > self.last_job {
                self.last_job += 1;
                self.last_job
            } else {
                number
            };
            // What is gone does not come back.
            let all = JobsQuery {
                before: Some(JobNumber(number + 1)),
                after: Some(JobNumber(number - 1)),
                limit: 1,
                ..JobsQuery::default()
            };
            let is_there = !self.memory.reader().jobs(&all).await.unwrap().is_empty();
            let is_new = number > last_before;
            if !is_there && !is_new {
                continue;
            }
            let mut row = job(number, watcher);
            row.state = state;
            row.due_at = due_at.map(at);
            row.completed_at = due_at.map(at);
            row.generation = (number % 3) as u32;
            row.seq = (number % 5 > 0).then_some(Seq(number / 2));
            rows.insert(number, row);
        }
        rows.into_values().collect()
    }

    async fn ask(
        &self,
        filter: Filter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(), TestCaseError> {
        let [memory, others @ ..] = self.readers();
        let expected = found(memory.as_ref(), filter.clone(), before, limit).await;
        let after = Seq(before.unwrap_or(3));
        let some_id: AttestationId = limit.to_string().parse().unwrap();
        for other in others {
            let page = found(other.as_ref(), filter.clone(), before, limit).await;
            prop_assert_eq!(&page.rows, &expected.rows);
            prop_assert_eq!(page.next, expected.next);
            prop_assert_eq!(other.head().await.unwrap(), memory.head().await.unwrap());
            prop_assert_eq!(
                other.get(&some_id).await.unwrap(),
                memory.get(&some_id).await.unwrap()
            );
            prop_assert_eq!(
                other.read_after(after, limit).await.unwrap(),
                memory.read_after(after, limit).await.unwrap()
            );
            prop_assert_eq!(
                other.made_by(job_id(5), 2).await.unwrap(),
                memory.made_by(job_id(5), 2).await.unwrap()
            );
        }
        Ok(())
    }

    async fn ask_jobs(&self, jobs: &JobsQuery, lane: &LaneQuery) -> Result<(), TestCaseError> {
        let [memory, others @ ..] = self.readers();
        let some_id = job_id(lane.from.0);
        for other in others {
            prop_assert_eq!(other.jobs(jobs).await.unwrap(), memory.jobs(jobs).await.unwrap());
            prop_assert_eq!(
                other.lane_jobs(lane).await.unwrap(),
                memory.lane_jobs(lane).await.unwrap()
            );
            prop_assert_eq!(
                other.open_jobs(lane.from, lane.limit).await.unwrap(),
                memory.open_jobs(lane.from, lane.limit).await.unwrap()
            );
            prop_assert_eq!(
                other.jobs_of(Seq(lane.from.0), 2).await.unwrap(),
                memory.jobs_of(Seq(lane.from.0), 2).await.unwrap()
            );
            prop_assert_eq!(other.job(some_id).await.unwrap(), memory.job(some_id).await.unwrap());
        }
        Ok(())
    }
}

async fn stranger(subject: &Subject) -> Arc<dyn Store> {
    let (_, path) = subject.place.as_ref().expect("SQLite has a place");
    SqliteStore::open_reader(path).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Whatever happens, SQLite answers as memory does, and so does a reader that came later.
    #[test]
    fn sqlite_answers_as_memory_does(steps in proptest::collection::vec(any_step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new().await;
            for step in steps {
                pair = pair.take(step).await?;
            }
            pair.ask(structural(&[], &[]).within(Some(0), None), None, usize::MAX).await?;
            pair.ask(ax("alice"), None, 1_000).await
        })?;
    }
}
