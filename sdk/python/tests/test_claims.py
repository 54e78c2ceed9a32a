"""Claims that jobs make, and questions that they ask."""

import json
import unittest
from datetime import datetime, timezone

from axwatch_sdk import Attestation, Claim, Done, Permanent, Retry
from axwatch_sdk.claim import _rfc3339
from axwatch_sdk.host import batches, failure_of_command
from axwatch_sdk.testing import Harness

from .support import job, scripted


def seen(subject, **more):
    return Claim(subject, "seen", "test", **more)


def nested(levels):
    value = {"end": 1}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


class Checked(unittest.TestCase):
    def test_what_a_host_would_refuse_is_refused_in_its_words(self):
        cases = [
            (Claim(()), "subjects: at least one is needed"),
            (Claim(""), "subjects[0]: 0 bytes; a term has 1 to 1000"),
            (Claim("x", "é" * 501), "predicates[0]: 1002 bytes; a term has 1 to 1000"),
            (Claim("x", actors=["a"] * 101), "actors: 101 terms; at most 100 are allowed"),
            (
                Claim("x", id="a\nb"),
                'id: attestation id "a\\nb" is not valid: it must not hold control characters',
            ),
            (Claim("x", id=""), 'id: attestation id "" is not valid: it must have 1 to 256 bytes'),
            (Claim("x", source="s" * 1_001), "source: 1001 bytes; at most 1000 are allowed"),
            (
                Claim("x", timestamp=1_705_329_000),
                "timestamp: 1705329000 looks like seconds; it must be milliseconds since 1970, and 0 means now",
            ),
            (
                Claim("x", timestamp=2**63 - 1),
                "timestamp: 9223372036854775807 is not in milliseconds since 1970 a time before the year 10000",
            ),
            (
                Claim("x", attributes={"n": [1, [2**53 + 1]]}),
                "attributes: n is 9007199254740993, which the wire would round; give it as text",
            ),
            (Claim("x", attributes=nested(34)), "attributes: a nests deeper than 33 levels"),
            (
                Claim("x", attributes={"t": "v" * 1024 * 1024}),
                "attributes have 1048584 bytes; at most 1048576 are allowed",
            ),
            (Claim("x", attributes={"f": float("inf")}), "attributes: f is inf, which has no JSON"),
            (Claim("x", attributes={"s": {1, 2}}), "attributes: s is a set, which has no JSON"),
            (Claim("\ud800"), "subjects[0]: no UTF-8: "),
            (Claim([1]), "subjects[0]: 1 is no text"),
        ]
        for claim, reason in cases:
            with self.assertRaises(Permanent) as raised:
                claim._command()
            self.assertTrue(raised.exception.reason.startswith(reason), raised.exception.reason)
        with self.assertRaises(Permanent):
            Claim("x", timestamp=datetime(2024, 1, 15))

    def test_a_good_claim_says_what_was_given_and_no_more(self):
        claim = Claim(["x", "z"], "is", "y", id="a", timestamp=1_705_329_000_123)
        claim.attributes.update(n=2**53, t=True, deep=nested(32))
        command = claim._command()
        self.assertEqual((list(command.subjects), command.id), (["x", "z"], "a"))
        self.assertEqual(command.timestamp, 1_705_329_000_123)
        self.assertTrue(command.HasField("attributes"))
        bare = Claim("x")._command()
        self.assertEqual([field.name for field, _ in bare.ListFields()], ["subjects"])
        aware = datetime(2024, 1, 15, 14, 30, 0, 120_000, timezone.utc)
        self.assertEqual(Claim("x", timestamp=aware).timestamp_ms, 1_705_329_000_120)
        # The deepest attributes there may be arrive.
        deep = Claim("x", attributes=nested(33))._command()
        self.assertEqual(type(deep).FromString(deep.SerializeToString()), deep)

    def test_a_payload_is_read_and_written_as_it_is(self):
        payload = {
            "id": "AS-1",
            "subjects": ["ALICE"],
            "predicates": ["author"],
            "contexts": ["_"],
            "actors": ["hr"],
            "timestamp": "2024-01-15T14:30:00Z",
            "created_at": "2024-01-15T14:30:00.120Z",
            "source": "test",
            "attributes": {"stars": 2},
        }
        claim = Attestation.from_payload(json.dumps({**payload, "signature": "c2ln"}).encode())
        self.assertEqual((claim.subject, claim.to_json()), ("ALICE", payload))
        for wrong in [b"", b"[]", b"{}", b'{"id":"a"}', b'{"id":"a","subjects":"x"}', b'{"id":1,"subjects":["x"]}']:
            with self.assertRaises(ValueError, msg=wrong):
                Attestation.from_payload(wrong)

    def test_times_are_written_as_in_a_payload(self):
        cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_705_329_000_120, "2024-01-15T14:30:00.120Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ]
        for ms, text in cases:
            self.assertEqual(_rfc3339(ms), text)
        self.assertTrue(_rfc3339(2**63 - 1).startswith("9999-12-31"))
        self.assertTrue(_rfc3339(-(2**63)).startswith("0001-01-01"))

    def test_an_error_of_the_host_is_sorted_by_how_it_begins(self):
        cases = [
            ("unavailable: database is locked", Retry("unavailable: database is locked")),
            ("resource_exhausted: too much", Retry("resource_exhausted: too much")),
            ("unauthenticated: this is not", Retry("unauthenticated: this is not")),
            ("", Retry("unavailable: the host gave no reason")),
            ("subjects: at least one is needed", Permanent("subjects: at least one is needed")),
            ("commands[3]: id: no", Permanent("claims[1003]: id: no")),
            ("commands[0]: unavailable: no", Retry("claims[1000]: unavailable: no")),
            ("commands[x]: no", Permanent("commands[x]: no")),
        ]
        for error, expected in cases:
            self.assertEqual(failure_of_command(error, 1_000), expected)

    def test_batches_hold_what_a_host_takes_in_order(self):
        def lengths(commands):
            found = list(batches(commands))
            self.assertEqual([command for batch in found for command in batch], commands)
            return [len(batch) for batch in found]

        def command(n, size):
            made = Claim(str(n))._command()
            made.source = "s" * size
            return made

        mebibyte = 1024 * 1024
        self.assertEqual(lengths([]), [])
        self.assertEqual(lengths([command(n, 0) for n in range(2_500)]), [1_000, 1_000, 500])
        self.assertEqual(lengths([command(n, mebibyte - 100) for n in range(5)]), [2, 2, 1])
        self.assertEqual(lengths([command(n, 3 * mebibyte) for n in range(3)]), [1, 1, 1])


class Made(unittest.TestCase):
    def test_a_claim_comes_back_as_it_stands_in_the_log(self):
        def work(job):
            made = job.attest(seen("ALICE", attributes={"stars": 2, "l": [None, 1.5]}, timestamp=1_705_329_000_120))
            self.assertEqual((made.seq, made.source), (1, "scripted"))
            self.assertEqual((made.actors, made.attributes), ([made.id], {"stars": 2, "l": [None, 1.5]}))
            self.assertEqual(made.timestamp, "2024-01-15T14:30:00.120Z")
            self.assertTrue(job.exists(made.id) and not job.exists("nobody"))

        with Harness(scripted(work)) as harness:
            harness.execute(job()).expect_done()
            self.assertEqual(harness.claims()[0].subjects, ["ALICE"])

    def test_another_attempt_makes_the_same_claims_again(self):
        def work(job):
            job.attest(seen("ALICE"))
            # Two of one content are two, on every attempt.
            job.attest_all([seen("BOB"), seen("BOB"), seen("CAROL", id="mine")])
            if job.attempt == 1:
                raise Retry("the answer gets lost")
            job.attest(seen("DAVE"))

        with Harness(scripted(work)) as harness:
            first = job()
            harness.execute(first).expect_failure()
            self.assertEqual(len(harness.claims()), 4)
            harness.execute(first.attempt(2)).expect_done()
            self.assertEqual(len(harness.claims()), 5)
            # Another job makes claims of its own, but not under an id that was given.
            harness.execute(job().attempt(2)).expect_done()
            subjects = [claim.subject for claim in harness.claims()]
        self.assertEqual(subjects, ["ALICE", "BOB", "BOB", "CAROL", "DAVE", "ALICE", "BOB", "BOB", "DAVE"])

    def test_many_claims_are_made_in_order_and_counted(self):
        def work(job):
            standing = job.attest_all(seen(f"s{n}", id=f"id-{n}") for n in range(2_500))
            self.assertEqual(job.attest_all([]), 0)
            return Done(json=standing)

        with Harness(scripted(work)) as harness:
            for _ in range(2):
                self.assertEqual(harness.execute(job()).expect_done().result_json(), 2_500, "repeats included")
            self.assertEqual([claim.id for claim in harness.claims()], [f"id-{n}" for n in range(2_500)])

    def test_a_claim_that_is_refused_is_named_and_its_batch_falls(self):
        def work(job):
            claims = [seen(f"s{n}") for n in range(1_500)]
            mode = job.payload_json()
            if mode == "invalid":
                claims[1_200] = seen("")
            if mode == "conflict":
                claims[1_200] = seen("other", id="taken")
            job.attest_all(claims)

        with Harness(scripted(work)) as harness:
            harness.append(seen("first", id="taken"))
            # Found before anything is sent.
            failure = harness.execute(job().payload_json("invalid")).failure
            self.assertEqual(failure, Permanent("claims[1200]: subjects[0]: 0 bytes; a term has 1 to 1000"))
            self.assertEqual(harness.claims(), [])
            conflicting = job()
            failure = harness.execute(conflicting.payload_json("conflict")).failure
            reason = "claims[1200]: attestation taken is already in the log as seq 1 and differs"
            self.assertEqual(failure, Permanent(reason))
            self.assertEqual(len(harness.claims()), 1_000, "the batch before it stands")
            harness.execute(conflicting.attempt(2).payload_json("good")).expect_done()
            self.assertEqual(len(harness.claims()), 1_500)

    def test_trouble_of_the_host_is_tried_again_and_a_refusal_is_not(self):
        calls = {
            "exists": lambda job: job.exists("x"),
            "query": lambda job: job.query(),
            "batch": lambda job: job.attest_all([seen("x")]),
            "attest": lambda job: job.attest(seen("x")),
        }

        def work(job):
            calls[job.payload_json()](job)

        with Harness(scripted(work)) as harness:
            for call in calls:
                for error in ["unavailable: a", "resource_exhausted: b", "unauthenticated: c"]:
                    harness.fail_next_call(error)
                    failure = harness.execute(job().payload_json(call)).expect_failure()
                    self.assertIsInstance(failure, Retry, (call, error))
                    self.assertTrue(failure.reason.endswith(error), failure.reason)
            for call in ["query", "batch", "attest"]:
                harness.fail_next_call("subjects: at least one is needed")
                failure = harness.execute(job().payload_json(call)).failure
                self.assertIsInstance(failure, Permanent, call)
                self.assertTrue(failure.reason.endswith("subjects: at least one is needed"))
            harness.execute(job().payload_json("attest")).expect_done()

    def test_the_log_is_asked_in_terms_or_in_ax(self):
        def work(job):
            def found(*ax, **filter):
                return [claim.subject for claim in job.query(*ax, **filter)]

            self.assertEqual(found(), ["C", "B", "A"], "newest first")
            self.assertEqual((found(limit=2), found(limit=0)), (["C", "B"], []))
            self.assertEqual(found(subjects=["A", "C"]), ["C", "A"])
            self.assertEqual(found(predicates="see"), [], "whole terms")
            self.assertEqual(found(contexts="test", actors="b"), ["B"])
            self.assertEqual(found(between=(200_000_000_000, 300_000_000_000)), ["C", "B"])
            self.assertEqual(found("is seen"), ["X"])
            with self.assertRaises(Permanent) as unknown:
                job.query("is new")
            says = 'ax: the harness does not speak AX: say what "is new" finds with Harness.answer_ax'
            self.assertEqual(unknown.exception.reason, says)
            with self.assertRaises(Permanent):
                job.query("is seen", subjects="A")

        with Harness(scripted(work)) as harness:
            for n, subject in enumerate("ABC", 1):
                harness.append(Claim(subject, "seen", "test", subject.lower(), timestamp=n * 100_000_000_000))
            harness.answer_ax("is seen", [seen("X")])
            harness.execute(job()).expect_done()
            self.assertEqual(harness.claims(), [], "what the test gave is not the plugin's")

    def test_a_long_answer_arrives_whole(self):
        def work(job):
            found = job.query()
            return Done(json=[len(found), sum(len(claim.attributes["t"]) for claim in found)])

        with Harness(scripted(work)) as harness:
            for n in range(20):
                harness.append(seen(str(n), attributes={"t": "v" * 500_000}))
            self.assertEqual(harness.execute(job()).expect_done().result_json(), [20, 10_000_000])

    def test_claims_outside_of_a_job_are_new_ones_every_time(self):
        def work(job):
            job.host.attest(seen("x"))
            self.assertEqual(job.host.attest_all([seen("x"), seen("x")]), 2)

        with Harness(scripted(work)) as harness:
            harness.execute(job()).expect_done()
            self.assertEqual(len(harness.claims()), 3)
