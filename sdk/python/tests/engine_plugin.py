"""The plugin of the tests against the real engine: what it does, it writes down in a file first."""

import json
import os
import time

from axwatch_sdk import Claim, Done, Job, NotNow, Permanent, Plugin, Retry, Start

plugin = Plugin("snake", "1.0.0", "does what the tests of the SDK want")
plugin.config_field("greeting", "string", "how to greet", default="Hello")
plugin.config_field("depth", "number", "how deep", default=3, min=1)


def note(**what: object) -> None:
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(what) + "\n")


@plugin.on_start
def start(start: Start) -> None:
    start.config.integer("depth", 3)
    start.host.attest(Claim("snake", "began", "test"))
    note(began=len(start.host.query("is began")))


@plugin.handler("snake.greet")
@plugin.watch("authors", "is author of GitHub", params={"mark": "!"})
def greet(job: Job) -> Done:
    claim = job.attestation
    text = f"{job.config.string('greeting', 'Hello')}, {claim.subject}{job.params['mark']}"
    made = job.attest(Claim(claim.subject, "greeted", "GitHub", attributes={"text": text, "stars": 2}))
    assert made.attributes == {"text": text, "stars": 2} and job.exists(made.id)
    note(job=job.id, attempt=job.attempt, watcher=job.watcher)
    return Done(json=text)


@plugin.handler("snake.kill")
@plugin.watch("kills", predicates="kill")
def kill(job: Job) -> Done:
    """Makes claims, and has the engine killed before it can answer the first time."""
    job.attest_all([Claim(job.attestation.subject, "seen"), Claim(job.attestation.subject, "seen")])
    note(job=job.id, attempt=job.attempt)
    while not os.path.exists(os.environ["LEDGER"] + ".go"):
        time.sleep(0.02)
    return Done()


@plugin.handler("snake.fail")
@plugin.watch("fails", predicates="fail")
def fail(job: Job) -> Done:
    note(job=job.id, attempt=job.attempt, subject=job.attestation.subject)
    subject = job.attestation.subject
    if subject == "early" and not os.path.exists(os.environ["LEDGER"] + ".late"):
        open(os.environ["LEDGER"] + ".late", "w").close()
        raise NotNow("too early", after=0.2)
    if subject == "never":
        raise Permanent("will not get better")
    if subject == "flaky" and job.attempt == 1:
        raise Retry("once")
    return Done()


if __name__ == "__main__":
    plugin.serve()
