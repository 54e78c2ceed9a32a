"""Greets whoever is an author of GitHub: a whole plugin."""

from axwatch_sdk import Claim, Done, Job, NotNow, Plugin

plugin = Plugin("greet", "0.1.0", "greets authors")
plugin.config_field("greeting", "string", "how to greet", default="Hello")
plugin.config_field("quiet", "boolean", "greet nobody for now", default=False)


@plugin.handler("greet.hello")
@plugin.watch("authors", "is author of GitHub")
def hello(job: Job) -> Done:
    if job.config.boolean("quiet", False):
        raise NotNow("nobody is greeted now", after=60)
    author = job.attestation  # a payload that is no claim fails for good
    text = f"{job.config.string('greeting', 'Hello')}, {author.subject}!"
    claim = Claim(author.subject, "greeted", "GitHub", attributes={"text": text})
    job.attest(claim)  # on behalf of this job: another attempt makes no second one
    return Done(json=text)


if __name__ == "__main__":
    plugin.serve()
