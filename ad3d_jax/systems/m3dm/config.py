"""What M3DM may be: its banks, how they are filled, and how they are put together."""

from collections.abc import Mapping
from dataclasses import dataclass

from ad3d_jax.features.extractors import BACKBONES, deepest
from ad3d_jax.features.points import POINT_NETWORKS, STATISTICS
from ad3d_jax.ops import coreset, knn
from ad3d_jax.systems.fields import Fields, Range, at_least, one_of, within

UFF = "uff"  # the fusion: its phase, its parameters, its pretrained part
BANKS = ("points", "rgb", "fused")
HYPER: Mapping[str, float] = {
    # What a bank's scores are multiplied by.
    "lambda_points": 1.0,
    "lambda_rgb": 0.1,
    "lambda_fused": 1.0,
    "nu": 0.5,  # of the one-class SVMs
    "learning_rate_uff": 0.003,
    "weight_decay_uff": 0.01,
}


@dataclass(frozen=True)
class Config(Fields):
    """Structure of the system; a change of any field compiles anew."""

    banks: tuple[str, ...] = BANKS  # some of them, in this order
    decision: str = one_of("svm", "sum")  # how the banks' scores become one
    # Image network.
    backbone: str = one_of(*BACKBONES, default="vit_base_patch8_224")
    layers: tuple[str, ...] = ("norm12",)
    source: str = "dino"  # set of weights that is accepted, see features.known
    # Point transformer. Statistics of its batch norms: as stored, or those of the cloud
    # itself, as published figures had them, since it never left its training mode.
    point_network: str = one_of(*POINT_NETWORKS, default="point_mae")
    point_layers: tuple[str, ...] = ("block4", "block8", "block12")
    point_statistics: str = one_of(*STATISTICS)
    groups: int = at_least(3, 1024)
    group_size: int = at_least(1, 128)
    cells: int = at_least(1, 56)  # a side of the points' grid
    # Banks. "as_coded": the mean of the points and the deviation of the image for all;
    # "own": of each bank its own; "none".
    normalise: str = one_of("as_coded", "own", "none")
    fraction: float = within(Range(0, 1, open=True), 0.1)  # of the points' rows, kept
    # Rows of the other banks: "as_coded", a fraction of the rows that the points' bank
    # has kept; "own", a fraction of their own.
    sizes: str = one_of("as_coded", "own")
    projection: str = one_of(*coreset.PROJECTIONS, default="sparse")
    precision: str = one_of(*coreset.PRECISIONS, default="float16")
    zero_row: bool = True  # is put into the points' bank, rows with a zero leave it
    # Scores.
    support: int = at_least(1, 3)  # rows that the re-weighting looks at
    divisor: float = within(Range(0, open=True), 1.0)  # of distances in image scores
    epsilon: float = 0.0  # in the denominator of the re-weighting
    blur: str = one_of("8bit", "gaussian")
    blur_radius: float = within(Range(0, open=True), 4.0)  # deviation, pixels
    mode: str = one_of(*knn.MODES)  # of the search, see ops.knn.nearest
    chunk_bytes: int = at_least(1, knn.CHUNK_BYTES)
    # Fusion. "as_released": the pairs that the release trains on, few of which belong
    # together; "aligned": those of the same place.
    uff_pairing: str = one_of("as_released", "aligned")
    uff_epochs: int = at_least(1, 1)
    uff_steps: int = at_least(0, 0)  # batches, in place of epochs; 0 = by epochs
    uff_batch_size: int = at_least(1, 16)
    uff_accumulate: int = at_least(1, 16)  # batches of an update
    uff_warm_up: float = within(Range(0, 1), 1.0)  # share of the steps

    def __post_init__(self):
        super().__post_init__()
        deepest(self.backbone, self.layers)
        known = tuple(name for name in BANKS if name in self.banks)
        if not known or known != self.banks:
            raise ValueError(
                f"model.banks: expected some of {BANKS} in this order, found "
                f"{self.banks}"
            )
        if self.decision == "svm" and len(self.banks) == 1:
            raise ValueError(
                "model.decision: of a single bank expected 'sum', found 'svm'"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Returns the batch fields that are read."""
        fields = {"points": ("xyz",), "rgb": ("rgb",), "fused": ("rgb", "xyz")}
        read = {field for name in self.banks for field in fields[name]}
        if self.normalise == "as_coded":
            read |= {"rgb", "xyz"}
        return tuple(field for field in ("rgb", "xyz") if field in read)
