"""What the author of an axwatch plugin imports.

A plugin is a `Plugin` with functions: handlers, which act on jobs, and what each waits for.

    from axwatch_sdk import Claim, Done, Job, Plugin

    plugin = Plugin("echo", "1.0.0", "notes who was seen")

    @plugin.handler("echo.seen")
    @plugin.watch("authors", predicates="author")
    def seen(job: Job) -> Done:
        job.attest(Claim(job.attestation.subject, "was_seen", "echo"))
        return Done()

    if __name__ == "__main__":
        plugin.serve()

A handler returns `Done`, or nothing, when the job is done; and raises `Retry`, `NotNow` or `Permanent`. Any other
exception is tried again.

A job may run twice: when an answer was lost, or the host was killed. It then comes under the same id, and claims
made through `Job.attest` are the same claims again. What else a handler does should be as easy to repeat; `Job.id`
is there to tell.

`axwatch_sdk.testing` runs a plugin without an engine.
"""

import os

# What the library behind gRPC has to say is for those who look for it: a host shows each line of a plugin.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from .claim import Attestation, Claim
from .config import Config
from .failure import Cancelled, Failure, NotNow, Permanent, Retry
from .host import Host
from .http import BadRequest, Request, Response
from .job import Done, Job
from .plugin import ConfigField, Health, Plugin, Schedule, Start, Watcher
from .socket import Socket, SocketClosed

__all__ = [
    "Attestation",
    "BadRequest",
    "Cancelled",
    "Claim",
    "Config",
    "ConfigField",
    "Done",
    "Failure",
    "Health",
    "Host",
    "Job",
    "NotNow",
    "Permanent",
    "Plugin",
    "Request",
    "Response",
    "Retry",
    "Schedule",
    "Socket",
    "SocketClosed",
    "Start",
    "Watcher",
]
