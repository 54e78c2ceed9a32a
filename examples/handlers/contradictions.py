"""Flags what is said and denied: `axwatch handler create contradictions --file examples/handlers/contradictions.py`

Somebody says `report-7 is approved of audit`, somebody else `report-7 is rejected of audit`: then
`report-7 is contradicted of audit` names both claims.
"""

from axwatch import attest, query, watch

OPPOSITE = {"approved": "rejected", "rejected": "approved", "open": "closed", "closed": "open"}


@watch("is approved rejected open closed")
def compare(upstream):
    flagged = []
    for predicate in upstream["predicates"]:
        if predicate not in OPPOSITE:
            continue
        for subject in upstream["subjects"]:
            for context in upstream["contexts"]:
                asked = f"{word(subject)} is {OPPOSITE[predicate]} of {word(context)}"
                others = [claim["id"] for claim in query(asked, limit=10)]
                if others:
                    attributes = {"claim": upstream["id"], "denied_by": others}
                    attest([subject], ["contradicted"], [context], attributes=attributes)
                    flagged.append(subject)
    return flagged


def word(text):
    """As one word of AX, whatever is in it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
