"""What the records of a study say of its trials."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ad3d_jax.experiment.study.strata import Kinds

# Names of attributes: of a study FACTS, of its trials the others.
SLOT, FIELDS, WORKER, CAUSE, REASON = "slot", "fields", "worker", "cause", "reason"
FACTS, KINDS = "facts", "kinds"
# Why an attempt failed; a lost one, whose worker died, could not say so.
STOPPED, BROKEN, REFUSED, LOST = "stopped", "broken", "refused", None


class Outcome(NamedTuple):
    """What became of a trial: a value, pruned, or the cause of its failure."""

    value: float | None = None
    pruned: bool = False
    cause: str | None = None
    reason: str = ""
    kinds: Kinds | None = None  # of planted defects, what was measured of each


def kinds_at(step: int) -> str:
    """Returns the name under which a trial keeps what was measured at a step."""
    return f"{KINDS}.{step}"


def digest(fields: Mapping[str, Any] | None) -> str:
    """Returns 12 hex digits that stand for the values of fields."""
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
