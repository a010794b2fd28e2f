"""What preparing a class assumed, gave up or lost, in sentences with their share."""

from collections.abc import Mapping
from typing import Any

NOTHING = "nothing_measured"
SENTENCES = {
    # Of reading.
    "orientation_applied": "turned as the orientation tag of a file says",
    "transparency_ignored": "the transparency of the image is ignored",
    "mark_read": "one impossible distance was taken for a mark of unmeasured points",
    "behind_camera": "a few points with a negative z count as unmeasured",
    "hardly_measured": "less than a twentieth of the points is measured",
    "defect_in_good": "the mask of a good sample has defect pixels",
    "empty_mask": "the mask of a defective sample has no defect pixel",
    # Of recipes.
    NOTHING: "no point is measured",
    "no_plane": "the points span no plane, so all of them count as the object",
    "nothing_found": "no object lies on the table, so all points count as it",
    "all_foreground": "no table was found, so all points count as the object",
    "noise_kept": "the largest group of points, which was kept, is in no cluster",
    "filled_up": "has fewer points than the recipe asks for; zeros fill it up",
}


def remarks(manifest: Mapping[str, Any]) -> list[str]:
    """Returns one sentence for each flag of a manifest, the most frequent first."""
    total = len(manifest["samples"])
    flags = sorted(manifest["flags"].items(), key=lambda item: (-item[1], item[0]))
    return [
        f"{manifest['category']}: {_share(count, total, 'samples')}: "
        f"{SENTENCES.get(flag, flag)} ({flag})"
        for flag, count in flags
    ]


def _share(count: int, total: int, what: str) -> str:
    return f"{count} of {total} {what} ({100 * count / total:.0f} %)"
