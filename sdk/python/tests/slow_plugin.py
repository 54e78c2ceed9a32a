"""A plugin whose job takes longer than anyone waits."""

import logging
import time

from axwatch_sdk import Job, Plugin

plugin = Plugin("slow", "1.0.0", "takes its time")


@plugin.handler("slow.sleep")
def sleep(job: Job) -> None:
    print("good night")
    logging.info("sleeping")
    time.sleep(1_000)


if __name__ == "__main__":
    plugin.serve()
