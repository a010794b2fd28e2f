"""What preparing a class assumed, gave up or lost, in sentences with their share."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.errors import DatasetError
from data_pipelines.pairing import GOOD

NOTHING, INVERTED, GREY = "nothing_measured", "defect_in_good", "grey_repeated"
VANISH = "vanish where masks are resized; a larger data.mask_size keeps them"
NO_MASKS = "no defective sample has a mask: metrics of pixels are undefined"
SENTENCES = {
    # Of reading.
    "orientation_applied": "turned as the orientation tag of a file says",
    "transparency_ignored": "the transparency of the image is ignored",
    GREY: "a grey image is repeated as red, green and blue",
    "mark_read": "one impossible distance was taken for a mark of unmeasured points",
    "behind_camera": "a few points behind the camera, or within a millimetre of it, "
    "count as unmeasured",
    "hardly_measured": "less than a twentieth of the points is measured",
    "mirrored": "x falls along the columns, or y along the rows: are the points "
    "mirrored or turned against the image?",
    "far_behind": "one distance, far behind all others, recurs: unmeasured points are "
    "marked by 0 or NaN, and this one counts as measured",
    INVERTED: "the mask of a good sample has defect pixels",
    "mostly_defect": "more than half of the mask is defect: is it inverted?",
    "several_values": "the mask has several values; each but 0 counts as a defect",
    "empty_mask": "the mask of a defective sample has no defect pixel",
    "other_distance": "lies at less than half or more than twice the distance of "
    "what the system was fitted on: is the unit right?",
    # Of recipes.
    NOTHING: "no point is measured",
    "no_plane": "the points span no plane, so all of them count as the object",
    "nothing_found": "no object lies on the table, so all points count as it",
    "all_foreground": "no table was found, so all points count as the object",
    "noise_kept": "the largest group of points, which was kept, is in no cluster",
    "mask_vanished": "all defect regions of the mask vanish where it is resized",
    "filled_up": "has fewer points than the recipe asks for; zeros fill it up",
}


def remarks(manifest: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each flag of a manifest and for the regions that vanish.

    Args:
        manifest: with category, samples, flags, regions and regions_lost.
    """
    category, total = manifest["category"], len(manifest["samples"])
    flags = sorted(manifest["flags"].items(), key=lambda item: (-item[1], item[0]))
    said = [
        f"{category}: {_share(count, total, 'samples')}: {SENTENCES[flag]} ({flag})"
        for flag, count in flags
        if (flag, count) != (GREY, total)  # a grey camera; beside colours it is odd
    ]
    known = {_measured(row) for row in _rows(manifest, "train")}
    test = _rows(manifest, "test")
    if leaked := sum(_measured(row) in known for row in test):
        share = _share(leaked, len(test), "samples of test")
        said.append(f"{category}: {share}: the same files are in train, too")
    bad = [row for row in test if row["label"]]
    if bad and not any("gt" in row["sha256"] for row in bad):
        said.append(f"{category}: {NO_MASKS}")
    lost, regions = manifest["regions_lost"], manifest["regions"]
    if lost:
        said.append(f"{category}: {_share(lost, regions, 'defect regions')}: {VANISH}")
    return said


def _rows(manifest: Mapping[str, Any], split: str) -> list[Mapping[str, Any]]:
    return [row for row in manifest["samples"] if row["split"] == split]


def _measured(row: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Returns the digests of all that was measured of a sample."""
    return tuple(row["sha256"].get(name) for name in ("rgb", "xyz"))


def refuse_useless(category: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises DatasetError where nothing is left to train on or to be judged by.

    Args:
        category: the class.
        rows: the manifest's entries of its samples.
    """
    for split in ("train", "test"):
        of_split = [row["flags"] for row in rows if row["split"] == split]
        if of_split and all(NOTHING in flags for flags in of_split):
            raise DatasetError(
                f"{category}: expected measured points, found none in any of "
                f"{len(of_split)} samples of {split}; without the folders xyz the "
                "images alone are used"
            )
    good = [r["flags"] for r in rows if r["split"] == "test" and r["defect"] == GOOD]
    if len(good) > 1 and all(INVERTED in flags for flags in good):
        raise DatasetError(
            f"{category}: expected masks of zeros for good samples, found defect "
            f"pixels in all {len(good)} of test: are the masks inverted?"
        )
    regions = sum(row["regions"] for row in rows)
    if regions and regions == sum(row["regions_lost"] for row in rows):
        raise DatasetError(
            f"{category}: {_share(regions, regions, 'regions')}: {VANISH}"
        )


def _share(count: int, total: int, what: str) -> str:
    return f"{count} of {total} {what} ({100 * count / total:.0f} %)"
