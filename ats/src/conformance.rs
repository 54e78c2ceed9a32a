//! What every store has to do. One list of checks that each backend passes, and a comparison of SQLite
//! with memory under random use.

use std::path::PathBuf;
use std::sync::Arc;

use axwatch_model::{
    Ancestor, Announced, Asked, Asker, AttestationId, Attributes, BudgetRow, BudgetScope, Counters,
    CursorNumber, CursorRow, Declared, DefaultActor, Defaults, Draft, Grid, HandlerChangeKind,
    HandlerChangeRow, HandlerRef, HandlerSpendRow, HoldRow, Incoming, JobEntryRow, JobId,
    JobNumber, JobOrigin, JobRow, JobState, LaneKey, LeafNumber, Lineage, LineageKind, Missed,
    OpenAsked, Overlap, Owner, Parent, PassRow, Place, PluginName, PluginRow, RefusedRow,
    RevisionRow, RouteRow, RunOutcome, ScheduleId, ScheduleRow, ScheduleRun, ScheduleRunRow,
    ScheduleState, Seq, SpendRow, StoreId, Stored, StructuralFilter, Timestamp, WatcherKey,
    WatcherNumber, WatcherRow, WatcherState,
};
use axwatch_query::{AliasChange, AliasChangeKind, Aliases, Filter};
use futures::TryStreamExt as _;
use proptest::prelude::*;

use crate::sqlite::tests::{crashed_copy, open_small};
use crate::store::{PAGE_BYTES_MAX, SEGMENT_BYTES_MAX};
use crate::{
    AliasBook, Appended, AuditRow, Batch, CancelQueued, JOBS_LOOKED_AT, JobCounts, JobsQuery,
    LaneQuery, MemoryStore, Page, Question, ROWS_FORGOTTEN_MAX, RUNS_KEPT, Retention,
    RetentionPlace, SqliteStore, Store, StoreWriter, Withdrawn, aliases_before, append,
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

const HANDLER: &str = "git/ixgest.git";

/// A fire, or without a watcher a job that a person asked for.
fn job(number: u64, watcher: Option<u64>) -> JobRow {
    let origin = if watcher.is_some() { JobOrigin::Fire } else { JobOrigin::Api };
    JobRow {
        watcher: watcher.map(WatcherNumber),
        revision: 1,
        seq: watcher.map(|_| Seq(number)),
        asked: watcher.is_none().then(|| Box::new(asked(Asker::User, number as i64))),
        ..JobRow::queued(
            JobNumber(number),
            job_id(number),
            origin,
            HANDLER.into(),
            at(number as i64),
        )
    }
}

fn asked(by: Asker, base_ms: i64) -> Asked {
    Asked {
        owner: match &by {
            Asker::Plugin(plugin) => Owner::Plugin(plugin.clone()),
            _ => Owner::User,
        },
        by,
        source: "".into(),
        priority: 0,
        base_ms,
        parent: None,
        schedule: None,
        cost_estimate: None,
    }
}

/// A job that was asked for in this way.
fn asked_job(number: u64, asked: Asked) -> JobRow {
    JobRow { asked: Some(Box::new(asked)), ..job(number, None) }
}

fn parent(number: u64) -> Option<Parent> {
    Some(Parent { number: JobNumber(number), id: job_id(number) })
}

fn place(rank: i64, number: u64) -> Place {
    Place { rank, number: JobNumber(number) }
}

fn plugin(name: &str) -> PluginName {
    name.parse().unwrap()
}

fn numbers(jobs: &[JobRow]) -> Vec<u64> {
    jobs.iter().map(|job| job.number.0).collect()
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
    jobs_are_withdrawn_one_by_one,
    asked_jobs_wait_in_the_order_of_their_places,
    open_jobs_are_known_at_a_start,
    jobs_know_their_kin,
    jobs_are_searched_by_who_asked_for_what,
    a_search_for_few_of_many_jobs_goes_on_page_by_page,
    what_a_job_carries_is_written_once,
    what_a_job_said_is_kept_with_it,
    a_parent_stays_as_long_as_its_children,
    jobs_are_found_by_the_claim_that_caused_them,
    passes_move_with_their_cursor,
    holds_of_a_watcher_are_kept,
    watchers_handlers_and_plugins_are_kept,
    what_plugins_announce_is_kept,
    changes_of_stored_handlers_are_kept,
    schedules_are_kept_with_their_history,
    budgets_and_spending_are_kept,
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
    (busy.entries, busy.entries_bytes) = (3, u32::MAX);
    let all = Asked {
        source: "it's \"one\"\n".into(),
        priority: -10,
        parent: parent(1),
        schedule: Some(ScheduleRun { id: ScheduleId([0xfe; 16]), nominal: Some(at(-5)) }),
        cost_estimate: Some(0.1 + 0.2),
        ..asked(Asker::Plugin(plugin("git")), i64::MIN)
    };
    let by_hand = Asked {
        schedule: Some(ScheduleRun { id: ScheduleId([0; 16]), nominal: None }),
        priority: 10,
        ..asked(Asker::Schedule, i64::MAX)
    };
    let scheduled = JobRow { origin: JobOrigin::Schedule, ..asked_job(2, by_hand) };
    let mut of_plugin = JobRow { origin: JobOrigin::Plugin, ..asked_job(3, all) };
    (of_plugin.state, of_plugin.payload) = (JobState::Paused, Some(Vec::new().into()));
    let jobs = vec![busy, scheduled, of_plugin];
    subject.commit(Batch { jobs: jobs.clone(), ..Batch::default() }).await;
    for job in jobs {
        assert_eq!(subject.reader().job(job.id).await.unwrap(), Some(job));
    }
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
    let numbers = |jobs: Vec<JobRow>| numbers(&jobs);
    assert_eq!(reader.job(job_id(4)).await.unwrap(), Some(done));
    assert_eq!(reader.job(job_id(1)).await.unwrap(), Some(running));
    assert_eq!(reader.job(job_id(99)).await.unwrap(), None);
    let open = reader.open_jobs(JobNumber(1), 6).await.unwrap();
    assert_eq!(numbers(open), [2, 3, 5, 6, 7, 8]);
    let lane = |watcher: Option<u64>, due_by| LaneQuery {
        lane: LaneKey {
            watcher: watcher.map(WatcherNumber),
            generation: 0,
            handler: HANDLER.into(),
            asker: watcher.is_none().then_some(Asker::User),
        },
        from: place(if watcher.is_some() { 0 } else { 2 }, 2),
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
        (JobsQuery { states: vec![JobState::Completed], ..any.clone() }, vec![4]),
        (JobsQuery { states: vec![JobState::Paused], ..any.clone() }, vec![]),
        (JobsQuery { states: vec![JobState::Paused, JobState::Running], ..any.clone() }, vec![1]),
        (JobsQuery { states: vec![JobState::Queued], limit: 3, ..any.clone() }, vec![10, 9, 8]),
        (
            JobsQuery { states: vec![JobState::Completed, JobState::Running], ..any.clone() },
            vec![4, 1],
        ),
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
    let expected =
        JobCounts { queued: 1, running: 1, paused: 0, completed: 3, failed: 2, cancelled: 1 };
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
    jobs[2].state = JobState::Paused;
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

async fn jobs_are_withdrawn_one_by_one(mut subject: Subject) {
    let in_state = |number, state| JobRow {
        state,
        payload: Some(vec![1].into()),
        due_at: Some(at(5)),
        delay_ms: 6,
        leaves: vec![LeafNumber(7)],
        ..job(number, None)
    };
    let jobs = vec![
        in_state(1, JobState::Queued),
        in_state(2, JobState::Paused),
        in_state(3, JobState::Running),
        in_state(4, JobState::Queued),
    ];
    subject.commit(Batch { jobs: jobs.clone(), ..Batch::default() }).await;
    let of = |number| Withdrawn {
        number: JobNumber(number),
        leaf: LeafNumber(number + 10),
        at: at(77),
        reason: "its \"parent\"".into(),
    };
    let withdrawn = vec![of(2), of(1), of(3), of(99)];
    subject.commit(Batch { withdrawn, ..Batch::default() }).await;
    let expected = |number: u64| JobRow {
        state: JobState::Cancelled,
        completed_at: Some(at(77)),
        error: Some("its \"parent\"".into()),
        due_at: None,
        delay_ms: 0,
        leaves: vec![LeafNumber(7), LeafNumber(number + 10)],
        ..jobs[number as usize - 1].clone()
    };
    let expected = [jobs[3].clone(), jobs[2].clone(), expected(2), expected(1)];
    let all = JobsQuery { limit: 9, ..JobsQuery::default() };
    assert_eq!(subject.reader().jobs(&all).await.unwrap(), expected);
    let bare = expected.map(|row| JobRow { payload: None, ..row });
    let query = JobsQuery { bare: true, ..all };
    assert_eq!(subject.reader().jobs(&query).await.unwrap(), bare);
}

async fn asked_jobs_wait_in_the_order_of_their_places(mut subject: Subject) {
    let by_git = || Asker::Plugin(plugin("git"));
    let of = |number: u64, by: Asker, priority: i8, base_ms: i64| {
        asked_job(number, Asked { priority, ..asked(by, base_ms) })
    };
    let step = 600_000;
    let jobs = vec![
        of(1, by_git(), 0, 10 * step),
        of(2, Asker::User, 0, 0),
        of(3, Asker::User, 0, 0),
        // As many as ten levels ahead of those that came up to 100 minutes before it.
        of(4, Asker::User, 10, 10 * step - 1),
        of(5, Asker::User, -1, -step),
        JobRow { due_at: Some(at(9)), ..of(6, Asker::User, 1, 0) },
        JobRow { state: JobState::Paused, ..of(7, Asker::User, 10, 0) },
        JobRow { state: JobState::Running, ..of(8, Asker::User, 10, 0) },
        JobRow { handler: "notify/log".into(), ..of(9, Asker::User, 10, 0) },
        of(10, Asker::Schedule, 10, 0),
        job(11, Some(1)),
        job(12, Some(1)),
    ];
    let lane = |by| LaneKey { asker: Some(by), watcher: None, ..jobs[10].lane() };
    let fires = jobs[10].lane();
    subject.commit(Batch { jobs: jobs.clone(), ..Batch::default() }).await;
    let subject = subject.reopen().await;
    let reader = subject.reader();
    let cases = [
        (lane(Asker::User), place(i64::MIN, 0), 9, vec![6, 4, 2, 3, 5]),
        (lane(Asker::User), place(i64::MIN, 0), 8, vec![4, 2, 3, 5]),
        (lane(Asker::User), jobs[2].place(), 9, vec![3, 5]),
        (lane(Asker::User), place(0, 4), 9, vec![5]),
        (lane(Asker::User), place(1, 0), 9, vec![]),
        (lane(by_git()), place(0, 0), 9, vec![1]),
        (lane(Asker::Schedule), place(i64::MIN, 0), 9, vec![10]),
        (lane(Asker::Plugin(plugin("zoo"))), place(i64::MIN, 0), 9, vec![]),
        (fires.clone(), place(0, 12), 9, vec![12]),
    ];
    for (lane, from, due_by, expected) in cases {
        let query = LaneQuery { lane, from, due_by: at(due_by), limit: 9 };
        assert_eq!(numbers(&reader.lane_jobs(&query).await.unwrap()), expected, "{query:?}");
        let first = LaneQuery { limit: 1, ..query };
        let found = reader.lane_jobs(&first).await.unwrap();
        assert_eq!(numbers(&found), expected[..1.min(expected.len())], "{first:?}");
    }
    let ahead = [
        (lane(Asker::User), Place::FIRST, jobs[4].place(), 4),
        (lane(Asker::User), Place::FIRST, jobs[1].place(), 2),
        (lane(Asker::User), jobs[1].place(), jobs[4].place(), 2),
        (lane(Asker::User), jobs[2].place(), jobs[4].place(), 1),
        (lane(Asker::User), jobs[4].place(), jobs[1].place(), 0),
        (lane(Asker::User), Place::FIRST, place(i64::MAX, 0), 5),
        (lane(by_git()), Place::FIRST, jobs[0].place(), 0),
        (fires.clone(), Place::FIRST, jobs[11].place(), 1),
        (fires, jobs[11].place(), jobs[11].place(), 0),
    ];
    for (lane, from, of, expected) in ahead {
        let counted = reader.ahead(&lane, from, of).await.unwrap();
        assert_eq!(counted, expected, "from {from:?} to {of:?} in {lane:?}");
    }
}

async fn open_jobs_are_known_at_a_start(mut subject: Subject) {
    let in_state = |state, job: JobRow| JobRow { state, ..job };
    let payload = |n| Some(vec![n; 9].into());
    let jobs = vec![
        JobRow { payload: payload(1), ..job(1, None) },
        in_state(JobState::Completed, job(2, None)),
        in_state(JobState::Failed, job(3, Some(1))),
        in_state(JobState::Running, job(4, None)),
        in_state(JobState::Cancelled, job(5, Some(1))),
        in_state(JobState::Paused, job(6, Some(1))),
        in_state(JobState::Paused, JobRow { plugin: Some(plugin("git")), ..job(7, None) }),
        job(8, Some(1)),
        in_state(JobState::Completed, job(9, Some(1))),
    ];
    // Those that were asked for do not hold the mark back.
    let open_jobs_from = Some(JobNumber(6));
    subject.commit(Batch { jobs: jobs.clone(), open_jobs_from, ..Batch::default() }).await;
    let subject = subject.reopen().await;
    let reader = subject.reader();
    let row = |number: u64| &jobs[number as usize - 1];
    let asked = |number: u64| OpenAsked::of(row(number)).unwrap();
    assert_eq!((asked(4).lane(), asked(4).place()), (row(4).lane(), row(4).place()));
    for (after, limit, open, fires, asked_for) in [
        (0, 9, vec![1, 4, 6, 7, 8], vec![6, 8], vec![1, 4, 7]),
        (0, 2, vec![1, 4], vec![6, 8], vec![1, 4]),
        (4, 2, vec![6, 7], vec![6, 8], vec![7]),
        (7, 9, vec![8], vec![8], vec![]),
        (8, 9, vec![], vec![], vec![]),
    ] {
        let after = JobNumber(after);
        let which = format!("{limit} after {after}");
        assert_eq!(numbers(&reader.open_jobs(after, limit).await.unwrap()), open, "{which}");
        assert_eq!(numbers(&reader.open_fires(after, limit).await.unwrap()), fires, "{which}");
        let expected: Vec<_> = asked_for.into_iter().map(asked).collect();
        assert_eq!(reader.open_asked(after, limit).await.unwrap(), expected, "{which}");
    }
    let expected =
        JobCounts { queued: 2, running: 1, paused: 2, completed: 2, failed: 1, cancelled: 1 };
    assert_eq!(reader.job_counts().await.unwrap(), expected);
    let open = JobsQuery {
        states: vec![JobState::Queued, JobState::Paused],
        limit: 9,
        ..JobsQuery::default()
    };
    assert_eq!(numbers(&reader.jobs(&open).await.unwrap()), [8, 7, 6, 1]);
}

async fn jobs_know_their_kin(mut subject: Subject) {
    let child = |number: u64, of: u64, state| JobRow {
        state,
        ..asked_job(number, Asked { parent: parent(of), ..asked(Asker::User, 0) })
    };
    let (done, open) = (JobState::Completed, JobState::Queued);
    let jobs = vec![
        JobRow { state: done, ..job(1, Some(1)) },
        child(2, 1, done),
        child(3, 2, JobState::Cancelled),
        child(4, 3, JobState::Running),
        child(5, 4, JobState::Paused),
        child(6, 1, done),
        JobRow { state: done, ..job(7, None) },
        child(8, 7, done),
        child(9, 2, JobState::Failed),
        // Its parent is not there.
        child(10, 99, open),
    ];
    subject.commit(Batch { jobs: jobs.clone(), ..Batch::default() }).await;
    let reader = subject.reader();
    let ancestor = |number: u64, above: Option<u64>| Ancestor {
        number: JobNumber(number),
        id: job_id(number),
        state: if number == 3 { JobState::Cancelled } else { done },
        parent: above.and_then(parent),
    };
    let expected = [ancestor(1, None), ancestor(2, Some(1)), ancestor(3, Some(2))];
    assert_eq!(reader.open_ancestors().await.unwrap(), expected);
    for (of, limit, first, all) in
        [(1, 9, vec![2, 6], 2), (2, 1, vec![3], 2), (5, 9, vec![], 0), (99, 9, vec![10], 1)]
    {
        let found = reader.children(JobNumber(of), limit).await.unwrap();
        assert_eq!((numbers(&found.first), found.all), (first, all), "of {of}");
    }
    for (of, above) in
        [(5, vec![4, 3, 2, 1]), (3, vec![2, 1]), (1, vec![]), (10, vec![]), (77, vec![])]
    {
        let found = reader.above(JobNumber(of)).await.unwrap();
        assert_eq!(numbers(&found), above, "of {of}");
    }
    let nearest = reader.above(JobNumber(2)).await.unwrap();
    assert_eq!(nearest, jobs[..1], "it has nothing that is left out");
    subject.commit(Batch { jobs: vec![child(4, 3, done)], ..Batch::default() }).await;
    let found = subject.reader().open_ancestors().await.unwrap();
    assert_eq!(found, [&expected[..], &[ancestor(4, Some(3))]].concat());
    let ended = vec![child(5, 4, done), child(10, 99, done)];
    subject.commit(Batch { jobs: ended, ..Batch::default() }).await;
    assert_eq!(subject.reader().open_ancestors().await.unwrap(), []);
}

async fn jobs_are_searched_by_who_asked_for_what(mut subject: Subject) {
    let (git, zoo) = (plugin("git"), plugin("zoo"));
    let of = |by: &PluginName| asked(Asker::Plugin(by.clone()), 0);
    let run = |n| Some(ScheduleRun { id: ScheduleId([n; 16]), nominal: Some(at(5)) });
    let at_plugin = |plugin: &PluginName, handler: &str, row: JobRow| JobRow {
        plugin: Some(plugin.clone()),
        handler: handler.into(),
        ..row
    };
    let scheduled = Asked { schedule: run(1), ..asked(Asker::Schedule, 0) };
    let of_zoo = Asked { owner: Owner::Plugin(zoo.clone()), schedule: run(2), ..scheduled.clone() };
    let jobs = vec![
        at_plugin(&git, "git/work", asked_job(1, Asked { source: "a".into(), ..of(&zoo) })),
        at_plugin(&git, "git/work", asked_job(2, Asked { source: "b".into(), ..of(&git) })),
        at_plugin(&zoo, "zoo/work", asked_job(3, Asked { parent: parent(1), ..of(&git) })),
        at_plugin(&git, "git/a/b", asked_job(4, Asked { source: "a".into(), ..of_zoo })),
        at_plugin(&zoo, "zoo/rest", asked_job(5, scheduled)),
        JobRow { state: JobState::Failed, ..at_plugin(&git, "work", job(6, Some(1))) },
        at_plugin(&zoo, "rest", job(7, Some(1))),
        JobRow { plugin: None, handler: "work".into(), ..job(8, Some(2)) },
    ];
    subject.commit(Batch { jobs, ..Batch::default() }).await;
    let reader = subject.reader();
    let any = JobsQuery { limit: 9, ..JobsQuery::default() };
    let handler = |name: &str| JobsQuery { handler: Some(name.parse().unwrap()), ..any.clone() };
    let asker = |by| JobsQuery { asker: Some(by), ..any.clone() };
    let parent = |number| JobsQuery { parent: Some(JobNumber(number)), ..any.clone() };
    let cases = [
        (handler("work"), vec![8, 6, 3, 2, 1]),
        (handler("a/b"), vec![4]),
        (handler("b"), vec![]),
        (JobsQuery { plugin: Some(git.clone()), ..any.clone() }, vec![6, 4, 2, 1]),
        (JobsQuery { plugin: Some(git.clone()), ..handler("work") }, vec![6, 2, 1]),
        (JobsQuery { own: Some(zoo.clone()), ..any.clone() }, vec![7, 5, 4, 3, 1]),
        (JobsQuery { own: Some(plugin("nobody")), ..any.clone() }, vec![]),
        (asker(Asker::User), vec![]),
        (asker(Asker::Schedule), vec![5, 4]),
        (asker(Asker::Plugin(git)), vec![3, 2]),
        (JobsQuery { source: Some("a".into()), ..any.clone() }, vec![4, 1]),
        (JobsQuery { source: Some("".into()), ..any.clone() }, vec![5, 3]),
        (parent(1), vec![3]),
        (parent(3), vec![]),
        (JobsQuery { schedule: Some(ScheduleId([2; 16])), ..any.clone() }, vec![4]),
        (JobsQuery { schedule: Some(ScheduleId([3; 16])), ..any.clone() }, vec![]),
    ];
    for (query, expected) in cases {
        assert_eq!(numbers(&reader.jobs(&query).await.unwrap()), expected, "{query:?}");
        let open = JobsQuery { states: vec![JobState::Queued], ..query };
        let expected: Vec<u64> = expected.into_iter().filter(|number| *number != 6).collect();
        assert_eq!(numbers(&reader.jobs(&open).await.unwrap()), expected, "{open:?}");
        let failed =
            JobsQuery { states: vec![JobState::Failed], plugin: Some(zoo.clone()), ..open };
        assert_eq!(reader.jobs(&failed).await.unwrap(), [], "{failed:?}");
    }
}

fn entry(job: u64, number: u32) -> JobEntryRow {
    JobEntryRow {
        job: JobNumber(job),
        number,
        at: at(number.into()),
        attempt: 1 + number / 2,
        level: "info".into(),
        stage: "fetch \"it\"".into(),
        message: format!("line {number}\n").into(),
        metadata: number.is_multiple_of(2).then(|| r#"{"n":1}"#.into()),
    }
}

async fn what_a_job_said_is_kept_with_it(mut subject: Subject) {
    let said = |numbers: &[(u64, u32)]| -> Vec<JobEntryRow> {
        numbers.iter().map(|(job, number)| entry(*job, *number)).collect()
    };
    let jobs = vec![job(1, None), job(2, None), job(3, Some(1))];
    let entries = said(&[(2, 1), (2, 2), (1, 1)]);
    subject.commit(Batch { jobs, entries, ..Batch::default() }).await;
    let later = (3..=120).map(|number| entry(2, number)).collect();
    subject.commit(Batch { entries: later, ..Batch::default() }).await;
    let mut subject = subject.reopen().await;
    for (job, after, limit, expected) in [
        (2, 0, 3, said(&[(2, 1), (2, 2), (2, 3)])),
        (2, 118, 9, said(&[(2, 119), (2, 120)])),
        (2, 120, 9, vec![]),
        (2, u32::MAX, 9, vec![]),
        (1, 0, 9, said(&[(1, 1)])),
        (3, 0, 9, vec![]),
    ] {
        let found = subject.reader().entries(JobNumber(job), after, limit).await.unwrap();
        assert_eq!(found, expected, "{limit} of {job} after {after}");
    }
    let ended = JobRow { state: JobState::Completed, completed_at: Some(at(5)), ..job(2, None) };
    subject.commit(Batch { jobs: vec![ended], ..Batch::default() }).await;
    assert_eq!(retain(&mut subject, at(6), 0).await, (0, 1));
    assert_eq!(subject.reader().entries(JobNumber(2), 0, 9).await.unwrap(), []);
    assert_eq!(subject.reader().entries(JobNumber(1), 0, 9).await.unwrap().len(), 1);
}

async fn a_search_for_few_of_many_jobs_goes_on_page_by_page(mut subject: Subject) {
    let step = JOBS_LOOKED_AT / 4;
    let mine = |number: u64| number % 5 == 1;
    let jobs = (1..=10)
        .map(|n: u64| JobRow { plugin: mine(n).then(|| plugin("git")), ..job(n * step, Some(1)) });
    subject.commit(Batch { jobs: jobs.collect(), ..Batch::default() }).await;
    let query = |before, after, limit| JobsQuery {
        before,
        after,
        own: Some(plugin("git")),
        limit,
        ..JobsQuery::default()
    };
    // (after, rows wanted at once, what each page has, in steps)
    let cases: [(u64, usize, &[&[u64]]); 4] = [
        (0, 9, &[&[], &[6], &[1]]),
        (0, 1, &[&[], &[6], &[], &[1], &[]]),
        (5, 9, &[&[], &[6]]),
        (10, 9, &[&[]]),
    ];
    for (after, limit, pages) in cases {
        let (mut before, mut found) = (None, Vec::new());
        loop {
            let asked = query(before, Some(JobNumber(after * step)), limit);
            let (rows, next) = subject.reader().jobs_page(&asked).await.unwrap();
            found.push(numbers(&rows).into_iter().map(|number| number / step).collect::<Vec<_>>());
            before = next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(found, pages, "{limit} after {after}");
    }
    // An index leads to the first of those that are meant, however many others come before it.
    let failed = JobRow { state: JobState::Failed, completed_at: Some(at(5)), ..job(step, None) };
    subject.commit(Batch { jobs: vec![failed], ..Batch::default() }).await;
    for (state, first) in [(JobState::Failed, 1), (JobState::Cancelled, 0)] {
        let asked = JobsQuery { states: vec![state], limit: 9, ..JobsQuery::default() };
        let (rows, next) = subject.reader().jobs_page(&asked).await.unwrap();
        assert_eq!((rows.len(), next), (first, None), "{state}");
    }
}

async fn what_a_job_carries_is_written_once(mut subject: Subject) {
    let large: Arc<[u8]> = vec![7; 4 * 1024 * 1024].into();
    let given = |number, payload: &Arc<[u8]>| JobRow {
        payload: Some(payload.clone()),
        ..asked_job(number, asked(Asker::User, 0))
    };
    let jobs = vec![given(1, &large), given(2, &Arc::default()), job(3, None), job(4, Some(1))];
    subject.commit(Batch { jobs: jobs.clone(), ..Batch::default() }).await;
    // From here on the rows are written without it.
    let changed = |job: &JobRow| JobRow {
        state: JobState::Paused,
        error: Some("later".into()),
        payload: None,
        ..job.clone()
    };
    subject.commit(Batch { jobs: jobs.iter().map(changed).collect(), ..Batch::default() }).await;
    let mut subject = subject.reopen().await;
    let reader = subject.reader();
    for job in &jobs {
        let expected = JobRow { payload: job.payload.clone(), ..changed(job) };
        assert_eq!(reader.job(job.id).await.unwrap(), Some(expected));
        assert_eq!(reader.job_to_change(job.id).await.unwrap(), Some(changed(job)));
        assert_eq!(reader.payload(job.number).await.unwrap(), job.payload);
    }
    assert_eq!(reader.payload(JobNumber(9)).await.unwrap(), None);
    let queued = JobRow { state: JobState::Queued, ..changed(&jobs[0]) };
    subject.commit(Batch { jobs: vec![queued.clone()], ..Batch::default() }).await;
    let (lane, from) = (queued.lane(), Place::default());
    let query = LaneQuery { lane, from, due_by: at(i64::from(u32::MAX)), limit: 9 };
    assert_eq!(reader.lane_jobs(&query).await.unwrap(), [queued]);
    // It goes with its job.
    let ended =
        JobRow { state: JobState::Completed, completed_at: Some(at(5)), ..changed(&jobs[0]) };
    subject.commit(Batch { jobs: vec![ended], ..Batch::default() }).await;
    assert_eq!(retain(&mut subject, at(6), 0).await, (0, 1));
    let reader = subject.reader();
    assert_eq!(reader.payload(JobNumber(1)).await.unwrap(), None);
    assert_eq!(reader.payload(JobNumber(2)).await.unwrap().as_deref(), Some(&[][..]));
}

async fn a_parent_stays_as_long_as_its_children(mut subject: Subject) {
    subject.append(vec![claim("a", "x", "is", 5), claim("b", "x", "is", 5)]).await;
    let ended =
        |row: JobRow| JobRow { state: JobState::Completed, completed_at: Some(at(5)), ..row };
    let child =
        |number, of| asked_job(number, Asked { parent: parent(of), ..asked(Asker::User, 0) });
    let jobs = vec![
        ended(job(1, Some(1))),
        ended(child(2, 1)),
        ended(child(3, 2)),
        child(4, 3),
        ended(job(5, None)),
        job(6, None),
    ];
    subject.commit(Batch { jobs, ..Batch::default() }).await;
    assert_eq!(retain(&mut subject, at(20_000), 9).await, (0, 1));
    subject.commit(Batch { jobs: vec![ended(child(4, 3))], ..Batch::default() }).await;
    // All of them, from below; and the claim of the first.
    assert_eq!(retain(&mut subject, at(20_000), 9).await, (1, 4));
    // Wherever slices end.
    let mut jobs = vec![ended(child(7, 6)), ended(child(8, 7))];
    jobs.extend((9..1_200).map(|number| ended(child(number, 6 + number % 3))));
    jobs.extend([ended(job(6, None)), job(1_200, None)]);
    subject.commit(Batch { jobs, ..Batch::default() }).await;
    assert_eq!(retain(&mut subject, at(20_000), 9).await, (0, 1_194));
    let all = JobsQuery { limit: 9, ..JobsQuery::default() };
    assert_eq!(numbers(&subject.reader().jobs(&all).await.unwrap()), [1_200]);
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
        generation: number * 2,
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
        handlers: [HandlerRef { declared: "notify.log".into(), plugin: None }].into(),
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
    go_over(subject, before, below, false).await
}

/// The same, or only counts them.
async fn go_over(
    subject: &mut Subject,
    before: Timestamp,
    below: u64,
    dry_run: bool,
) -> (usize, usize) {
    let from = RetentionPlace::default();
    let mut retention = Retention { before, below: Seq(below), from, dry_run };
    let (mut claims, mut jobs) = (0, 0);
    loop {
        let removal = subject.writer.removable(&retention).await.unwrap();
        claims += removal.claims.len();
        jobs += removal.jobs.len();
        let next = removal.next;
        if !dry_run {
            subject.commit(Batch { removal: Some(removal), ..Batch::default() }).await;
        }
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
    let handler_changes = vec![handler_change(10, "python", "h", HandlerChangeKind::Stored)];
    let open_jobs_from = Some(JobNumber(3));
    subject.commit(Batch { jobs, open_jobs_from, handler_changes, ..Batch::default() }).await;

    assert_eq!(retain(&mut subject, at(9_000), 20).await, (0, 0), "nothing is that old");
    // Numbers 1, 5 and 9 lead to claims that go; 9 is the last job, and stays with its claim.
    assert_eq!(go_over(&mut subject, at(9_600), 9, true).await, (3, 4), "counted before");
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
        let expected =
            JobCounts { queued: 1, running: 1, paused: 0, completed: 2, failed: 1, cancelled: 0 };
        assert_eq!(reader.job_counts().await.unwrap(), expected);
        assert_eq!(reader.job(job_id(5)).await.unwrap(), None);
        assert_eq!(reader.jobs_of(Seq(6), 9).await.unwrap().all, 1);
        assert_eq!(reader.jobs_of(Seq(1), 9).await.unwrap().all, 0);
        let jobs = reader.jobs(&JobsQuery { limit: 99, ..JobsQuery::default() }).await.unwrap();
        let numbers: Vec<_> = jobs.iter().map(|job| job.number.0).collect();
        assert_eq!(numbers, [9, 6, 4, 3, 2]);
        subject = subject.reopen().await;
    }
    assert_eq!(go_over(&mut subject, at(20_000), 99, true).await, (10, 1), "counted before");
    assert_eq!(retain(&mut subject, at(20_000), 99).await, (10, 1));
    let left = subject.reader().read_after(Seq(0), 99).await.unwrap();
    assert_eq!(seqs(&left), [2, 3, 4, 7, 8, 10, 20]);
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

/// What the claim with this number does to a handler: all of it follows from that number.
fn handler_change(seq: u64, plugin: &str, name: &str, kind: HandlerChangeKind) -> HandlerChangeRow {
    HandlerChangeRow {
        seq: Seq(seq),
        plugin: plugin.parse().unwrap(),
        name: name.parse().unwrap(),
        kind,
        version_number: seq + 1,
        version: format!("version-{seq}").parse().unwrap(),
        version_seq: Seq(seq + 2),
        reason: format!("reason '{seq}'"),
        by: "user".into(),
        at: at(seq as i64),
    }
}

async fn changes_of_stored_handlers_are_kept(mut subject: Subject) {
    let (stored, faulted) = (HandlerChangeKind::Stored, HandlerChangeKind::Faulted);
    let rows = [
        handler_change(1, "python", "hello", stored),
        handler_change(2, "python", "bye", stored),
        handler_change(3, "lua", "hello", stored),
        handler_change(5, "python", "hello", faulted),
        handler_change(6, "python", "bye", HandlerChangeKind::Removed),
        handler_change(9, "python", "hello", stored),
    ];
    let (python, hello) = ("python".parse().unwrap(), "hello".parse().unwrap());
    let none = subject.reader().handler_changes(&python, &hello, None, 9).await.unwrap();
    assert_eq!((none, subject.reader().stored_handlers().await.unwrap()), (vec![], vec![]));
    for some in rows.chunks(2) {
        let handler_changes = some.to_vec();
        subject.commit(Batch { handler_changes, ..Batch::default() }).await;
    }
    for _ in 0..2 {
        let reader = subject.reader();
        let latest = reader.stored_handlers().await.unwrap();
        assert_eq!(latest, [rows[2].clone(), rows[4].clone(), rows[5].clone()]);
        for (before, limit, expected) in [
            (None, 9, &[5, 3, 0][..]),
            (None, 2, &[5, 3]),
            (Some(9), 9, &[3, 0]),
            (Some(5), 9, &[0]),
            (Some(1), 9, &[]),
            (None, 0, &[]),
        ] {
            let found = reader.handler_changes(&python, &hello, before.map(Seq), limit).await;
            let expected: Vec<_> = expected.iter().map(|at: &usize| rows[*at].clone()).collect();
            assert_eq!(found.unwrap(), expected, "{before:?}, up to {limit}");
        }
        subject = subject.reopen().await;
    }
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
        stored_handlers: incarnation == 2,
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
        stored_handlers: false,
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
    let pages: Vec<Vec<_>> = reader.watcher_pages().try_collect().await.unwrap();
    assert_eq!(pages.concat(), watchers);
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
    let store = subject.reader().opened().store_id;
    let schedule = |owner: Owner, handler: &str, secs| ScheduleRow {
        id: ScheduleId::of(store, &owner, &handler.parse().unwrap()),
        name: handler.parse().unwrap(),
        handler: format!("git/{handler}").into(),
        owner,
        grid: Grid::Every { secs },
        anchor: at(1),
        payload: None,
        missed: Missed::Once,
        overlap: Overlap::Skip,
        jitter_secs: 0,
        enabled_by_default: true,
        description: "every 'so' often\n".into(),
        ats_code: "x is y".into(),
        metadata: None,
        by_call: false,
        state: if secs > 0 { ScheduleState::Active } else { ScheduleState::Inactive },
        declared_at: at(1),
        changed_at: at(2),
        retired_at: None,
        was_paused: false,
        seen: Vec::new(),
        last_nominal: None,
        last_run_at: None,
        last_job: None,
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
    let gone = ScheduleRow {
        state: ScheduleState::Retired,
        retired_at: Some(at(9)),
        was_paused: true,
        ..schedule(git(), "poll", 30)
    };
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

async fn schedules_are_kept_with_their_history(mut subject: Subject) {
    let store = subject.reader().opened().store_id;
    let nightly: ScheduleRow = {
        let (owner, name) = (Owner::User, "nightly \"one\"".parse().unwrap());
        ScheduleRow {
            id: ScheduleId::of(store, &owner, &name),
            owner,
            name,
            handler: "git/a/b".into(),
            grid: Grid::Cron { text: "0 3 * * 1-5".into(), tz: "Europe/Berlin".into() },
            anchor: at(-7),
            payload: Some(vec![0, 255].into()),
            missed: Missed::All { max: 7 },
            overlap: Overlap::Cancel,
            jitter_secs: u32::MAX,
            enabled_by_default: false,
            description: "x".into(),
            ats_code: "y".into(),
            metadata: Some(r#"{"a":"b"}"#.into()),
            by_call: true,
            state: ScheduleState::Paused,
            declared_at: at(1),
            changed_at: at(2),
            retired_at: None,
            was_paused: false,
            seen: vec![(at(-9), at(-9)), (at(4), at(900))],
            last_nominal: Some(at(900)),
            last_run_at: Some(at(901)),
            last_job: Some(job_id(3)),
        }
    };
    subject.commit(Batch { schedules: vec![nightly.clone()], ..Batch::default() }).await;
    assert_eq!(subject.reader().schedules().await.unwrap(), std::slice::from_ref(&nightly));
    let changed = ScheduleRow { payload: Some(Vec::new().into()), seen: Vec::new(), ..nightly };
    let run = |schedule: u8, ms: i64, outcome| ScheduleRunRow {
        schedule: ScheduleId([schedule; 16]),
        nominal: Some(at(ms)),
        upto: None,
        count: 1,
        at: at(ms),
        outcome,
        job: (outcome == RunOutcome::Ran).then(|| job_id(ms as u64)),
    };
    let missed = ScheduleRunRow { upto: Some(at(8)), count: 4, ..run(1, 5, RunOutcome::Missed) };
    let by_hand = ScheduleRunRow { nominal: None, count: 0, ..run(1, 9, RunOutcome::Ran) };
    let runs = vec![
        run(1, 1, RunOutcome::Ran),
        run(2, 2, RunOutcome::Paused),
        missed.clone(),
        run(1, 3, RunOutcome::SkippedOverlap),
        by_hand.clone(),
    ];
    subject
        .commit(Batch { schedules: vec![changed.clone()], runs: runs.clone(), ..Batch::default() })
        .await;
    let mut subject = subject.reopen().await;
    assert_eq!(subject.reader().schedules().await.unwrap(), [changed]);
    let history = async |subject: &Subject, schedule: u8, before, limit| {
        let id = ScheduleId([schedule; 16]);
        subject.reader().schedule_runs(id, before, limit).await.unwrap()
    };
    let of = |number: u64| (number, runs[number as usize - 1].clone());
    assert_eq!(history(&subject, 1, None, 9).await, [of(5), of(4), of(3), of(1)]);
    assert_eq!(history(&subject, 1, Some(5), 2).await, [of(4), of(3)]);
    assert_eq!(history(&subject, 2, None, 9).await, [of(2)]);
    assert_eq!(history(&subject, 3, None, 9).await, []);

    // The last thousand stay whatever their age, and a commit forgets no more than it is to.
    let many = 2 * i64::from(RUNS_KEPT) + i64::from(ROWS_FORGOTTEN_MAX);
    let runs = (10..10 + many).map(|ms| run(1, ms, RunOutcome::Ran)).collect();
    subject.commit(Batch { runs, ..Batch::default() }).await;
    let forget = |ms| Batch {
        runs_before: vec![(ScheduleId([1; 16]), at(ms)), (ScheduleId([2; 16]), at(ms))],
        ..Batch::default()
    };
    for (before, left) in [(12, 2_998), (5_000, 1_998), (5_000, 1_000), (5_000, 1_000)] {
        subject.commit(forget(before)).await;
        let found = history(&subject, 1, None, 9_999).await;
        assert_eq!(found.len(), left);
        assert_eq!(found[0].1, run(1, 9 + many, RunOutcome::Ran), "the last one is there");
    }
    assert_eq!(history(&subject, 2, None, 9).await.len(), 1);
}

async fn budgets_and_spending_are_kept(mut subject: Subject) {
    let budget = |scope: &str, per_day: Option<f64>| BudgetRow {
        scope: scope.parse::<BudgetScope>().unwrap(),
        calls_per_minute: per_day.is_none().then_some(u32::MAX),
        per_day,
        per_week: Some(0.0),
        per_month: Some(1e-9),
        set_by: "user".into(),
        changed_at: at(7),
    };
    let spend = |minute: i64, of: &str, nanos| SpendRow {
        plugin: plugin(of),
        handler: "a/b".parse().unwrap(),
        minute,
        nanos,
        calls: 3,
    };
    let dearest = |handler: &str, dearest| HandlerSpendRow {
        plugin: plugin("git"),
        handler: handler.parse().unwrap(),
        dearest,
    };
    subject
        .commit(Batch {
            budgets: vec![budget("zoo", Some(0.1 + 0.2)), budget("git/a", None), budget("*", None)],
            spends: vec![spend(7, "zoo", 5), spend(7, "git", i64::MAX), spend(-3, "zoo", 0)],
            handler_spends: vec![dearest("b", 0.1 + 0.2), dearest("a", 1e300)],
            ..Batch::default()
        })
        .await;
    subject
        .commit(Batch {
            budgets: vec![budget("git/a", Some(5.0))],
            // In the second minute it turned out that less had been spent in the first.
            spends: vec![spend(7, "zoo", 6), spend(8, "zoo", -4)],
            handler_spends: vec![dearest("b", 0.0)],
            ..Batch::default()
        })
        .await;
    let mut subject = subject.reopen().await;
    let expected = [budget("*", None), budget("zoo", Some(0.1 + 0.2)), budget("git/a", Some(5.0))];
    assert_eq!(subject.reader().budgets().await.unwrap(), expected);
    let all =
        [spend(-3, "zoo", 0), spend(7, "git", i64::MAX), spend(7, "zoo", 6), spend(8, "zoo", -4)];
    assert_eq!(subject.reader().spends(i64::MIN).await.unwrap(), all);
    assert_eq!(subject.reader().spends(8).await.unwrap(), all[3..]);
    let expected = [dearest("a", 1e300), dearest("b", 0.0)];
    assert_eq!(subject.reader().handler_spends().await.unwrap(), expected);

    let many = i64::from(ROWS_FORGOTTEN_MAX);
    let spends = (100..100 + many).map(|minute| spend(minute, "git", 1)).collect();
    subject.commit(Batch { spends, ..Batch::default() }).await;
    for (from, left) in [(7, many + 3), (100 + many, 3), (100 + many, 0)] {
        subject.commit(Batch { spends_from: Some(from), ..Batch::default() }).await;
        assert_eq!(subject.reader().spends(i64::MIN).await.unwrap().len() as i64, left);
    }
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
    /// Jobs of these numbers, if they are there and wait.
    Withdraw(std::collections::BTreeSet<u64>),
    /// Up to this claim, with jobs that ended before this time.
    Retain(u64, i64),
    Ask(Filter, Option<u64>, usize),
    AskJobs(Box<(JobsQuery, LaneQuery)>),
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
        JobState::Paused,
        JobState::Completed,
        JobState::Cancelled,
    ]);
    let watcher = || proptest::option::of(0..3_u64);
    let jobs = proptest::collection::vec(
        (0..60_u64, states, watcher(), proptest::option::of(0..9_i64)),
        1..40,
    );
    let number = || proptest::option::of(0..50_u64);
    let some_states = proptest::sample::select(vec![
        vec![],
        vec![JobState::Queued],
        vec![JobState::Cancelled],
        vec![JobState::Paused, JobState::Running],
        vec![JobState::Completed, JobState::Queued],
    ]);
    let askers = proptest::sample::select(vec![Asker::User, Asker::Plugin(plugin("zoo"))]);
    let asked = (proptest::option::of(askers), some_states, proptest::option::of(0..20_u64));
    let ask_jobs = (number(), number(), any::<bool>(), watcher(), 0..20_usize, 0..9_i64, asked)
        .prop_map(
            |(before, after, fires_only, watcher, limit, due_by, (asker, states, parent))| {
                let jobs = JobsQuery {
                    before: before.map(JobNumber),
                    after: after.map(JobNumber),
                    states,
                    watcher: watcher.map(WatcherNumber),
                    fires_only,
                    asker: asker.clone().filter(|_| limit % 2 == 0),
                    parent: parent.map(JobNumber).filter(|_| limit % 3 == 0),
                    limit,
                    ..JobsQuery::default()
                };
                let is_fire = watcher.is_some();
                let lane = LaneQuery {
                    lane: LaneKey {
                        watcher: watcher.map(WatcherNumber),
                        generation: if is_fire { limit as u32 % 3 } else { 0 },
                        handler: HANDLER.into(),
                        asker: asker.filter(|_| !is_fire),
                    },
                    from: place(if is_fire { 0 } else { due_by }, after.unwrap_or(0)),
                    due_by: at(due_by),
                    limit,
                };
                Step::AskJobs(Box::new((jobs, lane)))
            },
        );
    let ask = (any_filter(), proptest::option::of(0..200_u64), 0..40_usize);
    prop_oneof![
        4 => proptest::collection::vec(any_claim(), 1..60).prop_map(Step::Append),
        2 => jobs.prop_map(Step::Jobs),
        1 => (0..3_u64, 0..50_u64, proptest::option::of(0..2_u32))
            .prop_map(|(watcher, from, generation)| Step::Cancel(watcher, from, generation)),
        1 => proptest::collection::btree_set(0..60_u64, 1..20).prop_map(Step::Withdraw),
        1 => (0..200_u64, proptest::sample::select(vec![3_i64, 9_001]))
            .prop_map(|(below, before)| Step::Retain(below, before)),
        6 => ask.prop_map(|(filter, before, limit)| Step::Ask(filter, before, limit)),
        2 => ask_jobs,
        3 => Just(Step::Tidy),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// Who asked for a job of this number, and how: always the same.
fn asked_at_random(number: u64) -> Asked {
    let by = [Asker::User, Asker::Plugin(plugin("zoo"))][number as usize % 2].clone();
    Asked {
        priority: (number % 3) as i8 - 1,
        parent: parent(number / 2).filter(|_| !number.is_multiple_of(4)),
        ..asked(by, (number % 5) as i64 * 600_000)
    }
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
                self.move_mark().await;
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
            Step::Withdraw(numbers) => {
                let of = |number| Withdrawn {
                    number: JobNumber(number),
                    leaf: LeafNumber(number),
                    at: at(6),
                    reason: format!("'{number}'\n"),
                };
                let withdrawn = numbers.into_iter().map(of).collect();
                self.commit(Batch { withdrawn, ..Batch::default() }).await;
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
            Step::AskJobs(asked) => self.ask_jobs(&asked.0, &asked.1).await?,
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
            row.generation = if watcher.is_some() { (number % 3) as u32 } else { 0 };
            row.seq = (number % 5 > 0).then_some(Seq(number / 2));
            if watcher.is_none() {
                row.asked = Some(Box::new(asked_at_random(number)));
                row.payload = due_at.map(|due| vec![number as u8, due as u8].into());
            }
            rows.insert(number, row);
        }
        rows.into_values().collect()
    }

    /// No fire below it is open; jobs that were asked for may be.
    async fn move_mark(&mut self) {
        let first = self.memory.reader().open_fires(JobNumber(0), 1).await.unwrap();
        let mark = first.first().map_or(JobNumber(self.last_job + 1), |row| row.number);
        self.commit(Batch { open_jobs_from: Some(mark), ..Batch::default() }).await;
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
        let some = lane.from.number;
        let some_id = job_id(some.0);
        for other in others {
            prop_assert_eq!(other.jobs(jobs).await.unwrap(), memory.jobs(jobs).await.unwrap());
            prop_assert_eq!(
                other.lane_jobs(lane).await.unwrap(),
                memory.lane_jobs(lane).await.unwrap()
            );
            prop_assert_eq!(
                other.ahead(&lane.lane, Place::FIRST, lane.from).await.unwrap(),
                memory.ahead(&lane.lane, Place::FIRST, lane.from).await.unwrap()
            );
            let number = JobNumber(lane.from.number.0.saturating_add(9));
            let last = Place { number, ..lane.from };
            prop_assert_eq!(
                other.ahead(&lane.lane, lane.from, last).await.unwrap(),
                memory.ahead(&lane.lane, lane.from, last).await.unwrap()
            );
            prop_assert_eq!(
                other.open_jobs(some, lane.limit).await.unwrap(),
                memory.open_jobs(some, lane.limit).await.unwrap()
            );
            prop_assert_eq!(
                other.open_fires(some, lane.limit).await.unwrap(),
                memory.open_fires(some, lane.limit).await.unwrap()
            );
            prop_assert_eq!(
                other.open_asked(some, lane.limit).await.unwrap(),
                memory.open_asked(some, lane.limit).await.unwrap()
            );
            prop_assert_eq!(
                other.open_ancestors().await.unwrap(),
                memory.open_ancestors().await.unwrap()
            );
            prop_assert_eq!(other.above(some).await.unwrap(), memory.above(some).await.unwrap());
            prop_assert_eq!(
                other.children(some, 2).await.unwrap(),
                memory.children(some, 2).await.unwrap()
            );
            prop_assert_eq!(other.job_counts().await.unwrap(), memory.job_counts().await.unwrap());
            prop_assert_eq!(
                other.jobs_of(Seq(some.0), 2).await.unwrap(),
                memory.jobs_of(Seq(some.0), 2).await.unwrap()
            );
            prop_assert_eq!(other.job(some_id).await.unwrap(), memory.job(some_id).await.unwrap());
            prop_assert_eq!(
                other.job_to_change(some_id).await.unwrap(),
                memory.job_to_change(some_id).await.unwrap()
            );
            prop_assert_eq!(
                other.payload(some).await.unwrap(),
                memory.payload(some).await.unwrap()
            );
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
