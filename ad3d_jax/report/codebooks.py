"""What the log says of codebooks; a collapse is said."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ad3d_jax.report.markup import paragraph, text

PERPLEXITY = re.compile(r"(class_)?perplexity_(\w+)")
COLLAPSED = 0.5  # share of dead codes above which a codebook has collapsed


def size(config: Mapping[str, Any]) -> int | None:
    """Returns how many codes a codebook has by the configuration, None if unsaid."""
    model = config.get("model")
    codes = model.get("codes") if isinstance(model, Mapping) else None
    return codes if isinstance(codes, int) and codes > 0 else None


def sentences(record: Mapping[str, Any], codes: int | None) -> str:
    """Returns a sentence on each codebook of a logged step, as paragraphs.

    Args:
        record: of log.jsonl, with "perplexity_LEVEL" and "dead_LEVEL", or with
            "class_" before them where they count the codes of one class alone.
        codes: in each codebook; None if unknown.

    A codebook most of whose codes are dead is warned of. Not so the codes of one class,
    which need not be all.
    """
    words = []
    for match in filter(None, map(PERPLEXITY.fullmatch, record)):
        of_class, level = match.groups()
        even = record[match[0]]
        dead = record.get(f"{of_class or ''}dead_{level}")
        if not is_number(even) or not is_number(dead):
            continue
        words.append(paragraph(sentence(level, even, dead, codes, bool(of_class))))
        if codes and not of_class and dead > COLLAPSED * codes:
            words.append(collapse(level, dead, codes))
    return "".join(words)


def sentence(
    level: str, even: float, dead: float, codes: int | None, of_class: bool
) -> str:
    """Returns the last state of one codebook in words."""
    where = f"Codebook {level}" + (" on this class" if of_class else "")
    total = f" of {codes}" if codes else ""
    state = "unused" if of_class else "dead"
    return (
        f"{where}, at the last record: as varied as {even:.0f} codes in even use "
        f"(perplexity), {dead:.0f}{total} codes {state}."
    )


def collapse(level: str, dead: float, codes: int) -> str:
    """Returns the warning of a collapse."""
    words = (
        f"{dead:.0f} of its {codes} codes are dead: what they could have distinguished "
        "is lost, and other codes to swap in are few."
    )
    return (
        f'<div class="loud"><strong>Codebook {text(level)} has collapsed.</strong> '
        f"{text(words)}</div>"
    )


def is_number(value: object) -> bool:
    """Tells whether a logged value is a finite number."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and bool(np.isfinite(value))
