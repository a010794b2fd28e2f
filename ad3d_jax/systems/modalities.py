"""What the reconstruction systems see of a sample: colour and a channel of geometry.

The geometry is called "depth" wherever a system names its parts. What it holds is a
word of its own: "depth", small where near, or "height" over the table, large where
near. It names the field of the batch and the images that are shown.
"""

from collections.abc import Callable, Mapping

from ad3d_jax.base import Array, Batch, State
from ad3d_jax.synthesis.anomalies import Anomalies

CHANNELS = {"rgb": 3, "depth": 1}
GEOMETRIES = ("depth", "height")


def needed_fields(modalities: tuple[str, ...], geometry: str) -> tuple[str, ...]:
    """Returns the batch fields that the modalities are read from."""
    fields = {"rgb": "rgb", "depth": f"extras.{geometry}_normalised"}
    return tuple(fields[modality] for modality in modalities)


def modality_inputs(
    batch: Batch, modalities: tuple[str, ...], geometry: str
) -> dict[str, Array]:
    """Returns what the networks read by modality, each [B,H,W,C] float32."""
    images = {"rgb": batch.rgb, "depth": batch.extras.get(f"{geometry}_normalised")}
    return {modality: images[modality] for modality in modalities}


def map_size(batch: Batch) -> tuple[int, int]:
    """Returns (H, W) of the images of a batch, which are those of its map."""
    extras = (batch.extras.get(f"{name}_normalised") for name in GEOMETRIES)
    images = (batch.rgb, batch.xyz, batch.depth, *extras)
    return next(x for x in images if x is not None).shape[1:3]


def captioned(
    caption: str, images: Mapping[str, Array], geometry: str
) -> dict[str, Array]:
    """Returns images of modalities as they are shown: "CAPTION_rgb" and the like."""
    names = {"depth": geometry}
    return {f"{caption}_{names.get(m, m)}": image for m, image in images.items()}


def gallery(make: Callable[[Array, State, Batch], Anomalies], geometry: str):
    """Returns `System.synthesise`, which names what a maker of anomalies returns."""

    def synthesise(keys, state, batch):
        made = make(keys, state, batch)
        clean = captioned("clean", made.clean, geometry)
        altered = captioned("altered", made.altered, geometry)
        return {"mask": made.mask, **clean, **altered}

    return synthesise
