//! Plugins whose handlers come and go: stored ones, announcing anew, schedules and HTTP.

use std::sync::{Arc, Mutex};

use axwatch_sdk::testing::{Harness, TestJob};
use axwatch_sdk::{
    About, Done, Failure, Host, HttpRequest, HttpResponse, Job, Level, Plugin, Route, Schedule,
    Start,
};

/// Has a schedule for each name that it was told of by HTTP.
#[derive(Clone, Default)]
struct Changing {
    names: Arc<Mutex<Vec<String>>>,
    host: Arc<Mutex<Option<Host>>>,
}

impl Plugin for Changing {
    fn about(&self) -> About {
        About::new("changing", "1.0.0", "has what it is told")
    }

    async fn initialize(&self, start: Start) -> Result<(), Failure> {
        *self.host.lock().unwrap() = Some(start.host().clone());
        Ok(())
    }

    fn handlers(&self) -> Vec<String> {
        vec!["changing.own".into()]
    }

    fn schedules(&self) -> Vec<Schedule> {
        let names = self.names.lock().unwrap();
        names.iter().map(|name| Schedule::new(name, "changing.own", 60).enabled(false)).collect()
    }

    fn routes(&self) -> Vec<Route> {
        vec![Route::new("POST", "/names", "one more")]
    }

    fn stored_handlers(&self) -> bool {
        true
    }

    async fn http(&self, request: HttpRequest) -> HttpResponse {
        let name: String = match request.json() {
            Ok(name) => name,
            Err(answer) => return answer,
        };
        assert_ne!(name, "panic", "no such name");
        self.names.lock().unwrap().push(name);
        let host = self.host.lock().unwrap().clone().expect("it is initialized");
        let (one, other) = futures::join!(host.announce(), host.announce());
        HttpResponse::json(200, &[one.unwrap(), other.unwrap()])
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        let version = job.handler_version().unwrap_or_default();
        let stored = job.host().stored_handler(version).await?;
        let all = job.host().stored_handlers().await?;
        job.info(format!("{} stored", all.len()));
        Ok(Done::new().result_json(&(stored.map(|stored| stored.code), job.schedule())))
    }
}

#[tokio::test]
async fn what_a_plugin_has_is_announced_anew_when_it_says_so() {
    let harness = Harness::start(Changing::default()).await;
    assert!(harness.announced().stored_handlers);
    assert!(harness.announced().schedules.is_empty());
    let answer = harness.http(HttpRequest::new("POST", "/names", "\"tidy\"")).await;
    assert_eq!((answer.status(), &answer.bytes()[..]), (200, &b"[[],[]]"[..]));
    let tidy = Schedule::new("tidy", "changing.own", 60).enabled(false);
    let announced = harness.announcements();
    assert_eq!(announced.last().unwrap().schedules, [tidy]);

    // A host that has had too many is asked again.
    harness.fail_next_call("resource_exhausted: more than one announcement in a second");
    let answer = harness.http(HttpRequest::new("POST", "/names", "\"count\"")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(harness.announcements().last().unwrap().schedules.len(), 2);
}

#[tokio::test]
async fn a_request_that_does_not_do_and_a_panic_are_answers() {
    let harness = Harness::start(Changing::default()).await;
    let answer = harness.http(HttpRequest::new("POST", "/names", "nonsense")).await;
    assert_eq!(answer.status(), 400);
    let answer = harness.http(HttpRequest::new("POST", "/names", "\"panic\"")).await;
    assert_eq!(answer.status(), 500);
    assert!(String::from_utf8_lossy(answer.bytes()).contains("no such name"));
}

#[tokio::test]
async fn stored_handlers_are_found_and_run_without_being_announced() {
    let harness = Harness::start(Changing::default()).await;
    let first = harness.store_handler("hello", "one");
    harness.store_handler("hello", "two");
    let job = TestJob::new("changing.hello").handler_version(&first).schedule("tidy");
    let outcome = harness.execute(job).await.expect_done();
    assert_eq!(outcome.result_as::<(String, String)>(), ("one".into(), "tidy".into()));
    assert_eq!(outcome.log, [(Level::Info, "1 stored".to_owned())]);
    let unknown = TestJob::new("changing.hello").handler_version("none");
    let outcome = harness.execute(unknown).await.expect_done();
    assert_eq!(outcome.result_as::<(Option<String>, Option<String>)>(), (None, None));
    let other = harness.execute(TestJob::new("others.hello")).await.expect_failure();
    assert!(matches!(other, Failure::Permanent(_)), "{other:?}");
}
