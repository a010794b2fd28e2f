"""Shape-Guided's networks: sizes, how they start, and a public training step.

How the stored outputs were made stands in tests/golden/README.md.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.signed_distance import drawn_weights

from ad3d_jax.base import ALONE
from ad3d_jax.features.signed_distance import read_signed_distance
from ad3d_jax.nn.batch_norm import fold
from ad3d_jax.nn.rows import Rows
from ad3d_jax.nn.scope import Scope
from ad3d_jax.nn.signed_distance import DistanceDecoder, PatchEncoder
from ad3d_jax.systems.shape_guided import distances
from ad3d_jax.systems.shape_guided.distances import Config, Drawn, norm, pulled

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "shape_guided"
RELEASE = "Shape-Guided", "jayliu0313/Shape-Guided c530e15"


def shapes(config=Config()):  # noqa: B008 (immutable)
    params, batch_stats = jax.eval_shape(
        lambda key: distances.init(config, key), jax.random.key(0)
    )
    return {**params, "batch_stats": batch_stats}


@pytest.fixture
def public(tmp_path):
    """Public weights in a file as `experiments.convert_torch` names them, read."""
    file = tmp_path / "ckpt.npz"
    names = drawn_weights(82)
    np.savez(file, **{f"sdf_model/{n.replace('.', '/')}": x for n, x in names.items()})
    return read_signed_distance(file, shapes())


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_as_many_parameters_as_the_public_networks():
    like = shapes()
    assert count(like["encoder"]) == 734_848
    assert count(like["decoder"]) == 2_435_585


def test_the_distance_starts_as_that_from_a_sphere():
    decoder, key = DistanceDecoder(), jax.random.key(0)
    codes = jnp.zeros((1, 1, 128))
    points = jax.random.normal(key, (1, 1, 400, 3))
    points = points / jnp.linalg.norm(points, axis=-1, keepdims=True)

    @jax.jit
    def at(key, scales):
        params = decoder.init(key, codes, points)["params"]
        kernel = params["fc5"]["kernel"]
        found = [decoder.apply({"params": params}, codes, s * points) for s in scales]
        return jnp.stack(found), kernel

    found, kernel = at(key, jnp.float32([0.05, 10.0]))
    np.testing.assert_allclose(np.mean(kernel), 2 * np.sqrt(np.pi / 512), rtol=1e-6)
    np.testing.assert_allclose(np.mean(kernel), 0.15666, atol=1e-5)
    # Inside it is negative or small, far outside positive, and larger.
    assert found[1].min() > found[0].max()


def test_a_code_is_that_of_a_set():
    encoder = PatchEncoder((8, 8, 16), 8, 4)
    points = jax.random.normal(jax.random.key(0), (3, 20, 3))

    @jax.jit
    def both(key, points):
        variables = encoder.init(key, points[None])
        return encoder.apply(variables, jnp.stack([points, points[:, ::-1]]))

    code, turned = both(jax.random.key(1), points)
    assert code.shape == (3, 4) and code.min() >= 0
    np.testing.assert_allclose(turned, code, rtol=1e-5, atol=1e-6)


def test_a_step_of_neural_pull_as_in_the_public_code(public, parity):
    golden = np.load(GOLDEN / "neural_pull.npz")
    generator = np.random.default_rng(85)
    target = np.float32(0.3 * generator.standard_normal((6, 32, 3)))
    noise = 0.1 * generator.standard_normal((6, 32, 3))
    drawn = Drawn(np.float32(target + noise)[:, None], target[:, None])
    rows = Rows(True, jnp.ones(6), ALONE)
    batch_stats = public.pop("batch_stats")

    def loss(params):
        scope = Scope(params, batch_stats, rows, {})
        points = pulled(Config(), scope, drawn)
        return jnp.mean(norm(drawn.target - points)), (points, scope.sums)

    (value, (points, sums)), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        public
    )
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    np.testing.assert_allclose(points[:, 0], golden["pulled"], rtol=1e-3, atol=1e-4)
    parity(*RELEASE, "Neural-Pull, loss", value, golden["loss"])
    parity(*RELEASE, "Neural-Pull, pulled points", points[:, 0], golden["pulled"])
    for found, expected in (
        (slope["encoder"]["conv1"]["kernel"].T, golden["conv1"]),
        (slope["decoder"]["fc2"]["kernel"].T, golden["fc2"]),
        (slope["decoder"]["fc40"]["scale"], golden["fc40"]),
    ):
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * largest)
        parity(*RELEASE, "Neural-Pull, gradient", found, expected)
    moved = fold(batch_stats, sums)["encoder"]
    np.testing.assert_allclose(moved["bn5"]["mean"], golden["mean"], atol=1e-5)
    np.testing.assert_allclose(moved["bn1"]["var"], golden["var"], rtol=1e-5)
    statistics = "Neural-Pull, running statistics"
    parity(*RELEASE, statistics, moved["bn5"]["mean"], golden["mean"])
    parity(*RELEASE, statistics, moved["bn1"]["var"], golden["var"])


def test_what_does_not_fit_is_listed(tmp_path):
    names = drawn_weights(1)
    names["NIF.fc40.weight_g"] = np.ones((4, 1), np.float32)
    del names["encoder.bn2.running_mean"]
    np.savez(tmp_path / "bad.npz", **names)
    with pytest.raises(ValueError) as fault:
        read_signed_distance(tmp_path / "bad.npz", shapes())
    assert "missing: batch_stats/encoder/bn2/mean" in str(fault.value)
    assert "mismatched: decoder/fc40/scale" in str(fault.value)
