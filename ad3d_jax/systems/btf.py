"""BTF: a bank of hand-made 3-D descriptors, alone or beside image features.

E. Horwitz, Y. Hoshen, "Back to the Feature: Classical 3D Features are (Almost) All You
Need for 3D Anomaly Detection", CVPR Workshops 2023, arXiv 2203.05550. Reference: the
authors' release eliahuhorwitz/3D-ADS, seven feature sets side by side. What differs is
in the card `docs/systems/btf.md`.
"""

from dataclasses import dataclass

from ad3d_jax.base import State, System
from ad3d_jax.features.cells import (
    FEATURE_SETS,
    cell_features,
    field_of,
    has_network,
    kept_names,
    kept_parts,
)
from ad3d_jax.features.extractors import BACKBONES, deepest
from ad3d_jax.ops import coreset, reweight
from ad3d_jax.ops.blur import blur_8bit, gaussian_blur
from ad3d_jax.systems import backbones, banks
from ad3d_jax.systems.fields import Range, at_least, one_of, within
from ad3d_jax.systems.modalities import map_size

BLURS = {"8bit": blur_8bit, "gaussian": gaussian_blur}


@dataclass(frozen=True)
class Config(banks.Bank):
    """Structure of the system; a change of any field compiles anew.

    The bank is that of `ind_knn_ad`, from which the release has it.
    """

    start: str = one_of(*coreset.STARTS, default="first")
    projection: str = one_of(*coreset.PROJECTIONS, default="sparse")
    precision: str = one_of(*coreset.PRECISIONS, default="float16")
    distance: str = one_of("l2", "squared")
    reweight: str = one_of(*reweight.KINDS, default="ind_knn")
    support: int = at_least(1, 3)
    features: str = one_of(*FEATURE_SETS, default="rgb_fpfh")
    # Of rgb, depth and rgb_fpfh; "" where none is used.
    backbone: str = one_of(*BACKBONES, "", default="wide_resnet50")
    layers: tuple[str, ...] = ("layer2", "layer3")
    source: str = "racm_in1k"  # set of weights that is accepted, see features.known
    fpfh: str = one_of("jnp", "open3d")  # open3d: the recipe has made it
    cells: int = at_least(1, 28)  # a side; a patch is a cell
    blur: str = one_of(*BLURS)
    blur_radius: float = within(Range(0, open=True), 4.0)  # deviation, pixels

    def __post_init__(self):
        super().__post_init__()
        if has_network(self.features):
            deepest(self.backbone, self.layers)


def btf(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    network = has_network(config.features)
    needs = tuple(field_of(config, part) for part in FEATURE_SETS[config.features])
    # Cells that the recipe has made do not tell the size of the map.
    size = ("xyz",) if needs == ("extras.fpfh",) else ()

    def features(state, batch):
        return cell_features(config, state.frozen, batch)

    def cache(state, batch):
        return kept_parts(config, state.frozen, batch)

    def init(key, batch):
        state = State(frozen=backbones.init_frozen(config, key) if network else {})
        return banks.with_empty_bank(config, state, features, batch)

    def score(key, state, batch):
        """Returns the distances to the bank, enlarged and blurred, and the worst one.

        The worst distance counts less where what it matched is itself far from its own
        neighbours in the bank (`reweight.image_score`, "ind_knn").
        """
        grid = features(state, batch)
        scores = banks.compare(config, state, grid, map_size(batch))
        return scores._replace(map=BLURS[config.blur](scores.map, config.blur_radius))

    return System(
        name="btf",
        needs_fit=needs,
        needs_score=(*size, *needs),
        init=init,
        phases=(banks.bank_phase(config, features),),
        score=score,
        pretrained=backbones.pretrained_parts(config) if network else (),
        cache=cache if kept_names(config) else None,
        sharded=("bank",),
    )
