"""The part of the page on decisions: thresholds, false alarms and detections."""

from typing import Any

import numpy as np

from ad3d_jax.report import markup
from ad3d_jax.report.markup import DASH, gap, number, paragraph, section, text
from ad3d_jax.report.measures import defect_names
from ad3d_jax.workdir.scores import VERDICTS, Row

SOURCES = {
    "validation": "good samples of the validation split",
    "held_out": "good samples that were held out of train",
    "folds": "training samples, each by a fit without its fold",
}


def decisions_section(metrics: dict[str, Any], rows: tuple[Row, ...]) -> str:
    """Returns what was decided at the chosen rate of false alarms, and how well."""
    title, point = "Decisions from good samples alone", metrics.get("calibration")
    notes = metrics.get("notes")
    said = notes if isinstance(notes, dict) else {}
    if not isinstance(point, dict) or number(metrics.get("alpha")) == DASH:
        reason = said.get("calibration", "nothing is recorded of a calibration")
        return section("decisions", title, gap(f"No decision was made: {reason}."))
    samples, alpha = point.get("samples"), metrics["alpha"]
    source = SOURCES.get(str(point.get("source")), str(point.get("source")))
    bound = number(point.get("bound"), 3)
    words = [
        f"{samples} {source} set the threshold, and nothing of the test set. On "
        f"average over such sets of samples at most the share {bound} of good parts "
        f"like these is called defective; {alpha:g} was asked for."
    ]
    if note := said.get("threshold"):
        words.append(f"{note[:1].upper()}{note[1:]}.")
    facts = {
        "rate of false alarms asked for": number(alpha),
        "threshold of the image score": number(metrics.get("threshold"), 6),
        "threshold of the map": number(metrics.get("pixel_threshold"), 6),
        "false alarms on the test set": rate("false_alarm_rate", metrics, said),
        "defective parts found on the test set": rate("detection_rate", metrics, said),
    }
    return section(
        "decisions",
        title,
        paragraph(" ".join(words)),
        markup.definitions(facts),
        verdicts_table(rows),
    )


def rate(name: str, metrics: dict[str, Any], notes: dict[str, Any]) -> str:
    """Returns a rate as a number; a missing one is a dash with its reason."""
    shown = number(metrics.get(name))
    return f"{shown} ({notes[name]})" if shown == DASH and name in notes else shown


def verdicts_table(rows: tuple[Row, ...]) -> str:
    """Returns how many samples of each type are called good, defective, and flagged."""
    judged = [row for row in rows if row.verdict]
    if not judged:
        return gap("No sample has a verdict.")
    lines = []
    for defect in defect_names(tuple(judged)):
        own = [row for row in judged if row.defect == defect]
        counts = [sum(row.verdict == verdict for row in own) for verdict in VERDICTS]
        flagged = sum(bool(row.boxes) for row in own)
        middle = float(np.median([row.p_value for row in own]))
        lines.append(
            (defect, str(len(own)), *map(str, counts), str(flagged), f"{middle:.3g}")
        )
    heads = ("type", "images", *VERDICTS, "with a flagged region", "median p-value")
    return markup.table(heads, lines, range(1, len(heads)))


def verdict_tag(row: Row) -> str:
    """Returns verdict and p-value of a sample, "" where there is none."""
    if np.isnan(row.p_value):
        return ""
    bad = " bad" if row.verdict == VERDICTS[1] else ""
    words = f"called {row.verdict}, " if row.verdict else ""
    return f'<span class="tag{bad}">{text(words)}p = {row.p_value:.3g}</span>'


def box_mask(row: Row | None, size: tuple[int, int]) -> np.ndarray:
    """Returns [H,W] bool: what lies in the boxes of a sample, at the size of its map.

    Args:
        row: of the sample; None = unknown.
        size: rows and columns that the boxes count.
    """
    mask = np.zeros(size, bool)
    for top, left, bottom, right in row.boxes if row else ():
        mask[top:bottom, left:right] = True
    return mask
