"""Against the real engine: the program `axwatch`, its store on a disk, and a plugin as a process of its own.

`AXWATCH_BIN` says where the program is, and it has to be there; `target/debug/axwatch` of the repository otherwise,
without which these tests are skipped.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from .support import NAMED, PATIENCE, until

HERE = Path(__file__).resolve().parent
BINARY = Path(NAMED or HERE.parents[2] / "target" / "debug" / "axwatch")


@unittest.skipUnless(NAMED or BINARY.is_file(), f"{BINARY} is not there; set AXWATCH_BIN")
class Engine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not BINARY.is_file():
            raise FileNotFoundError(f"AXWATCH_BIN={NAMED} is not there")

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="axwatch-sdk-"))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.ledger = self.folder / "ledger"
        self.servers = []
        self.addCleanup(self.stop_all)

    def stop_all(self):
        for server in self.servers:
            server.terminate()
            try:
                server.wait(25)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            server.stdout.close()

    def configure(self, own=""):
        (self.folder / "am.toml").write_text(
            f"""
[plugin]
enabled = ["snake"]
[plugins.snake]
binary = {json.dumps(sys.executable)}
args = [{json.dumps(str(HERE / "engine_plugin.py"))}, "--port", "{{port}}"]
env = {{ PYTHONPATH = {json.dumps(os.pathsep.join([str(HERE.parent), *sys.path]))}, LEDGER = {json.dumps(str(self.ledger))} }}
[snake]
{own}
"""
        )

    def environment(self):
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)}

    def serve(self):
        with open(self.folder / "serve.log", "a") as log:
            server = subprocess.Popen(
                [str(BINARY), "serve", "--json", "--http", "127.0.0.1:0", "--store", "axwatch.db"],
                cwd=self.folder,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.servers.append(server)
        self.assertTrue(server.stdout.readline(), (self.folder / "serve.log").read_text())
        return server

    def run_axwatch(self, *arguments, code=0):
        ran = subprocess.run(
            [str(BINARY), *arguments, "--json", "--store", "axwatch.db"],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(ran.returncode, code, f"{arguments}: {ran.stdout}{ran.stderr}")
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def ready(self):
        def look():
            shown = self.run_axwatch("plugin", "show", "snake")[0]
            self.assertNotEqual(shown["state"], "failed", shown)
            return shown if shown["state"] == "ready" else None

        return until("the plugin is ready", look)

    def notes(self):
        if not self.ledger.exists():
            return []
        return [json.loads(line) for line in self.ledger.read_text().splitlines()]

    def jobs(self, **wanted):
        found = self.run_axwatch("jobs", "list", "--limit", "100")
        return [job for job in found if all(job.get(key) == value for key, value in wanted.items())]

    def completed(self, count):
        return until(f"{count} jobs are completed", lambda: len(self.jobs(state="completed")) >= count)

    def test_it_starts_fires_and_makes_claims(self):
        self.configure('greeting = "Good day"')
        self.serve()
        shown = self.ready()
        self.assertEqual((shown["version"], shown["error"]), ("1.0.0", None))
        self.assertEqual(sorted(shown["handlers"])[:3], ["snake.fail", "snake.greet", "snake.kill"])
        self.run_axwatch("as", "ALICE is author of GitHub")
        self.completed(1)
        greeted = self.run_axwatch("ax", "is greeted")
        self.assertEqual([claim["attributes"]["text"] for claim in greeted], ["Good day, ALICE!"])
        self.assertEqual(greeted[0]["source"], "snake")
        self.assertEqual(self.notes()[0], {"began": 1})
        self.assertEqual(self.notes()[1]["watcher"], "snake-authors")

    def test_each_failure_is_treated_as_what_it_is(self):
        self.configure()
        self.serve()
        self.ready()
        for subject in ("early", "never", "flaky"):
            self.run_axwatch("as", f"{subject} is fail")
        self.completed(2)
        until("it is a dead letter", lambda: self.jobs(state="failed"))
        (dead,) = self.jobs(state="failed")
        self.assertIn("will not get better", dead["error"])
        attempts = {}
        for note in self.notes():
            if "subject" in note:
                attempts.setdefault(note["subject"], []).append(note["attempt"])
        self.assertEqual(attempts["never"], [1])
        self.assertEqual(attempts["flaky"], [1, 2])
        self.assertEqual(len(attempts["early"]), 2)

    def test_claims_are_made_once_over_a_kill_of_the_engine(self):
        self.configure()
        server = self.serve()
        self.ready()
        self.run_axwatch("as", "BOB is kill")
        until("it has made its claims", lambda: [note for note in self.notes() if "job" in note])
        server.kill()
        server.wait()
        Path(f"{self.ledger}.go").touch()
        self.serve()
        self.ready()
        self.completed(1)
        made = [note for note in self.notes() if "job" in note]
        self.assertGreaterEqual(len(made), 2)
        self.assertEqual(len({note["job"] for note in made}), 1, "the same job")
        self.assertEqual(len(self.run_axwatch("ax", "is seen")), 2, "two of one content, and not four")

    def test_a_configuration_that_does_not_do_is_shown(self):
        self.configure('depth = "deep"')
        self.serve()

        def refused():
            shown = self.run_axwatch("plugin", "show", "snake")[0]
            return shown if shown["error"] else None

        error = until("the error is shown", refused)["error"]
        self.assertIn("depth", error)
        self.assertIn("deep", error)
        self.assertIn("number", error)

    def test_a_restart_loses_nothing(self):
        self.configure()
        self.serve()
        first = self.ready()["pid"]
        self.run_axwatch("plugin", "restart", "snake")
        for n in range(20):
            self.run_axwatch("as", f"S{n} is author of GitHub")
        self.completed(20)
        self.assertNotEqual(self.ready()["pid"], first)
        self.assertEqual(len(self.run_axwatch("ax", "is greeted")), 20)
