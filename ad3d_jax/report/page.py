"""Makes `report/index.html` of a run from the files in its workdir alone."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ad3d_jax.metrics import curves
from ad3d_jax.metrics.ranking import Ranking
from ad3d_jax.report import charts, markup
from ad3d_jax.report.decisions import decisions_section
from ad3d_jax.report.estimate import estimate_section
from ad3d_jax.report.files import Run, read_run
from ad3d_jax.report.glossary import FACTS, METRICS
from ad3d_jax.report.markup import DASH, figure, gap, number, paragraph, section, text
from ad3d_jax.report.measures import (
    defect_names,
    defect_rows,
    image_ranking,
    pixel_ranking,
    scores_of,
)
from ad3d_jax.report.samples import samples_section
from ad3d_jax.report.training import events_section, training_section
from ad3d_jax.workdir import names
from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.scores import Row

FEW = 10  # samples of a kind below which the page asks for caution
DECISION = (
    *("alpha", "threshold", "pixel_threshold", "false_alarm_rate"),
    *("detection_rate", "calibration"),
)
RATES = {"false_alarm_rate": "false alarms", "detection_rate": "detections"}
LINKS = (*("facts", "metrics", "decisions", "curves", "scores", "samples", "training"),)


def write_report(workdir: Path) -> Path:
    """Writes `report/index.html` and `report/clouds/*.ply`; returns the page's path.

    Reads config.json, metrics.json, log.jsonl, scores.csv and maps/. Whatever is
    missing, undefined or unreadable is told on the page, never averaged over.

    Raises:
        ValueError: `workdir` is not a folder.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"{workdir}: expected the folder of a run, found none")
    run = read_run(workdir)
    folder = workdir / names.REPORT
    folder.mkdir(exist_ok=True)
    page = folder / names.PAGE
    write_text(page, compose(run, folder))
    return page


def compose(run: Run, folder: Path) -> str:
    """Returns the page; the clouds it links to are written below `folder`."""
    images, pixels = image_ranking(run.rows), pixel_ranking(run)
    title = f"{run.metrics.get('system', 'A run')} on {category(run)}"
    gaps = [*run.gaps, *disagreements(run.metrics, images, pixels), *cautions(run.rows)]
    links = "".join(f'<a href="#{name}">{name}</a>' for name in LINKS)
    if (folder / names.WHY).exists():
        links += f'<a href="{names.WHY}">why this one</a>'
    body = (
        f"<header><h1>{text(title)}</h1>",
        paragraph(headline(run), "lead"),
        f"<nav>{links}</nav></header>",
        random_weights(run.metrics),
        cards(run.metrics),
        gap_list(gaps),
        facts_section(run),
        metrics_section(run.metrics),
        decisions_section(run.metrics, run.rows),
        estimated(run.metrics),
        curves_section(run.metrics, images, pixels),
        scores_section(run.rows, images),
        samples_section(run, folder),
        training_section(run.train, run.config),
        events_section(run.events),
    )
    return markup.document(title, *body)


def estimated(metrics: dict[str, Any]) -> str:
    """Returns the values on planted defects, where the detector was chosen by them."""
    found = metrics.get("estimate")
    return estimate_section(found) if isinstance(found, dict) else ""


def category(run: Run) -> str:
    """Returns the name of what was inspected."""
    named = run.metrics.get("category")
    seen = sorted({row.category for row in run.rows})
    return str(named or ", ".join(seen) or "an unnamed category")


def headline(run: Run) -> str:
    """Returns in plain words what was inspected and how well defects were found."""
    good = sum(row.label == 0 for row in run.rows)
    bad = len(run.rows) - good
    words = [
        f"{run.metrics.get('system', 'The system')} inspected {len(run.rows)} test "
        f"images of {category(run)}: {good} good and {bad} defective."
    ]
    ranked, marked = run.metrics.get("i_auroc"), run.metrics.get("aupro_30")
    if number(ranked) != DASH:
        words.append(
            "Of a good and a defective part it gives the defective one the higher "
            f"score in {100 * ranked:.1f} % of all pairs (I-AUROC {ranked:.4f}; "
            "guessing gives 50 %)."
        )
    else:
        words.append("How well it tells good from defective parts is not known.")
    if number(marked) != DASH:
        words.append(
            f"Where the defects are, its maps show with AUPRO @ 30 % of {marked:.4f} "
            "(a random map gives 0.15, a perfect one 1)."
        )
    else:
        words.append("How well it shows where the defects are is not known.")
    return " ".join(words)


def random_weights(metrics: dict[str, Any]) -> str:
    """Returns the warning that stands above figures of random weights, or nothing."""
    weights = metrics.get("weights")
    if not isinstance(weights, dict) or "random" not in weights.values():
        return ""
    return (
        '<div class="loud"><strong>Weights: random.</strong> No pretrained weights '
        "were loaded. Where the system builds on a pretrained network, these figures "
        "are not those of the published system.</div>"
    )


def cards(metrics: dict[str, Any]) -> str:
    """Returns the four figures that are read first."""
    chosen = ("i_auroc", "aupro_30", "p_auroc")
    pairs = [(METRICS[name].name, number(metrics.get(name), 3)) for name in chosen]
    pairs.append(("images per second", number(metrics.get("images_per_second"), 1)))
    inner = "".join(
        f'<div class="card"><b>{text(value)}</b>{text(name)}</div>'
        for name, value in pairs
    )
    return f'<div class="cards">{inner}</div>'


def gap_list(gaps: list[str]) -> str:
    """Returns the box that tells what is missing, or nothing."""
    if not gaps:
        return ""
    items = "".join(f"<li>{text(words)}</li>" for words in gaps)
    return f'<div class="gaps"><strong>Read with care</strong><ul>{items}</ul></div>'


def disagreements(
    metrics: dict[str, Any], images: Ranking | str, pixels: Ranking | str
) -> list[str]:
    """Returns where metrics.json differs from what the other files give."""
    found = []
    if isinstance(images, Ranking):
        found.append(("i_auroc", names.SCORES, curves.auroc(images)))
    if isinstance(pixels, Ranking):
        found.append(("aupro_30", "maps/", curves.aupro(pixels, 0.3)))
    return [
        f"{names.METRICS} says {METRICS[name].name} {metrics[name]:.4f}, but {source} "
        f"gives {value:.4f}: the files are not of one run."
        for name, source, value in found
        if number(metrics.get(name)) != DASH and abs(metrics[name] - value) > 1e-3
    ]


def cautions(rows: tuple[Row, ...]) -> list[str]:
    """Returns a sentence for each kind of which there are few samples."""
    counts = {"good": sum(row.label == 0 for row in rows)}
    counts["defective"] = len(rows) - counts["good"]
    few = "test images: each moves the image-level figures visibly."
    return [
        f"Only {count} {kind} {few}" if count else f"There is no {kind} test image."
        for kind, count in counts.items()
        if rows and count < FEW
    ]


def notes(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns the recorded notes by the name of the metric or fact."""
    found = metrics.get("notes")
    return found if isinstance(found, dict) else {}


def note(name: str, metrics: dict[str, Any]) -> str:
    """Returns the recorded note on a metric; if it is null without one, says so."""
    if name in notes(metrics):
        return str(notes(metrics)[name])
    if name not in metrics:
        return f"not in {names.METRICS}"
    undefined = number(metrics[name]) == DASH
    return "undefined, no reason was recorded" if undefined else ""


def metrics_section(metrics: dict[str, Any]) -> str:
    """Returns the table of metrics, and those of each part."""
    if not metrics:
        return section("metrics", "Metrics", gap("There are no metrics."))
    rows = []
    for name, term in METRICS.items():
        said = note(name, metrics)
        meaning = f"{term.meaning} Note: {said}." if said else term.meaning
        if limits := (metrics.get("bounds") or {}).get(name):
            meaning += f" The exact value lies in {limits[0]:.4f} to {limits[1]:.4f}."
        rows.append((term.name, number(metrics.get(name)), meaning))
    told = {*METRICS, *FACTS, *DECISION}
    others = {k: v for k, v in notes(metrics).items() if k not in told}
    return section(
        "metrics",
        "Metrics",
        paragraph(
            "Measured on the whole test set. I- is judged image by image, P- and "
            "AUPRO pixel by pixel; 1 is perfect."
        ),
        markup.table(("metric", "value", "what it says"), rows, (1,)),
        *(gap(f"{name}: {words}.") for name, words in others.items()),
        parts_table(metrics, "parts", "Each part of the score by itself"),
        parts_table(metrics, "members", "Each member of the ensemble by itself"),
    )


def parts_table(metrics: dict[str, Any], group: str, title: str) -> str:
    """Returns the same metrics for each of a group, `parts` or `members`, if any."""
    found = metrics.get(group)
    parts = {k: v for k, v in (found or {}).items() if isinstance(v, dict)}
    if not parts:
        return ""
    terms = {**{name: term.name for name, term in METRICS.items()}, **RATES}
    names = [n for n in terms if any(n in part for part in parts.values())]
    heads = (group.removesuffix("s"), *(terms[name] for name in names))
    rows = [
        (part, *(number(values.get(name)) for name in names))
        for part, values in parts.items()
    ]
    reasons = [
        gap(f"{part}, {terms[name]}: {note(name, values)}.")
        for part, values in parts.items()
        for name in names
        if number(values.get(name)) == DASH
    ]
    return "\n".join(
        (
            f"<h3>{text(title)}</h3>",
            markup.table(heads, rows, range(1, len(heads))),
            *reasons,
        )
    )


def curves_section(
    metrics: dict[str, Any], images: Ranking | str, pixels: Ranking | str
) -> str:
    """Returns ROC and precision-recall over images and PRO over pixels."""

    def caption(name: str, words: str) -> str:
        return f"{words} {METRICS[name].name} {number(metrics.get(name))}."

    shown = []
    if isinstance(images, Ranking):
        roc, pr = curves.roc_curve(images), curves.pr_curve(images)
        share = images.defects / (images.defects + images.normals)
        shown += [
            figure(
                markup.png(charts.roc_chart(*roc)),
                caption("i_auroc", "ROC over images."),
            ),
            figure(
                markup.png(charts.pr_chart(*pr, share)),
                caption("i_ap", "Precision and recall over images."),
            ),
        ]
    else:
        shown.append(gap(f"No ROC and precision-recall curve: {images}."))
    if isinstance(pixels, Ranking):
        pro = curves.pro_curve(pixels, charts.PRO_END)
        words = "PRO over pixels, the limits 1, 5, 10 and 30 % shaded."
        shown.append(
            figure(markup.png(charts.pro_chart(*pro)), caption("aupro_30", words))
        )
    else:
        shown.append(gap(f"No PRO curve: {pixels}."))
    return section("curves", "Curves", f'<div class="charts">{"".join(shown)}</div>')


def scores_section(rows: tuple[Row, ...], images: Ranking | str) -> str:
    """Returns histogram and table of the image scores by defect type."""
    title = "Image scores by defect type"
    if not rows:
        return section("scores", title, gap("There are no scores."))
    threshold = curves.f1_max(images)[1] if isinstance(images, Ranking) else None
    found = defect_rows(rows, threshold)
    table = markup.table(
        ("type", "images", "mean score", "at or above threshold", "I-AUROC vs good"),
        [
            (
                row.defect,
                str(row.count),
                DASH if row.mean_score is None else f"{row.mean_score:.4f}",
                DASH
                if row.detected is None
                else f"{row.detected} ({100 * row.detected / row.count:.0f} %)",
                number(row.auroc),
            )
            for row in found
        ],
        (1, 2, 3, 4),
    )
    by_type = {
        d: scores_of([r for r in rows if r.defect == d]) for d in defect_names(rows)
    }
    good = {row.defect for row in rows if row.label == 0}
    chart = (
        figure(
            markup.png(charts.score_chart(by_type, good, threshold)),
            "Each dot is a test image; boxes hold the middle half of a type.",
        )
        if all(np.isfinite(values).all() for values in by_type.values())
        else gap("No histogram: some scores are missing or infinite.")
    )
    if threshold is None:
        return section("scores", title, gap(f"No threshold: {images}."), chart, table)
    words = (
        f"The threshold {threshold:.5g} is the one at which F1 is largest on this test "
        "set. It describes this test set; it is not the operating point, which good "
        "samples set beforehand."
    )
    return section("scores", title, paragraph(words), chart, table)


def facts_section(run: Run) -> str:
    """Returns the facts of the run and its configuration."""
    told = ("parts", "members", "notes", "bounds", "estimate")
    skipped = {*METRICS, *DECISION, *told}
    names = [*FACTS, *(n for n in run.metrics if n not in skipped and n not in FACTS)]
    facts = {FACTS.get(name, name): shown_fact(name, run.metrics) for name in names}
    config = json.dumps(run.config, indent=2, ensure_ascii=False)
    return section(
        "facts",
        "Facts of the run",
        markup.definitions(facts),
        f"<details><summary>Configuration</summary><pre>{text(config)}</pre></details>",
    )


def shown_fact(name: str, metrics: dict[str, Any]) -> str:
    """Returns a fact as words; a missing one is a dash with its reason."""
    value = metrics.get(name)
    if value is None:
        words = note(name, metrics) if name in notes(metrics) else ""
        return f"{DASH} ({words or 'not recorded'})"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return entries(value) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def entries(value: dict[str, Any]) -> str:
    """Returns the entries of a fact as words, those of an entry in brackets."""
    return ", ".join(f"{name}: {fact_entry(each)}" for name, each in value.items())


def fact_entry(value: Any) -> str:
    """Returns an entry of a fact as words; of a digest the first digits suffice."""
    if isinstance(value, dict):
        return f"({entries(value)})"
    words = "unknown" if value is None else str(value)
    return words[:12] if re.fullmatch(r"[0-9a-f]{64}", words) else words
