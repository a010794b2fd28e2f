"""A contact sheet of artificial anomalies: one page and one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ad3d_jax.report import colors, markup
from ad3d_jax.report.files import Sample
from ad3d_jax.report.markup import figure, paragraph, section, text
from ad3d_jax.report.panels import (
    PART,
    Scale,
    at_panel,
    depth_like,
    part_image,
    part_scales,
)
from ad3d_jax.workdir import names
from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.images import write_image
from ad3d_jax.workdir.maps import without_channel

CLEAN, ALTERED, MASK = "clean_", "altered_", "mask"
TILE = 160  # longest side of an image on the sheet, pixels
GAP, HEAD = 6, 18  # between the images, and above them, pixels


class Draw(NamedTuple):
    """One draw of an anomaly maker for one sample.

    `images` holds "clean_NAME" and "altered_NAME" [H,W,C] float32 and "mask" [H,W,1],
    see `base.System.synthesise`.
    """

    title: str
    images: Mapping[str, np.ndarray]
    foreground: np.ndarray | None = None  # [H,W,1] bool; limits the range of depth

    @property
    def area(self) -> float:
        """Share of the image that is altered, in [0,1]."""
        return float((self.images[MASK] > 0.5).mean())


def write_gallery(
    folder: Path, title: str, draws: Sequence[Draw], facts: Mapping[str, object]
) -> Path:
    """Writes `index.html` and `sheet.png`, a row a draw; returns the page's path.

    Args:
        folder: made where it is absent.
        title: heading of the page.
        draws: at least one, all with the same names.
        facts: what else the page says, by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = tiles(draws)
    write_image(folder / "sheet.png", sheet(rows))
    body = (
        f"<header><h1>{text(title)}</h1>",
        paragraph(summary(draws), "lead"),
        "</header>",
        section(
            "facts",
            "What rules it",
            markup.definitions(facts),
        ),
        section(
            "draws",
            "Draws",
            paragraph(
                "Clean and altered images of one modality share one scale of colours."
            ),
            *(block(draw, row) for draw, row in zip(draws, rows, strict=True)),
        ),
    )
    page = folder / names.PAGE
    write_text(page, markup.document(title, *body))
    return page


def summary(draws: Sequence[Draw]) -> str:
    """Returns how many draws are anomalous, and how large their masks are."""
    areas = 100 * np.array([draw.area for draw in draws])
    altered = areas[areas > 0]
    words = (
        f"{len(altered)} of {len(draws)} draws are anomalous "
        f"({100 * len(altered) / len(draws):.0f} %)."
    )
    if not len(altered):
        return words
    return (
        f"{words} Their masks cover {altered.mean():.1f} % of the image on average, "
        f"{np.median(altered):.1f} % in the median."
    )


def columns(draws: Sequence[Draw]) -> list[str]:
    """Returns the names of the images: clean ones, altered ones, the mask."""
    names = sorted(draws[0].images, reverse=True)  # colour before depth
    kinds = (CLEAN, ALTERED)
    return [n for kind in kinds for n in names if n.startswith(kind)] + [MASK]


def tiles(draws: Sequence[Draw]) -> list[dict[str, np.ndarray]]:
    """Returns the uint8 [H,W,3] images of each draw by column."""
    scales = shared_scales(draws)
    return [
        {name: tile(draw, name, scales) for name in columns(draws)} for draw in draws
    ]


def tile(draw: Draw, name: str, scales: Mapping[str, Scale]) -> np.ndarray:
    """Returns one image coloured as in the report of a run.

    Depth that is 0 off the object was not measured, or taken away: it is grey.
    """
    values = without_channel(draw.images[name])
    if name == MASK:
        return colors.colored(values, 0.0, 1.0, colors.GREY)
    modality = modality_of(name)
    if depth_like(modality) and draw.foreground is not None:
        known = without_channel(draw.foreground) | (values != 0)
        values = np.where(known, values, np.nan)
    return part_image(modality, values, scales[PART + modality])


def shared_scales(draws: Sequence[Draw]) -> dict[str, Scale]:
    """Returns a scale for each modality, over its clean and its altered images."""
    samples = []
    for draw in draws:
        for kind in (CLEAN, ALTERED):
            arrays = {
                PART + modality_of(name): without_channel(values)
                for name, values in draw.images.items()
                if name.startswith(kind)
            }
            if draw.foreground is not None:
                arrays["foreground"] = without_channel(draw.foreground)
            samples.append(Sample(draw.title, arrays))
    return part_scales(samples)


def modality_of(name: str) -> str:
    """Returns "NAME" of "clean_NAME" and "altered_NAME"."""
    return name.removeprefix(CLEAN).removeprefix(ALTERED)


def block(draw: Draw, row: Mapping[str, np.ndarray]) -> str:
    """Returns the images of one draw."""
    kind, bad = ("anomalous", " bad") if draw.area else ("normal", "")
    share = f"{100 * draw.area:.1f} % altered"
    images = "".join(
        figure(markup.jpeg(at_panel(image)), name.replace("_", " "))
        for name, image in row.items()
    )
    return (
        f'<div class="sample"><h3>{text(draw.title)} '
        f'<span class="tag{bad}">{kind}</span> '
        f'<span class="tag plain">{share}</span></h3>'
        f'<div class="panels">{images}</div></div>'
    )


def sheet(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Returns the contact sheet uint8 [H,W,3], the columns' names above them."""
    from PIL import Image, ImageDraw

    names = list(rows[0])
    height, width = (
        max(1, round(side * TILE / max(rows[0][MASK].shape[:2])))
        for side in rows[0][MASK].shape[:2]
    )
    paper = Image.new(
        "RGB",
        (GAP + len(names) * (width + GAP), HEAD + len(rows) * (height + GAP)),
        "white",
    )
    pen = ImageDraw.Draw(paper)
    for column, name in enumerate(names):
        left = GAP + column * (width + GAP)
        pen.text((left, 3), name.replace("_", " "), fill="black")
        for number, row in enumerate(rows):
            image = Image.fromarray(row[name]).resize(
                (width, height), Image.Resampling.BOX
            )
            paper.paste(image, (left, HEAD + number * (height + GAP)))
    return np.asarray(paper)
