"""Systems that say that they are local are; those that see the whole do not say it."""

from functools import partial

import pytest
from systems_table import configured

from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.state import build_system
from ad3d_jax.features.resnet import resnet_reach
from ad3d_jax.systems import SYSTEMS
from ad3d_jax.testing import check_system, make_batch

board = partial(make_batch, size=32, rails=True)


def made(name, **model):
    config = load(name)
    config.model.update(model)
    return build_system(config)


@pytest.mark.parametrize(
    "make",
    [
        lambda: made("patchcore:tiny+rgb", reweight="none"),
        # Another order of the layers, and a neighbourhood of one cell.
        lambda: made(
            *("patchcore:tiny+rgb",),
            reweight="none",
            layers=("layer2", "layer1"),
            patch_size=1,
            patches="concat",
        ),
        lambda: made(
            *("patchcore:tiny+rgb",), reweight="none", layers=("conv1",), patch_size=5
        ),
        configured("simplenet:tiny+rgb"),
    ],
    ids=["patchcore", "layers_turned", "conv1", "simplenet"],
)
def test_a_part_is_scored_as_in_the_whole(make):
    system = make()
    assert system.local is not None
    check_system(make, board, stochastic={"train", "gather"}, numbers={5})


def test_how_far_networks_see():
    """By hand, from the kernels: 7 and 3 (stem), then 3 x 3 at strides 4, 8, 16."""
    assert resnet_reach("resnet18", "conv1") == (3, 2)
    assert resnet_reach("resnet18", "layer1") == (3 + 2 + 4 * 4, 4)
    assert resnet_reach("resnet18", "layer2") == (21 + 4 + 3 * 8, 8)
    assert resnet_reach("wide_resnet50", "layer1") == (3 + 2 + 3 * 4, 4)
    assert resnet_reach("wide_resnet50", "layer3") == (17 + 4 + 3 * 8 + 8 + 5 * 16, 16)


def test_the_systems_that_are_local_are_these():
    """Those whose released configuration is; all that it takes is stated there."""
    local = {name for name in SYSTEMS if made(name).local is not None}
    assert local == {"patchcore", "simplenet"}
    for name in ("patchcore:anomalib", "patchcore:depth", "simplenet:tiny"):
        assert made(name).local is None, name
    attends = {"backbone": "vit_base_patch8_224", "layers": ("norm12",)}
    assert made("patchcore", **attends).local is None
