"""What is checked in is what would be made now, and every type holds."""

import importlib.util
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HAS_PROTO = (ROOT.parent.parent / "proto" / "protocol").is_dir()


def missing(module):
    return importlib.util.find_spec(module) is None


class UpToDate(unittest.TestCase):
    def run_here(self, *command):
        ran = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    @unittest.skipIf(missing("grpc_tools") or not HAS_PROTO, "needs requirements-dev.txt and the repository")
    def test_the_messages_are_those_of_the_proto_files(self):
        self.run_here("generate.py", "--check")

    @unittest.skipIf(missing("mypy"), "needs requirements-dev.txt")
    def test_all_types_hold(self):
        self.run_here("-m", "mypy")
        self.run_here("-m", "mypy", "--strict", "examples/greet.py")
