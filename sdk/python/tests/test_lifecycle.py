"""How a plugin is described, started, configured again and ended."""

import asyncio
import threading
import unittest
from unittest import mock

import grpc

from axwatch_sdk import Claim, Config, Health, NotNow, Permanent, Plugin, Retry
from axwatch_sdk._proto import plugin_pb2
from axwatch_sdk._wire import CHANNEL_OPTIONS, PLUGIN, Client
from axwatch_sdk.testing import Harness, TestJob

from .support import PATIENCE, job, scripted, until

Empty = plugin_pb2.Empty


class Client_(unittest.TestCase):
    def client(self, harness):
        channel = grpc.insecure_channel(harness.address, options=CHANNEL_OPTIONS)
        self.addCleanup(channel.close)
        return Client(channel, "protocol.DomainPluginService")


class Described(Client_):
    def test_a_plugin_says_who_it_is_and_what_it_has(self):
        plugin = Plugin("zoo", "1.2.3", "many", author="me", license="MIT")

        @plugin.watch("ax", "is author of GitHub", max_fires_per_second=5, params={"n": 1}, max_chain=9)
        @plugin.handler("zoo.hello")
        @plugin.watch("terms", predicates=["failed", "broken"], contexts="ci", since="7d")
        @plugin.schedule(3_600, description="each hour")
        def hello(job):
            pass

        @plugin.handler()
        def other(job):
            pass

        plugin.add_watcher("named", "zoo.other", actors="me")

        with Harness(plugin) as harness:
            metadata = self.client(harness)("Metadata")(Empty())
            announced = harness.announced
        self.assertEqual((metadata.name, metadata.version, metadata.license), ("zoo", "1.2.3", "MIT"))
        self.assertEqual((metadata.qntx_version, metadata.author), (">=0.2", "me"))
        self.assertEqual(announced.handlers, ["zoo.hello", "zoo.other"])
        by_id = {watcher["id"]: watcher for watcher in announced.watchers}
        self.assertEqual(
            by_id,
            {
                "ax": {
                    "id": "ax",
                    "handler_name": "zoo.hello",
                    "ax": "is author of GitHub",
                    "max_fires_per_second": 5,
                    "params": b'{"n": 1}',
                    "max_chain": 9,
                },
                "terms": {
                    "id": "terms",
                    "handler_name": "zoo.hello",
                    "predicates": ["failed", "broken"],
                    "contexts": ["ci"],
                    "since": "7d",
                },
                "named": {"id": "named", "handler_name": "zoo.other", "actors": ["me"]},
            },
        )
        schedule = {"handler_name": "zoo.hello", "interval_seconds": 3_600, "enabled_by_default": True}
        self.assertEqual(announced.schedules, [{**schedule, "description": "each hour"}])

    def test_what_is_not_served_is_said(self):
        with Harness(scripted(lambda job: None)) as harness:
            client = self.client(harness)
            for name in ["ConfigSchema", "RegisterGlyphs", "ParseAxQuery", "HandleHTTP"]:
                with self.assertRaises(grpc.RpcError) as raised:
                    client(name)(PLUGIN[name][0]())
                self.assertEqual(raised.exception.code(), grpc.StatusCode.UNIMPLEMENTED, name)
            with self.assertRaises(grpc.RpcError) as raised:
                list(client("HandleWebSocket")(iter(())))
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_a_mistake_in_a_declaration_is_found_where_it_is_written(self):
        plugin = Plugin("zoo", "1")
        cases = [
            (lambda: Plugin("", "1"), "a plugin has a name"),
            (lambda: plugin.watch("w"), "watcher 'w' filters on nothing; give it AX text or terms"),
            (lambda: plugin.watch("w", "is x", actors="y"), "AX text and terms together"),
            (lambda: plugin.watch("w", "is x", max_fires_per_second=-1), "max_fires_per_second is 1 to 100000"),
            (lambda: plugin.watch("w", "is x", params=[1]), "params must be a dictionary"),
            (lambda: plugin.schedule(-1), "every_seconds must be 0 (disabled) or more"),
            (lambda: plugin.handler("a/b")(print), "a bare name has no '/'"),
            (lambda: plugin.config_field("k", "text"), "kind 'text' is none of string, number, boolean, array"),
            (lambda: plugin.route("get", "/"), ""),
        ]
        for declare, says in cases[:-1]:
            with self.assertRaises(ValueError) as raised:
                declare()
            self.assertIn(says, str(raised.exception))
        with self.assertRaises(ValueError):
            plugin.route("get", "/")(print)

        @plugin.watch("w", "is x")
        def lonely(job):
            pass

        with self.assertLogs("axwatch", "ERROR"), self.assertRaises(Permanent) as refused:
            Harness(plugin)
        says = "lonely has @plugin.watch and is no handler; add @plugin.handler(…)"
        self.assertEqual(refused.exception.reason, says)

    def test_a_configuration_is_described_and_bad_health_told(self):
        plugin = scripted(lambda job: None)
        plugin.config_field("timeout_secs", "number", "how long it may take", default=10, min=1, max=600)
        plugin.config_field("hosts", "array", "whom to ask", required=True, element="string")
        plugin.config_field("name", "string", pattern="^[a-z]+$", default="x")
        plugin.config_field("fsync", "boolean", default=False)
        mood = []

        @plugin.health
        def health():
            said = mood.pop()
            if isinstance(said, Exception):
                raise said
            return said

        with Harness(plugin) as harness:
            fields = self.client(harness)("ConfigSchema")(Empty()).fields
            for said, seen in [
                (None, Health()),
                (True, Health()),
                (False, Health(False)),
                (Health(False, "no database", {"tried": 3}), Health(False, "no database", {"tried": "3"})),
                (OSError("gone"), Health(False, "OSError: gone")),
            ]:
                mood.append(said)
                self.assertEqual(harness.health(), seen)
        timeout, hosts = fields["timeout_secs"], fields["hosts"]
        self.assertEqual((timeout.type, timeout.default_value), ("number", "10"))
        self.assertEqual((timeout.min_value, timeout.max_value), ("1", "600"))
        self.assertEqual((hosts.type, hosts.element_type, hosts.required), ("array", "string", True))
        self.assertEqual((fields["fsync"].default_value, fields["name"].pattern), ("false", "^[a-z]+$"))


class Started(Client_):
    def test_a_plugin_may_refuse_to_start(self):
        plugin = scripted(lambda job: None)

        @plugin.on_start
        def start(start):
            start.config.string("mode", "none")
            failures = {
                "refuse": Permanent("mode: refuse does not do"),
                "later": NotNow("no database yet"),
                "crash": OSError("no idea what to do"),
            }
            raise failures[start.config.string("mode")]

        cases = [
            ({"mode": "refuse"}, Permanent("mode: refuse does not do")),
            ({"mode": "later"}, Retry("no database yet")),
            ({"mode": "crash"}, Retry("on_start: OSError: no idea what to do")),
        ]
        for config, expected in cases:
            with self.assertLogs("axwatch", "ERROR"), self.assertRaises(type(expected)) as refused:
                Harness(plugin, config)
            self.assertEqual(refused.exception, expected)

    def test_it_calls_back_while_it_starts(self):
        plugin = scripted(lambda job: None)

        @plugin.on_start
        def start(start):
            start.host.attest(Claim("plugin", "started"))
            for claim in start.host.query(predicates="handler"):
                plugin.add_handler(f"scripted.{claim.subject}", lambda job: None)

        with Harness(plugin) as harness:
            self.assertEqual([claim.subject for claim in harness.claims()], ["plugin"])
            harness.append(Claim("late", "handler"))
            harness.reconfigure({})
            self.assertEqual(harness.announced.handlers, ["scripted.work", "scripted.late"])

    def test_what_it_finds_at_its_start_is_said_before(self):
        plugin = scripted(lambda job: None)

        @plugin.on_start
        def start(start):
            for claim in start.host.query("is author"):
                plugin.add_handler(f"scripted.{start.config['of']}.{claim.subject}", lambda job: None)
            assert start.host.exists("known")

        with Harness(plugin, {"of": "a"}, start=False) as harness:
            self.assertEqual(harness.announced.handlers, [])
            harness.answer_ax("is author", [Claim("ALICE", "author")])
            harness.append(Claim("ALICE", "author", id="known"))
            harness.fail_next_call("unavailable: the disk is full")
            with self.assertLogs("axwatch", "ERROR"), self.assertRaises(Retry):
                harness.start()
            harness.start()
            self.assertEqual(harness.announced.handlers, ["scripted.work", "scripted.a.ALICE"])

    def test_what_is_added_while_it_starts_is_of_that_start(self):
        plugin = scripted(lambda job: None)
        plugin.add_watcher("all", "scripted.work", "is always")

        @plugin.on_start
        def start(start):
            mode = start.config["mode"]

            # Another function each time.
            @plugin.handler(f"scripted.{mode}")
            @plugin.handler("scripted.both")
            @plugin.watch(mode, "is x")
            @plugin.schedule(60)
            def added(job):
                raise Permanent(mode)

            plugin.add_watcher("all", "scripted.both", f"is {mode}")
            plugin.route("GET", "/mode")(lambda request: mode)
            if mode == "refuse":
                raise Permanent("no")

        for _ in range(2):
            with Harness(plugin, {"mode": "one"}) as harness:
                for mode in ("one", "two", "two"):
                    harness.reconfigure({"mode": mode})
                    announced = harness.announced
                    self.assertEqual(announced.handlers, ["scripted.work", "scripted.both", f"scripted.{mode}"])
                    watchers = {watcher["id"]: watcher["ax"] for watcher in announced.watchers}
                    self.assertEqual(watchers, {"all": f"is {mode}", mode: "is x"})
                    self.assertEqual(len(announced.schedules), 1)
                    self.assertEqual(announced.routes, [("GET", "/mode")])
                    self.assertEqual(harness.execute(TestJob("scripted.both")).failure, Permanent(mode))
                    self.assertEqual(harness.request("GET", "/mode").body, mode.encode())
                with self.assertLogs("axwatch", "ERROR"), self.assertRaises(Permanent):
                    harness.reconfigure({"mode": "refuse"})
                self.assertEqual(harness.execute(TestJob("scripted.both")).failure, Permanent("two"))
                self.assertEqual(harness.request("GET", "/mode").body, b"two")

    def test_a_new_configuration_counts_for_later_jobs_and_a_bad_one_changes_nothing(self):
        gate, began = threading.Event(), threading.Event()

        def work(job):
            began.set()
            gate.wait(PATIENCE)
            from axwatch_sdk import Done

            return Done(job.config.string("mode"))

        plugin = scripted(work)

        @plugin.on_start
        def start(start):
            if start.config["mode"] == "refuse":
                raise Permanent("no")

        with Harness(plugin, {"mode": "one"}) as harness:
            early = harness.begin(job())
            self.assertTrue(began.wait(PATIENCE))
            harness.reconfigure({"mode": "two"})
            with self.assertLogs("axwatch", "ERROR"), self.assertRaises(Permanent):
                harness.reconfigure({"mode": "refuse"})
            gate.set()
            self.assertEqual(early.outcome().expect_done().result, b"one", "what has begun keeps its own")
            self.assertEqual(harness.execute(job()).expect_done().result, b"two")

    def test_a_host_without_a_store_is_said_to_be_one(self):
        def work(job):
            job.exists("x")

        with Harness(scripted(work)) as harness:
            client = self.client(harness)
            request = plugin_pb2.ExecuteJobRequest(handler_name="scripted.work")
            client("Initialize")(plugin_pb2.InitializeRequest())
            reply = client("ExecuteJob")(request)
            self.assertTrue(reply.permanent and "no store of claims" in reply.error, reply)
            # A host that is away is another matter.
            client("Initialize")(plugin_pb2.InitializeRequest(ats_store_endpoint="127.0.0.1:1"))
            reply = client("ExecuteJob")(request)
            self.assertFalse(reply.permanent)
            self.assertTrue(reply.error.startswith("the host did not answer: "), reply)
            with self.assertLogs("axwatch", "ERROR"), self.assertRaises(grpc.RpcError) as raised:
                client("Initialize")(plugin_pb2.InitializeRequest(ats_store_endpoint="no port/"))
            self.assertEqual(raised.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)


class Ended(Client_):
    def test_shutdown_waits_for_running_jobs_and_takes_no_more(self):
        gate, began, ended, shutdowns = threading.Event(), [], [], []

        def work(job):
            began.append(job.id)
            gate.wait(PATIENCE)
            ended.append(job.id)

        plugin = scripted(work)
        plugin.on_shutdown(lambda: shutdowns.append(len(ended)))
        # However slow the machine is, the jobs have their time.
        within = mock.patch("axwatch_sdk._service.JOBS_WITHIN", PATIENCE)
        with within, Harness(plugin) as harness:
            running = harness.begin(job())
            until("it runs", lambda: began)
            shutting = threading.Thread(target=harness.shutdown)
            shutting.start()
            let_in = []

            def refused():
                sent, over = job(), threading.Event()
                one = harness.begin(sent)
                one._call.add_done_callback(lambda _: over.set())
                until("it is refused or runs", lambda: over.is_set() or sent.id in began)
                # One that still gets in is let through, and the next is tried.
                if not over.is_set():
                    return let_in.append(one)
                return one.outcome().failure

            self.assertEqual(until("no more are taken", refused), Retry("the plugin is shutting down"))
            self.assertEqual(shutdowns, [], "a job is running")
            gate.set()
            for one in [running, *let_in]:
                one.outcome().expect_done()
            shutting.join(PATIENCE)
            harness.shutdown()
            self.assertEqual(shutdowns, [len(began)], "once, however often it is asked, and after the jobs")

    def test_the_other_functions_may_be_async_too(self):
        called = []
        plugin = scripted(lambda job: None)

        @plugin.on_start
        async def start(start):
            await asyncio.sleep(0)
            called.append("start")

        @plugin.health
        async def health():
            await asyncio.sleep(0)
            return Health(False, "asleep")

        @plugin.on_shutdown
        async def last():
            await asyncio.sleep(0)
            called.append("shutdown")

        with Harness(plugin) as harness:
            self.assertEqual(harness.health(), Health(False, "asleep"))
            harness.shutdown()
        self.assertEqual(called, ["start", "shutdown"])

    def test_shutdown_does_not_wait_for_ever_and_tells_who_still_works(self):
        began = threading.Event()

        def work(job):
            began.set()
            self.assertTrue(job.wait_cancelled(PATIENCE))
            # What it has to say still gets through.
            job.attest(Claim("told", "to_stop"))
            raise Retry("told to stop")

        with self.assertLogs("axwatch", "WARNING"), Harness(scripted(work)) as harness:
            running = harness.begin(job())
            self.assertTrue(began.wait(PATIENCE))
            harness.shutdown()
            self.assertEqual(running.outcome().failure, Retry("told to stop"))
            self.assertEqual(len(harness.claims()), 1)


class Configured(unittest.TestCase):
    def config(self):
        return Config(
            {
                "colour": "red",
                "depth": "3",
                "ratio": "0.5",
                "fsync": "true",
                "hosts": '["a","b"]',
                "webhook.secret": "s3cret",
                "webhook.url": "http://a",
            }
        )

    def test_a_value_is_read_as_what_is_asked_for(self):
        config = self.config()
        self.assertEqual((config.integer("depth"), config.number("depth")), (3, 3.0))
        self.assertEqual((config.number("ratio"), config.string("depth")), (0.5, "3"))
        self.assertEqual((config.boolean("fsync"), config.array("hosts")), (True, ["a", "b"]))
        self.assertEqual((config.integer("none", 7), config.json("none", None)), (7, None))
        for read in (config.string, config.integer, config.number, config.boolean, config.array, config.json):
            for default in (None, (), "", True, 7):
                self.assertIs(read("none", default), default)
        self.assertEqual((config.get("colour"), config.get("none"), len(config)), ("red", None, 7))

    def test_what_does_not_fit_is_named(self):
        config = self.config()
        cases = [
            (lambda: config.integer("colour"), 'config: colour = "red" does not do: it must be a whole number'),
            (lambda: config.integer("fsync"), 'config: fsync = "true" does not do: it must be a whole number'),
            (lambda: config.integer("ratio"), 'config: ratio = "0.5" does not do: it must be a whole number'),
            (lambda: config.boolean("depth"), 'config: depth = "3" does not do: it must be true or false'),
            (lambda: config.array("colour"), 'config: colour = "red" does not do: it must be a list'),
            (lambda: config.integer("none"), "config: none is not set; set it in the plugin's own table"),
            (lambda: config.string("none"), "config: none is not set; set it in the plugin's own table"),
        ]
        for read, says in cases:
            with self.assertRaises(Permanent) as raised:
                read()
            self.assertEqual(raised.exception.reason, says)

    def test_keys_are_shown_and_values_are_not(self):
        config = self.config()
        self.assertIn("webhook.secret", repr(config))
        self.assertNotIn("s3cret", repr(config))
        self.assertEqual(config.with_prefix("webhook."), {"secret": "s3cret", "url": "http://a"})
