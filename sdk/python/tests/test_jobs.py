"""What a handler answers, and what the host sees of it."""

import asyncio
import threading
import time
import unittest

import grpc

from axwatch_sdk import Cancelled, Claim, Done, NotNow, Permanent, Plugin, Retry
from axwatch_sdk._proto import plugin_pb2
from axwatch_sdk._wire import CHANNEL_OPTIONS, Client
from axwatch_sdk.testing import Harness, TestJob

from .support import PATIENCE, job, scripted, until


def run(work, sent=None, config=None):
    with Harness(scripted(work), config) as harness:
        return harness.execute(sent or job())


def raising(failure):
    def work(job):
        raise failure

    return work


class Answers(unittest.TestCase):
    def test_each_failure_reaches_the_host_as_what_it_is(self):
        cases = [
            (Retry("busy"), Retry("busy")),
            (Permanent("gone"), Permanent("gone")),
            (NotNow("early", after=1.5), NotNow("early", after=1.5)),
            # A host reads 0 as an ordinary failure.
            (NotNow("early", after=0), NotNow("early", after=0.001)),
            (NotNow("too much"), NotNow("too much")),
            (Retry("é" * 60_000), Retry("é" * 32_768)),
        ]
        for failure, seen in cases:
            self.assertEqual(run(raising(failure)).failure, seen)
            self.assertEqual(run(lambda job: failure).failure, seen, "returned instead of raised")

    def test_a_time_that_is_no_number_is_refused_where_it_is_written(self):
        for after in (float("nan"), float("inf"), float("-inf")):
            with self.assertRaises(ValueError) as raised:
                NotNow("early", after=after)
            says = f"NotNow: after is {after}; it must be a number of seconds, or None"
            self.assertEqual(str(raised.exception), says)

            with self.assertLogs("axwatch", "ERROR"):
                failure = run(lambda job: NotNow("early", after=after)).failure
            self.assertEqual(failure, Retry(f"ValueError: {says}"))
        # As long as can be said.
        self.assertEqual(run(raising(NotNow("early", after=1e308))).failure.after, (2**63 - 1) / 1_000)

    def test_any_exception_is_tried_again_with_its_chain(self):
        def work(job):
            try:
                {}["price"]
            except KeyError as error:
                raise RuntimeError("cannot read the list") from error

        with self.assertLogs("axwatch", "ERROR"):
            failure = run(work).failure
        self.assertEqual(failure, Retry("RuntimeError: cannot read the list: KeyError: 'price'"))
        with self.assertLogs("axwatch", "ERROR"):
            self.assertEqual(run(raising(SystemExit(3))).failure, Retry("SystemExit: 3"))

    def test_a_failure_keeps_the_log_and_the_progress(self):
        def work(job):
            job.progress(3, 2**70)
            job.warn("half of it is missing")
            job.log("debug", "here")
            raise Permanent("gone")

        outcome = run(work)
        self.assertEqual(outcome.failure, Permanent("gone"))
        self.assertEqual(outcome.progress, (3, 2**31 - 1))
        self.assertEqual(outcome.log, [("warn", "half of it is missing"), ("debug", "here")])

    def test_done_carries_a_result_and_a_cost(self):
        outcome = run(lambda job: Done(json={"n": 1, "é": None}, cost=0.25)).expect_done()
        self.assertEqual((outcome.result, outcome.cost), ('{"n":1,"é":null}'.encode(), 0.25))
        self.assertEqual(run(lambda job: Done("é")).expect_done().result, "é".encode())
        self.assertEqual(run(lambda job: None).expect_done().result, b"")

    def test_a_result_that_is_none_is_said(self):
        self.assertEqual(
            run(lambda job: Done(json={1, 2})).failure,
            Permanent("result: no JSON: Object of type set is not JSON serializable"),
        )
        self.assertTrue(run(lambda job: Done(json=float("nan"))).failure.reason.startswith("result: no JSON"))
        self.assertEqual(
            run(lambda job: 7).failure,
            Permanent("the handler returned a int; it must be Done(…) or nothing"),
        )
        outcome = run(lambda job: Done(b"x" * (9 * 1024 * 1024))).expect_done()
        left_out = "the result was left out: 9437184 bytes; at most 6291456 fit into a reply"
        self.assertEqual((outcome.result, outcome.log), (b"", [("warn", left_out)]))

    def test_an_async_handler_is_a_handler(self):
        async def work(job):
            await asyncio.sleep(0)
            return Done(json=job.payload_json())

        self.assertEqual(run(work, job().payload_json([1])).expect_done().result_json(), [1])

    def test_a_log_is_bounded_in_every_way(self):
        def work(job):
            job.warn("é" * 65_536)
            for _ in range(1_500):
                job.info("x")

        log = run(work).log
        self.assertEqual((len(log), len(log[0][1].encode())), (1_001, 65_536))
        self.assertEqual(log[-1], ("warn", "501 more log entries were left out"))

        def more(job):
            for _ in range(20):
                job.info("x" * 65_536)
            job.error("")

        log = run(more).log
        self.assertEqual((len(log), log[16][0]), (18, "error"))
        self.assertEqual(log[17], ("warn", "4 more log entries were left out"))


class Asked(unittest.TestCase):
    def test_a_job_says_what_it_is(self):
        def work(job):
            self.assertEqual((job.handler, job.attempt), ("scripted.work", 3))
            self.assertEqual((job.watcher, job.deadline), ("scripted-all", 30.0))
            self.assertEqual(job.attestation.subjects, ["ALICE"])
            self.assertEqual(job.attestation.actors, ["hr"])
            self.assertEqual(job.params["greeting"], "hi")
            self.assertEqual(job.config["mode"], "quiet")
            self.assertFalse(job.is_cancelled())
            return Done(job.id)

        sent = job().fire(Claim("ALICE", "author", "GitHub", "hr")).params({"greeting": "hi"})
        sent = sent.attempt(3).watcher("scripted-all").deadline(30)
        self.assertEqual(run(work, sent, {"mode": "quiet"}).expect_done().result.decode(), sent.id)

        def bare(job):
            self.assertEqual((job.attempt, job.watcher, job.deadline, job.params), (0, None, None, {}))

        run(bare, job().attempt(0)).expect_done()

    def test_what_does_not_fit_is_never_tried_again(self):
        def work(job):
            return {b"{": lambda: job.params, b"[": job.payload_json}.get(job.payload[:1], lambda: job.attestation)()

        cases = [
            (job().payload("{}")._with(params=b"x"), "params: not what scripted.work takes: "),
            (job().payload("[1,2"), "payload: not what scripted.work takes: "),
            (job(), "payload: no attestation: "),
            (job().payload('"x"'), "payload: no attestation: an attestation is a JSON object"),
            (job().payload(b'{"id":"a"}')._with(handler_name="scripted.claim"), "payload: no attestation: "),
            (job().payload(b"\xff"), "payload: no attestation: "),
        ]
        plugin = scripted(work)
        plugin.add_handler("scripted.claim", lambda job: job.attestation)
        with Harness(plugin) as harness:
            for sent, says in cases:
                failure = harness.execute(sent).expect_failure()
                self.assertIsInstance(failure, Permanent)
                self.assertTrue(failure.reason.startswith(says), failure.reason)

    def test_a_handler_that_was_not_announced_is_not_found(self):
        with Harness(scripted(lambda job: None)) as harness:
            with grpc.insecure_channel(harness.address, options=CHANNEL_OPTIONS) as channel:
                call = Client(channel, "protocol.DomainPluginService")("ExecuteJob")
                with self.assertRaises(grpc.RpcError) as raised:
                    call(plugin_pb2.ExecuteJobRequest(handler_name="other"))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(raised.exception.details(), '"other" is no handler of this plugin')


class Times(unittest.TestCase):
    def test_a_cancelled_attempt_is_told_and_makes_no_more_claims(self):
        ended = []
        began = threading.Event()

        def work(job):
            job.attest(Claim("before"))
            began.set()
            self.assertTrue(job.wait_cancelled(PATIENCE))
            self.assertTrue(job.is_cancelled())
            try:
                job.attest(Claim("after"))
            except Cancelled as failure:
                ended.append(failure.reason)
                raise

        with Harness(scripted(work)) as harness:
            running = harness.begin(job())
            self.assertTrue(began.wait(PATIENCE))
            running.cancel()
            self.assertIsInstance(running.outcome().failure, Retry)
            until("the handler is told", lambda: ended)
            self.assertEqual([claim.subject for claim in harness.claims()], ["before"])
        self.assertEqual(ended, ["the host has given up on this attempt"])

    def test_jobs_run_side_by_side_and_health_gets_through(self):
        gate, count = threading.Event(), []

        def work(job):
            count.append(1)
            gate.wait(PATIENCE)

        with Harness(scripted(work, jobs_max=20)) as harness:
            running = [harness.begin(job()) for _ in range(20)]
            until("all of them run", lambda: len(count) == 20)
            # As many as may, and the host is told so of the next.
            refused = harness.execute(job()).expect_failure()
            self.assertEqual(refused, NotNow("20 jobs are under way"))
            self.assertTrue(harness.health().is_good)
            gate.set()
            for one in running:
                one.outcome().expect_done()
            harness.execute(job()).expect_done()

    def test_progress_reaches_the_host_while_the_job_runs_and_not_too_often(self):
        enough, finish, calls = threading.Event(), threading.Event(), []

        def work(job):
            while not enough.is_set():
                calls.append(1)
                job.progress(min(len(calls), 9_999), 10_000)
                time.sleep(0.001)
            job.progress(10_000, 10_000)
            finish.wait(PATIENCE)
            job.progress(10_000, 10_000)

        with Harness(scripted(work)) as harness:
            sent = job()
            asked = time.monotonic()
            running = harness.begin(sent)
            until("the host hears of it again", lambda: len(harness.progress_of(sent.id)) > 2)
            enough.set()
            until("the host hears of the last", lambda: (10_000, 10_000) in harness.progress_of(sent.id))
            told = len(harness.progress_of(sent.id))
            # One at once, then one each half second; and one more, for clocks that differ.
            most = 2 + (time.monotonic() - asked) / 0.5
            self.assertLessEqual(told, most, f"{len(calls)} calls, and few messages")
            finish.set()
            self.assertEqual(running.outcome().expect_done().progress, (10_000, 10_000))

    def test_a_host_that_does_not_hear_of_progress_is_told_of_once(self):
        is_over = threading.Event()

        def work(job):
            n = 0
            while not is_over.is_set():
                n += 1
                job.progress(n)
                time.sleep(0.01)

        with self.assertLogs("axwatch", "WARNING") as logged, Harness(scripted(work)) as harness:
            harness.fail_next_call("unavailable: no room")
            harness.fail_next_call("unavailable: still no room")
            sent = job()
            running = harness.begin(sent)
            until("the host hears of it", lambda: harness.progress_of(sent.id))
            is_over.set()
            running.outcome().expect_done()
        self.assertEqual(len(logged.output), 1, logged.output)
        self.assertIn("unavailable: no room", logged.output[0])


class Declared(unittest.TestCase):
    def test_two_plugins_are_two(self):
        plugin = Plugin("a", "1")
        plugin.handler("a.one")(lambda job: None)
        other = Plugin("b", "1")
        self.assertEqual((plugin.handlers(), other.handlers()), (["a.one"], []))
        with Harness(plugin) as harness:
            harness.execute(TestJob("a.one")).expect_done()
