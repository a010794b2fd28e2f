"""Which fields the modalities read, in which order, and how their images are named."""

import numpy as np
import pytest

from ad3d_jax.base import Batch
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.systems import SYSTEMS
from ad3d_jax.systems.modalities import Modalities, map_size

RGB, DEPTH, HEIGHT = (np.full((1, 2, 4, c), v) for c, v in ((3, 0), (1, 1), (1, 2)))
BATCH = Batch(rgb=RGB, extras={"depth_normalised": DEPTH, "height_normalised": HEIGHT})


@pytest.mark.parametrize(("geometry", "read"), [("depth", DEPTH), ("height", HEIGHT)])
def test_geometry_names_the_field_and_the_images(geometry, read):
    seen = Modalities(("depth", "rgb"), geometry)
    assert seen.needs == (f"extras.{geometry}_normalised", "rgb")
    assert seen.channels == 4
    inputs = seen.inputs(BATCH)
    assert list(inputs) == ["depth", "rgb"]
    np.testing.assert_array_equal(inputs["depth"], read)
    shown = seen.gallery(lambda *_: Anomalies(inputs, inputs, DEPTH))(None, None, BATCH)
    names = ("rgb", geometry)
    assert set(shown) == {"mask"} | {
        f"{way}_{name}" for way in ("clean", "altered") for name in names
    }
    np.testing.assert_array_equal(shown[f"altered_{geometry}"], read)


@pytest.mark.parametrize(
    "batch",
    [
        BATCH,
        Batch(xyz=RGB),
        Batch(depth=DEPTH),
        Batch(extras={"height_normalised": HEIGHT}),
        Batch(xyz=RGB, extras={"fpfh": np.zeros((1, 28, 28, 33))}),
    ],
)
def test_the_map_has_the_size_of_what_was_measured(batch):
    assert map_size(batch) == (2, 4)


@pytest.mark.parametrize("name", ["das3d", "dsr3d"])
@pytest.mark.parametrize("geometry", ["depth", "height"])
def test_systems_read_the_geometry_that_is_named(name, geometry):
    entry = SYSTEMS[name]
    system = entry.factory(entry.config(geometry=geometry))
    assert f"extras.{geometry}_normalised" in system.needs_score


def test_light_settings_read_what_their_recipe_makes():
    from experiments.configs import das3d, dsr3d

    for module in (das3d, dsr3d):
        for variant, geometry in (("", "depth"), ("cpu", "height")):
            config = module.get_config(variant)
            assert config.model.geometry == geometry
            assert config.data.recipe == {"depth": "dsr", "height": "ast"}[geometry]
