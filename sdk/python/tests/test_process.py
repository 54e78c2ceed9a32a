"""A plugin as the process that a host starts: its port, its log, its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import unittest
from pathlib import Path

import grpc

from axwatch_sdk._proto import plugin_pb2
from axwatch_sdk._wire import CHANNEL_OPTIONS, Client
from axwatch_sdk.run import BadArguments, wanted_of

from .support import PATIENCE

HERE = Path(__file__).resolve().parent
GREET = HERE.parent / "examples" / "greet.py"
SLOW = HERE / "slow_plugin.py"


class Arguments(unittest.TestCase):
    def test_arguments_say_where_to_listen_or_what_is_wrong(self):
        cases = [
            (["--port", "7000"], ("127.0.0.1", 7000)),
            (["--port=0"], ("127.0.0.1", 0)),
            (["--address", "127.0.0.2:7000"], ("127.0.0.2", 7000)),
            (["--address=[::1]:7000"], ("::1", 7000)),
            (["--help"], "help"),
            (["--port", "7000", "-V"], "version"),
            ([], "no port is given"),
            (["--port"], "--port needs a value"),
            (["--port", "70000"], '--port "70000" is no port; it must be a number from 0 to 65535'),
            (["--port", "-1"], '--port "-1" is no port; it must be a number from 0 to 65535'),
            (
                ["--address", "7000"],
                '--address "7000" is no address; it must be HOST:PORT, such as 127.0.0.1:7000',
            ),
            (["--fast"], 'unknown argument "--fast"'),
            (["--port", "1", "--address", "127.0.0.1:2"], "more than one port or address is given"),
        ]
        for words, expected in cases:
            try:
                found = wanted_of(words)
            except BadArguments as error:
                found = str(error)
            self.assertEqual(found, expected, words)


class Processes(unittest.TestCase):
    def start(self, script, *arguments):
        # As a host starts it; whoever runs the tests may have asked for something else.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**env, "PYTHONPATH": str(HERE.parent)},
            text=True,
        )
        self.addCleanup(lambda: (process.kill(), process.communicate()))
        return process

    def client(self, process):
        line = process.stdout.readline()
        self.assertRegex(line, r"^QNTX_PLUGIN_PORT=\d+\n$")
        channel = grpc.insecure_channel(f"127.0.0.1:{line.split('=')[1].strip()}", options=CHANNEL_OPTIONS)
        self.addCleanup(channel.close)
        return Client(channel, "protocol.DomainPluginService")

    def ended(self, process):
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err

    def test_it_tells_its_port_first_and_ends_with_each_signal(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            process = self.start(GREET, "--port", "0")
            client = self.client(process)
            self.assertEqual(client("Metadata")(plugin_pb2.Empty(), wait_for_ready=True).name, "greet")
            process.send_signal(number)
            self.assertEqual(self.ended(process), (0, ""))

    def test_it_takes_the_port_that_it_is_given(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = self.start(GREET, "--address", f"127.0.0.1:{port}")
        self.assertEqual(process.stdout.readline(), f"QNTX_PLUGIN_PORT={port}\n")

    def test_it_answers_shutdown_and_ends_although_the_connection_stays(self):
        process = self.start(GREET, "--port=0")
        client = self.client(process)
        client("Shutdown")(plugin_pb2.Empty(), wait_for_ready=True)
        self.assertEqual(self.ended(process), (0, ""))

    def test_a_job_that_does_not_end_does_not_keep_it(self):
        process = self.start(SLOW, "--port", "0")
        client = self.client(process)
        client("Initialize")(plugin_pb2.InitializeRequest(), wait_for_ready=True)
        request = plugin_pb2.ExecuteJobRequest(handler_name="slow.sleep", job_id="j", attempt=2)
        # Held: a call that nobody holds may be cancelled.
        running = client("ExecuteJob").future(request)
        line = json.loads(process.stderr.readline())
        said = {"level": "info", "message": "sleeping", "job": "j", "handler": "slow.sleep", "attempt": 2}
        self.assertEqual(line, {**line, **said})
        self.assertEqual(process.stdout.readline(), "good night\n", "at once, although it is a pipe")
        self.assertFalse(running.done())
        process.send_signal(signal.SIGTERM)
        # Killed by a host after 3 s, which a busy machine may stretch.
        code, err = self.ended(process)
        self.assertEqual(code, 0)
        self.assertIn("ending, although jobs are running: 1", err)

    def test_what_is_wrong_is_said_with_an_exit_code(self):
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port = str(taken.getsockname()[1])
        cases = [
            (["--port", port], 1, f"error: cannot listen on 127.0.0.1:{port}: Address already in use"),
            ([], 2, "error: no port is given"),
            (["--prot", "1"], 2, 'error: unknown argument "--prot"'),
        ]
        for arguments, code, says in cases:
            ended, err = self.ended(self.start(GREET, *arguments))
            self.assertEqual(ended, code, err)
            self.assertTrue(err.startswith(says), err)
            self.assertEqual("Usage: " in err, code == 2, err)
        process = self.start(GREET, "--help")
        out, _ = process.communicate(timeout=PATIENCE)
        self.assertTrue(out.startswith("greet 0.1.0: greets authors"), out)
        self.assertEqual(process.returncode, 0)
