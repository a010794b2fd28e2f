"""What the reconstruction systems see of a sample: colour and a channel of geometry.

The geometry is called "depth" wherever a system names its parts. What it holds is a
word of its own: "depth", small where near, or "height" over the table, large where
near. It names the field of the batch and the images that are shown.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ad3d_jax.base import Array, Batch, State
from ad3d_jax.synthesis.anomalies import Anomalies

CHANNELS = {"rgb": 3, "depth": 1}
GEOMETRIES = ("depth", "height")


class Modalities(NamedTuple):
    """The modalities of a system, and what their geometry is."""

    names: tuple[str, ...]  # in the order of the networks' channels
    geometry: str  # one of GEOMETRIES

    @property
    def channels(self) -> int:
        """Returns how many channels the modalities have together."""
        return sum(CHANNELS[name] for name in self.names)

    @property
    def needs(self) -> tuple[str, ...]:
        """Returns the batch fields that are read."""
        fields = {"rgb": "rgb", "depth": f"extras.{self.geometry}_normalised"}
        return tuple(fields[name] for name in self.names)

    def inputs(self, batch: Batch) -> dict[str, Array]:
        """Returns what the networks read by modality, each [B,H,W,C] float32."""
        geometry = batch.extras.get(f"{self.geometry}_normalised")
        images = {"rgb": batch.rgb, "depth": geometry}
        return {name: images[name] for name in self.names}

    def captioned(self, caption: str, images: Mapping[str, Array]) -> dict[str, Array]:
        """Returns images of modalities as they are shown: "CAPTION_rgb" and so on."""
        names = {"rgb": "rgb", "depth": self.geometry}
        return {f"{caption}_{names[m]}": image for m, image in images.items()}

    def gallery(self, make: Callable[[Array, State, Batch], Anomalies]):
        """Returns `System.synthesise`, which names what a maker returns."""

        def synthesise(keys, state, batch):
            made = make(keys, state, batch)
            clean = self.captioned("clean", made.clean)
            altered = self.captioned("altered", made.altered)
            return {"mask": made.mask, **clean, **altered}

        return synthesise


def map_size(batch: Batch) -> tuple[int, int]:
    """Returns (H, W) of the images of a batch, which are those of its map."""
    extras = (batch.extras.get(f"{name}_normalised") for name in GEOMETRIES)
    images = (batch.rgb, batch.xyz, batch.depth, *extras)
    return next(x for x in images if x is not None).shape[1:3]
