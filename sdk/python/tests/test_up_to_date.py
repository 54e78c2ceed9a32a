"""What is checked in is what would be made now, and every type holds."""

import importlib.util
import os
import subprocess
import sys
import unittest
from pathlib import Path

from .support import NAMED

ROOT = Path(__file__).resolve().parent.parent
HAS_PROTO = (ROOT.parent.parent / "proto" / "protocol").is_dir()


class UpToDate(unittest.TestCase):
    def need(self, module):
        if importlib.util.find_spec(module) is None:
            says = f"{module} is not installed; it is one of requirements-dev.txt"
            self.fail(says) if NAMED else self.skipTest(says)

    def run_here(self, *command):
        ran = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    @unittest.skipUnless(HAS_PROTO, "needs the repository")
    def test_the_messages_are_those_of_the_proto_files(self):
        self.need("grpc_tools")
        self.run_here("generate.py", "--check")

    def test_all_types_hold(self):
        self.need("mypy")
        self.run_here("-m", "mypy")
        self.run_here("-m", "mypy", "--strict", "examples/greet.py", "tests/typed_plugin.py")


class Skipped(unittest.TestCase):
    """Whoever names a program sees that it, or what else the tests need, is not there."""

    def ran(self, module, named):
        without = (
            "import sys, unittest; sys.modules.update(mypy=None, grpc_tools=None); "
            "unittest.main(sys.argv[1], argv=sys.argv[1:])"
        )
        case = {"tests.test_engine": "Engine", "tests.test_up_to_date": "UpToDate"}[module]
        environment = {**os.environ, "AXWATCH_BIN": named}
        return subprocess.run(
            [sys.executable, "-c", without, module, case], cwd=ROOT, env=environment, capture_output=True, text=True
        )

    def test_a_named_program_that_is_not_there_is_an_error(self):
        ran = self.ran("tests.test_engine", "/nowhere/axwatch")
        self.assertEqual(ran.returncode, 1, ran.stderr)
        self.assertIn("AXWATCH_BIN=/nowhere/axwatch is not there", ran.stderr)

    def test_packages_that_are_not_there_are_an_error_only_with_a_named_program(self):
        ran = self.ran("tests.test_up_to_date", sys.executable)
        self.assertEqual(ran.returncode, 1, ran.stderr)
        self.assertIn("mypy is not installed", ran.stderr)
        ran = self.ran("tests.test_up_to_date", "")
        self.assertIn("OK (skipped=2)", ran.stderr)
