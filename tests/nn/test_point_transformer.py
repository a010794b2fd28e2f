"""The point transformer's form; its numbers: features/test_point_tokens.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.nn.group_encoder import GroupEncoder
from ad3d_jax.nn.point_transformer import PointTransformer
from ad3d_jax.nn.rows import SCORING, Rows

KEY = jax.random.key(0)
SMALL = PointTransformer(width=12, heads=2)
RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.standard_normal(shape, np.float32)


def parameters(network, *inputs):
    made = jax.eval_shape(lambda: network.init(KEY, *inputs))
    return sum(leaf.size for leaf in jax.tree.leaves(made["params"])), made


@pytest.mark.parametrize(
    ("token", "class_token", "count"),
    [(384, False, 21_825_024), (256, True, 21_858_816)],
)
def test_parameters_are_as_many_as_published(token, class_token, count):
    encoder, made = parameters(GroupEncoder(token), jnp.zeros((1, 4, 8, 3)))
    assert {leaf.size for leaf in jax.tree.leaves(made["batch_stats"])} == {128, 512}
    network = PointTransformer(class_token=class_token)
    tokens, centres = jnp.zeros((1, 4, token)), jnp.zeros((1, 4, 3))
    transformer, _ = parameters(network, tokens, centres, ("block12",))
    assert encoder + transformer == count


def test_nothing_behind_the_deepest_tap_is_made():
    inputs = jnp.zeros((1, 4, 12)), jnp.zeros((1, 4, 3)), ("block3", "block1")
    _, made = parameters(SMALL, *inputs)
    blocks = {part for part in made["params"] if part.startswith("block")}
    assert blocks == {"block1", "block2", "block3"}


def test_taps_stand_side_by_side_in_the_order_asked_for():
    tokens, centres = drawn(2, 4, 12), drawn(2, 4, 3)
    variables = SMALL.init(KEY, tokens, centres, ("block2",))
    both = SMALL.apply(variables, tokens, centres, ("block2", "block1"))
    for place, layer in ((slice(12), "block2"), (slice(12, 24), "block1")):
        alone = SMALL.apply(variables, tokens, centres, (layer,))
        np.testing.assert_allclose(both[..., place], alone, atol=1e-6)


def test_a_token_does_not_depend_on_the_order_of_its_points():
    encoder, groups = GroupEncoder(16), drawn(2, 3, 8, 3)
    variables = encoder.init(KEY, groups)
    for rows in (SCORING, Rows(train=True)):
        one = encoder.apply(variables, groups, rows)
        other = encoder.apply(variables, groups[:, :, ::-1], rows)
        np.testing.assert_allclose(one, other, atol=1e-6)
    running = encoder.apply(variables, groups)
    assert np.abs(running - one).max() > 1e-3


def test_stochastic_depth_leaves_as_many_rows_whole_as_published():
    tokens, centres = (np.repeat(drawn(1, 4, n), 300, axis=0) for n in (12, 3))
    keys = jax.random.split(KEY, 300)
    layers = ("block1", "block12")

    @jax.jit
    def run(key):
        variables = SMALL.init(key, tokens[:1], centres[:1], layers)
        still = SMALL.apply(variables, tokens[:1], centres[:1], layers)
        return still, SMALL.apply(variables, tokens, centres, layers, keys)

    still, moved = run(KEY)
    first = still[..., :12].repeat(300, axis=0)
    np.testing.assert_allclose(moved[..., :12], first, atol=1e-6)  # its rate is 0
    # Rows that drop nothing are alike: 28.8 % of them (0.026 a standard deviation).
    flat = np.asarray(moved).reshape(300, -1)
    alike = [(np.abs(flat - row).max(1) < 1e-5).mean() for row in flat]
    assert abs(max(alike) - 0.288) < 0.1
