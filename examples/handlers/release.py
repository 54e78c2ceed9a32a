"""Says it when a release is tagged: `axwatch handler create release --file examples/handlers/release.py`

The plugin `git` claims `v1.2.0 is node_type of tag`. Each tag that is a version becomes a claim
`v1.2.0 is released of releases`, and a message to the URL in RELEASE_WEBHOOK, if there is one.
"""

import json
import os
import re
import urllib.error
import urllib.request

from axwatch import NotNow, attest, job_id, watch

VERSION = re.compile(r"v?\d+\.\d+\.\d+")


@watch("is node_type of tag", max_fires_per_second=10)
def announce(upstream):
    released = [tag for tag in upstream["subjects"] if VERSION.fullmatch(tag)]
    for tag in released:
        attest([tag], ["released"], ["releases"])
        tell(tag)
    return {"released": released}


def tell(tag):
    text = f"{tag} is out"
    print(text)
    url = os.environ.get("RELEASE_WEBHOOK")
    if not url:
        return
    # The id is the same when the job is tried again, so that the other side can tell a repeat.
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"{job_id}-{tag}"}
    request = urllib.request.Request(url, json.dumps({"text": text}).encode(), headers)
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code in (429, 503):
            raise NotNow(f"{url} answered {error.code}", after=60) from None
        raise
