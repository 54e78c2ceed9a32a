"""HTTP and sockets, as the host passes them on."""

import asyncio
import queue
import threading
import unittest

import grpc

from axwatch_sdk import Response, SocketClosed
from axwatch_sdk._proto import plugin_pb2
from axwatch_sdk._wire import Client
from axwatch_sdk.testing import Harness

from .support import PATIENCE, scripted, until

Message = plugin_pb2.WebSocketMessage


class Requests(unittest.TestCase):
    def plugin(self):
        plugin = scripted(lambda job: None)

        @plugin.route("GET", "/hello", "says hello")
        def hello(request):
            return {"hello": request.parameter("name", "you"), "all": request.query.get("name", [])}

        @plugin.route("POST", "/echo/{kind}/end")
        def echo(request):
            headers = {"X-Kind": [request.parts["kind"], "twice"], "X-Seen": request.header("X-Given") or ""}
            return Response(request.body, status=201, headers=headers, content_type="application/x-echo")

        @plugin.route("PUT", "/json")
        def put(request):
            return [request.json()]

        plugin.route("GET", "/nothing")(lambda request: None)
        plugin.route("GET", "/text")(lambda request: "é")
        plugin.route("GET", "/broken")(lambda request: 1 // 0)
        return plugin

    def test_a_request_comes_to_its_route(self):
        with Harness(self.plugin()) as harness:
            self.assertIn(("POST", "/echo/{kind}/end"), harness.announced.routes)

            def ask(method, path, body=b"", headers=None):
                answer = harness.request(method, path, body, headers)
                return answer.status, answer.body, answer.headers

            status, body, headers = ask("GET", "/hello?name=a%20b&name=c")
            self.assertEqual((status, body), (200, b'{"hello": "a b", "all": ["a b", "c"]}'))
            self.assertEqual(headers["Content-Type"], ["application/json"])
            self.assertEqual(ask("HEAD", "/hello")[0], 200)
            status, body, headers = ask("POST", "/echo/a%2Fb/end", b"\xff\x00", {"x-given": "v"})
            self.assertEqual(status, 404, "an encoded slash is a slash")
            status, body, headers = ask("POST", "/echo/ab/end", b"\xff\x00", {"x-given": "v"})
            self.assertEqual((status, body), (201, b"\xff\x00"))
            self.assertEqual((headers["X-Kind"], headers["X-Seen"]), (["ab", "twice"], ["v"]))
            self.assertEqual(headers["Content-Type"], ["application/x-echo"])
            self.assertEqual(ask("PUT", "/json", b'{"a":1}')[:2], (200, b'[{"a": 1}]'))
            self.assertEqual(ask("PUT", "/json", b"{")[0], 400)
            self.assertEqual(ask("GET", "/nothing")[:2], (204, b""))
            self.assertEqual(ask("GET", "/text")[1], "é".encode())
            self.assertEqual(ask("GET", "/absent")[0], 404)
            status, _, headers = ask("DELETE", "/hello")
            self.assertEqual((status, headers["Allow"]), (405, ["GET"]))
            with self.assertLogs("axwatch", "ERROR") as logged:
                self.assertEqual(ask("GET", "/broken")[0], 500)
            self.assertIn("GET /broken failed", logged.output[0])
            large = b"x" * (20 * 1024 * 1024)
            self.assertEqual(ask("POST", "/echo/large/end", large)[1][:1], b"x")

    def test_two_slashes_are_no_host(self):
        plugin = scripted(lambda job: None)
        plugin.route("GET", "/{rest}")(lambda request: f"one: {request.parts['rest']}")
        plugin.route("GET", "/{first}/{rest}")(lambda request: f"two: {request.path} {request.parameter('q')}")
        with Harness(plugin) as harness:
            for path, answer in [
                ("//admin/x", b"two: /admin/x None"),
                ("//admin/x?q=a?b//c", b"two: /admin/x a?b//c"),
                ("//[x", b"one: [x"),
            ]:
                answered = harness.request("GET", path)
                self.assertEqual((answered.status, answered.body), (200, answer), path)

    def test_a_route_may_be_async(self):
        plugin = scripted(lambda job: None)

        @plugin.route("POST", "/json")
        async def post(request):
            await asyncio.sleep(0)
            return {"given": request.json()}

        @plugin.route("GET", "/cancelled")
        async def cancelled(request):
            task = asyncio.ensure_future(asyncio.sleep(PATIENCE))
            task.cancel()
            await task

        with Harness(plugin) as harness:
            answered = harness.request("POST", "/json", b"[1]")
            self.assertEqual((answered.status, answered.body), (200, b'{"given": [1]}'))
            self.assertEqual(harness.request("POST", "/json", b"{").status, 400)
            with self.assertLogs("axwatch", "ERROR"):
                self.assertEqual(harness.request("GET", "/cancelled").status, 500)


class Frames:
    """What a browser sends, as it comes to mind."""

    def __init__(self):
        self._frames = queue.Queue()

    def send(self, kind, data=b"", **more):
        self._frames.put(Message(type=kind, data=data, **more))

    def end(self):
        self._frames.put(None)

    def __iter__(self):
        return iter(lambda: self._frames.get(timeout=PATIENCE), None)


class Sockets(unittest.TestCase):
    def open(self, function, query=None, path="/room"):
        plugin = scripted(lambda job: None)
        plugin.socket(function)
        harness = Harness(plugin)
        self.addCleanup(harness.close)
        frames = Frames()
        frames.send(Message.CONNECT, headers={"path": path})
        self.addCleanup(frames.end)
        return frames, harness.socket(frames, query)

    def test_messages_go_both_ways_and_a_ping_is_answered(self):
        def talk(socket):
            socket.send(f"{socket.path} {socket.query['room']}")
            for message in socket:
                socket.send(b"heard " + message)

        frames, answers = self.open(talk, {"room": "7"})
        self.assertEqual(next(answers).data, b"/room 7")
        frames.send(Message.PING, timestamp=4_711)
        pong = next(answers)
        self.assertEqual((pong.type, pong.timestamp), (Message.PONG, 4_711))
        frames.send(Message.DATA, b"\x00\xff")
        self.assertEqual(next(answers).data, b"heard \x00\xff")
        frames.send(Message.CLOSE)
        self.assertEqual(list(answers), [])

    def test_the_query_is_that_of_the_path_and_nothing_else(self):
        def talk(socket):
            socket.send(repr((socket.path, socket.query, socket.query_values)))

        cases = [
            ("/room", None, "/room", {}),
            ("/a%20room?x=1", None, "/a room", {"x": ["1"]}),
            ("/?a=1&a=2&user-agent=me", None, "/", {"a": ["1", "2"], "user-agent": ["me"]}),
            ("/?empty&caf%C3%A9=%26+b", None, "/", {"empty": [""], "café": ["& b"]}),
            ("/room?x=1", {"y": ["2", "3"], "z": "ä&"}, "/room", {"x": ["1"], "y": ["2", "3"], "z": ["ä&"]}),
        ]
        for path, query, expected, values in cases:
            _, answers = self.open(talk, query, path)
            first = {name: all_of_it[0] for name, all_of_it in values.items()}
            self.assertEqual(next(answers).data.decode(), repr((expected, first, values)), path)

    def test_a_host_that_does_not_say_the_path_says_the_query_as_metadata(self):
        plugin = scripted(lambda job: None)
        plugin.socket(lambda socket: socket.send(repr((socket.path, socket.query_values))))
        with Harness(plugin) as harness, grpc.insecure_channel(harness.address) as channel:
            call = Client(channel, "protocol.DomainPluginService")("HandleWebSocket")
            # It stays open: a browser that is gone is told nothing.
            frames = Frames()
            frames.send(Message.CONNECT)
            answers = call(iter(frames), metadata=[("a", "1"), ("a", "2")])
            self.assertEqual(next(answers).data, b"('', {'a': ['1', '2']})")
            frames.end()

    def test_the_plugin_may_close_and_what_it_said_arrives(self):
        def talk(socket):
            self.assertEqual(socket.receive(), b"go")
            for n in range(200):
                socket.send(str(n))

        frames, answers = self.open(talk)
        frames.send(Message.DATA, b"go")
        said = list(answers)
        self.assertEqual([frame.data for frame in said[:-1]], [str(n).encode() for n in range(200)])
        self.assertEqual(said[-1].type, Message.CLOSE)

    def test_its_function_may_be_async(self):
        async def talk(socket):
            await asyncio.sleep(0)
            socket.send(b"heard " + socket.receive())

        frames, answers = self.open(talk)
        frames.send(Message.DATA, b"you")
        said = [(frame.type, frame.data) for frame in answers]
        self.assertEqual(said, [(Message.DATA, b"heard you"), (Message.CLOSE, b"")])

    def test_a_ping_waits_behind_the_messages_that_nobody_reads(self):
        read = threading.Event()

        def talk(socket):
            until("there is no more room", lambda: socket._incoming.full())
            socket.send(b"full")
            self.assertTrue(read.wait(PATIENCE))
            for _ in socket:
                pass

        frames, answers = self.open(talk)
        for _ in range(66):
            frames.send(Message.DATA, b"x")
        frames.send(Message.PING, timestamp=4_711)
        self.assertEqual(next(answers).data, b"full", "and no PONG before it")
        read.set()
        self.assertEqual(next(answers).type, Message.PONG)
        frames.send(Message.CLOSE)

    def test_a_plugin_that_fails_says_so(self):
        def talk(socket):
            raise OSError("no idea")

        with self.assertLogs("axwatch", "ERROR"):
            _, answers = self.open(talk)
            self.assertEqual([frame.type for frame in answers], [Message.ERROR])

    def test_a_browser_that_is_gone_is_told_and_one_that_does_not_read_waited_for(self):
        ended, sent = threading.Event(), []

        def talk(socket):
            try:
                while True:
                    socket.send(b"x" * 100_000)
                    sent.append(1)
            except SocketClosed:
                ended.set()
                raise

        _, answers = self.open(talk)
        next(answers)
        until("it fills what there is room for", lambda: len(sent) > 10)
        answers.cancel()
        self.assertTrue(ended.wait(PATIENCE))
        self.assertLess(len(sent), 2_000, "and no more")
