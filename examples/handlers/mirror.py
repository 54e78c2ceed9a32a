"""Keeps a copy of some claims in a file: `axwatch handler create mirror --file examples/handlers/mirror.py`

One JSON object a line, as any program reads them. The file is MIRROR_FILE, or claims.jsonl in your home folder.
"""

import json
import os
from pathlib import Path

from axwatch import watch

FILE = Path(os.environ.get("MIRROR_FILE") or Path.home() / "claims.jsonl")
# A repeat comes soon after the first time, so that looking at the end of the file finds it.
LOOKED_AT_BYTES = 256 * 1024


@watch(context="ci")
def mirror(upstream):
    if has(upstream["id"]):
        return "it is there already"
    line = json.dumps(upstream, ensure_ascii=False, sort_keys=True) + "\n"
    with FILE.open("ab", buffering=0) as file:
        file.write(line.encode())
        os.fsync(file.fileno())
    return str(FILE)


def has(claim_id):
    if not FILE.exists():
        return False
    with FILE.open("rb") as file:
        file.seek(max(0, FILE.stat().st_size - LOOKED_AT_BYTES))
        return json.dumps(claim_id, ensure_ascii=False).encode() in file.read()
