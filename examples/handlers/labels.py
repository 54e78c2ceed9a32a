"""Labels commits by what they touch: `axwatch handler create labels --file examples/handlers/labels.py`

The plugin `git` claims `docs is modified_in of abc1234`; this says `abc1234 is labelled of documentation`.
"""

from axwatch import attest, watch

LABELS = {
    "docs": "documentation",
    "tests": "tests",
    "src": "code",
    ".github": "ci",
    ".ci": "ci",
}


@watch(predicate="modified_in")
def label(upstream):
    labels = sorted({LABELS[path] for path in upstream["subjects"] if path in LABELS})
    for name in labels:
        attest(upstream["contexts"], ["labelled"], [name])
    return labels
