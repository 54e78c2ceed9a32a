"""Counts the claims of each actor every hour: `axwatch handler create tally --file examples/handlers/tally.py`

`ann is made_claims of hourly` then has the number in its attribute `count`. What came in the last hour is
counted, without the counts themselves; `axwatch schedule run-now python/tally-count` counts at once.
"""

from collections import Counter

from axwatch import attest, query, schedule

# More than this in an hour is said to be at least as many.
MOST = 10_000


@schedule(every="1h")
def count(upstream):
    claims = query("since 1h is not made_claims", limit=MOST)
    actors = Counter(actor for claim in claims for actor in claim["actors"])
    for actor, number in actors.most_common(100):
        attributes = {"count": number, "at_least": len(claims) == MOST}
        attest([actor], ["made_claims"], ["hourly"], attributes=attributes)
    return dict(actors.most_common(100))
