"""Systems that say that they are local are; those that see the whole do not say it."""

from functools import partial

import pytest

from ad3d_jax.base import Train
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.state import build_system
from ad3d_jax.features.resnet import resnet_reach
from ad3d_jax.systems import SYSTEMS
from ad3d_jax.testing import Trial, make_batch
from ad3d_jax.testing.clauses import parts_are_those_of_the_whole

board = partial(make_batch, size=32, rails=True)


def made(name, **model):
    config = load(name)
    config.model.update(model)
    return build_system(config)


MAKERS = {
    "patchcore": lambda: made("patchcore:tiny+rgb", reweight="none"),
    # Another order of the layers, and a larger neighbourhood.
    "layers_turned": lambda: made(
        *("patchcore:tiny+rgb",),
        reweight="none",
        layers=("layer1", "conv1"),
        patch_size=5,
        patches="concat",
    ),
    "simplenet": lambda: made("simplenet:tiny+rgb"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_part_is_scored_as_in_the_whole(name):
    """As the contract demands; the state is fitted by two steps."""

    def make():
        system = MAKERS[name]()
        phases = (
            phase._replace(steps=2, epochs=None) if isinstance(phase, Train) else phase
            for phase in system.phases
        )
        return system._replace(phases=tuple(phases))

    assert make().local is not None
    parts_are_those_of_the_whole(Trial(make, board))


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
