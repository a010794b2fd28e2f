"""Naming what a system trains on, for those who look at it."""

from collections.abc import Mapping

import jax


def name_pictures(
    mask: jax.Array,
    clean: Mapping[str, jax.Array],
    altered: Mapping[str, jax.Array],
    shown: Mapping[str, str] | None = None,
) -> dict[str, jax.Array]:
    """Returns pictures by the names that `base.System.synthesise` gives them.

    Args:
        mask: altered pixels [B,H,W,1] float32.
        clean: modality -> [B,H,W,C] float32.
        altered: the same modalities.
        shown: what a modality's pictures are called, where that is not its name.
    """
    pictures = {"mask": mask}
    for modality, picture in clean.items():
        name = (shown or {}).get(modality, modality)
        pictures[f"clean_{name}"] = picture
        pictures[f"altered_{name}"] = altered[modality]
    return pictures
