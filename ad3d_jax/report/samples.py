"""The chosen samples: a block of images each, and the clouds they link to."""

import shutil
from pathlib import Path

import numpy as np

from ad3d_jax.report import charts, colors, markup
from ad3d_jax.report.cloud import write_ply
from ad3d_jax.report.decisions import box_mask, verdict_tag
from ad3d_jax.report.files import Run, Sample
from ad3d_jax.report.glossary import PARTS
from ad3d_jax.report.markup import figure, gap, number, paragraph, section, text
from ad3d_jax.report.panels import (
    PART,
    Scale,
    checked,
    cloud,
    gate_taken,
    match_panels,
    panels,
    part_panels,
    part_scales,
)
from ad3d_jax.workdir import names
from ad3d_jax.workdir.scores import Row


def samples_section(run: Run, folder: Path) -> str:
    """Returns the panels of the chosen samples and writes their clouds."""
    title = "Chosen samples"
    clouds = folder / "clouds"
    shutil.rmtree(clouds, ignore_errors=True)  # of an earlier report
    if not run.samples:
        return section("samples", title, gap("No sample was chosen for images."))
    scale = map_scale(run)
    ready = [checked(sample) for sample in run.samples]
    scales = part_scales([sample for sample, _ in ready])
    rows = {row.name: row for row in run.rows}
    ramp = np.linspace(scale.low, scale.high, 256)[None]
    bar = charts.scale_bar(colors.heat_map(ramp, *scale), *scale)
    intro = paragraph(
        "The samples with the highest and the lowest score of each type. All anomaly "
        "maps and overlays share one colour scale, the 1st to the 99.8th percentile "
        "over all test maps; every other panel shares its scale with the panels of "
        "the same name. The light blue line is the outline of the true defect; green "
        "boxes hold what is above the threshold of the map."
    )
    found = [
        sample_block(
            sample, gaps, rows, scales, scale, clouds, boxes_of(sample, run, rows)
        )
        for sample, gaps in sorted(ready, key=lambda s: place(s[0], rows))
    ]
    bar_figure = figure(markup.png(bar), "anomaly map, low to high", "bar")
    words = parts_in_words([sample for sample, _ in ready])
    return section("samples", title, intro, words, bar_figure, *found)


def parts_in_words(samples: list[Sample]) -> str:
    """Returns what the parts of the samples show, as far as the glossary says."""
    names = {name for s in samples for name in s.arrays if name.startswith(PART)}
    said = {}
    for name in sorted(n.removeprefix(PART) for n in names):
        start = next((start for start in PARTS if name.startswith(start)), None)
        if start is not None:
            said[start] = PARTS[start]
    return markup.definitions(said) if said else ""


def map_scale(run: Run) -> Scale:
    """Returns the scale of the anomaly maps from all test maps, else from samples."""
    maps = list(run.maps.values()) or [
        s.arrays["map"] for s in run.samples if "map" in s.arrays
    ]
    return robust_scale(maps)


def robust_scale(maps: list[np.ndarray]) -> Scale:
    """Returns the scale in which anomaly maps are drawn."""
    step = 1 + sum(map.size for map in maps) // 20_000_000
    values = [map.ravel()[::step] for map in maps]
    return Scale(*colors.robust_range(np.concatenate(values or [np.zeros(0)])))


def place(sample: Sample, rows: dict[str, Row]) -> tuple:
    """Returns what samples are ordered by: good ones first, by type, by score."""
    row = rows.get(sample.name)
    return (row.label, row.defect, -row.score) if row else (2, sample.name, 0.0)


def sample_block(
    sample: Sample,
    gaps: list[str],
    rows: dict[str, Row],
    scales: dict[str, Scale],
    scale: Scale,
    clouds: Path,
    boxes: np.ndarray | None,
) -> str:
    """Returns the panels of one sample and writes its cloud."""
    shown, missing = panels(sample, scales, scale, boxes)
    images = [figure(markup.jpeg(panel.image), panel.title) for panel in shown]
    details = [
        figure(markup.jpeg(panel.image), panel.title)
        for panel in (*match_panels(sample), *part_panels(sample, scales))
    ]
    made = cloud(sample, scale)
    if isinstance(made, str):
        missing.append(made)
    else:
        clouds.mkdir(parents=True, exist_ok=True)
        file = f"{sample.name}.ply"
        write_ply(clouds / file, made.xyz, made.colors)
        note = (
            f' (<a href="{markup.link(file, "clouds")}">PLY</a>, '
            f"{len(made.xyz):,} points)"
        )
        images.append(figure(markup.jpeg(made.image), "point cloud", after=note))
    lines = [*gaps, *missing]
    return (
        f'<div class="sample">{sample_heading(sample, rows)}'
        f'<div class="panels">{"".join(images)}</div>'
        + (f'<div class="panels">{"".join(details)}</div>' if details else "")
        + (gap(" ".join(lines)) if lines else "")
        + "</div>"
    )


def boxes_of(sample: Sample, run: Run, rows: dict[str, Row]) -> np.ndarray | None:
    """Returns what lies in the boxes of a sample, [H,W] bool as large as its map."""
    map = run.maps.get(sample.name)
    return None if map is None else box_mask(rows.get(sample.name), map.shape)


def sample_heading(sample: Sample, rows: dict[str, Row]) -> str:
    """Returns name, type and score of a sample, and its rank within the type."""
    row = rows.get(sample.name)
    if row is None:
        name = f"<h3>{text(sample.name)} {gate_tag(sample)}</h3>"
        return name + gap(f"{names.SCORES} has no such sample.")
    alike = [r.score for r in rows.values() if r.defect == row.defect]
    rank = 1 + sum(score > row.score for score in alike)
    kind = ("good", "defective")[row.label]
    bad = " bad" if row.label else ""
    return (
        f"<h3>{text(row.defect)} / {text(row.stem)} "
        f'<span class="tag{bad}">{kind}</span> '
        f'<span class="tag plain">score {number(row.score)}, '
        f"{rank} of {len(alike)} in its type</span> {verdict_tag(row)} "
        f"{gate_tag(sample)}</h3>"
    )


def gate_tag(sample: Sample) -> str:
    """Returns which map a gate took, "" where there is no gate."""
    taken = gate_taken(sample)
    if taken is None:
        return ""
    return f'<span class="tag plain">gate: {"fusion" if taken else "RGB only"}</span>'
