"""Swapped codes: candidates by PyTorch's top-k, patches, masks, cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.synthesis.codes import (
    Swap,
    candidate_ranks,
    draw_levels,
    enlarge_cells,
    noise_masks,
    other_codes,
    pool_mask,
    shuffle_patches,
    swap_codes,
)

RANDOM = np.random.default_rng(0)
CODES = RANDOM.normal(size=(40, 3)).astype(np.float32)
Z = RANDOM.normal(size=(2, 8, 8, 3)).astype(np.float32)
Q = CODES[((Z[..., None, :] - CODES) ** 2).sum(-1).argmin(-1)]
KEYS = jax.random.split(jax.random.key(3), 2)
CODES_ONLY = Swap(p_shuffle=0.0)
PATCHES_ONLY = Swap(p_shuffle=1.0)


def keys(count):
    return jax.random.split(jax.random.key(7), count)


def swap(keys, z, q, mask, *arguments, **options):
    arrays = (jnp.asarray(x) for x in (CODES, z, q, mask))
    return np.asarray(swap_codes(keys, *arrays, *arguments, **options))


@pytest.mark.parametrize(
    ("size", "strength", "nearest", "candidates"),
    [
        (2048, 0.1, 205, 103),
        (2048, 0.5, 1025, 923),
        (4096, 0.2, 820, 616),
        (2048, 1.0, 2047, 1945),
        (512, 0.1, 52, 27),
        (40, 0.0, 1, 1),  # none is left: the farthest of the nearest
        (1, 1.0, 1, 1),
    ],
)
def test_numbers_of_candidates(size, strength, nearest, candidates):
    first, stop = candidate_ranks(size, strength, 0.05)
    assert int(stop) == nearest and int(stop - first) == candidates


@pytest.mark.slow
def test_replacements_are_all_candidates_of_the_public_code(parity):
    """The k nearest of each cell less the first 5 %, by torch.topk; each is drawn."""
    torch = pytest.importorskip("torch")
    z, strength, drawn = Z[0, :2, :2], np.float32(0.3), 400
    codes = jnp.asarray(CODES)
    row = jax.jit(lambda key: other_codes(key, strength, z, codes, 0.05))
    found = np.asarray(jax.lax.map(row, keys(drawn)))
    flat = torch.tensor(z.reshape(-1, 3))
    distances = torch.cdist(flat, torch.tensor(CODES)) ** 2
    count = max(1, min(int(0.3 * 40) + 1, 39))
    expected = torch.topk(distances, count, dim=1, largest=False).indices
    expected = expected[:, int(40 * 0.05) :].numpy()
    assert expected.shape == (4, 11)
    for cell, allowed in enumerate(expected):
        seen = found.reshape(drawn, 4, 3)[:, cell]
        number = [int(np.flatnonzero((CODES == x).all(1))[0]) for x in seen]
        assert set(number) == set(allowed.tolist())
        parity(
            "3DSR", torch, "altered codes, choice", sorted(set(number)), sorted(allowed)
        )
        counts = np.bincount(number, minlength=40)[allowed]
        assert counts.min() > 15 and counts.max() < 65  # 36 each, +- 6


def test_codes_are_swapped_inside_the_mask_alone():
    mask = np.zeros((2, 8, 8, 1), bool)
    mask[0, 2:5, 3:6] = True
    for parameters in (CODES_ONLY, PATCHES_ONLY):
        out = swap(KEYS, Z, Q, mask, parameters, (1, 2))
        np.testing.assert_array_equal(out[~mask[..., 0]], Q[~mask[..., 0]])
        inside = out[mask[..., 0]]
        assert (inside[:, None] == CODES[None]).all(-1).any(-1).all()
        assert (inside != Q[mask[..., 0]]).any(-1).mean() > 0.5
    # Near codes are left out: none stays what it was.
    out = swap(KEYS, Z, Q, mask, CODES_ONLY, (1, 2))
    assert (out[mask[..., 0]] != Q[mask[..., 0]]).any(-1).all()


def test_a_row_depends_on_its_own_key_and_row_alone():
    mask = np.ones((2, 8, 8, 1), bool)
    whole = swap(KEYS, Z, Q, mask)
    turned = swap(KEYS[::-1], Z[::-1], Q[::-1], mask)
    alone = swap(KEYS[1:], Z[1:], Q[1:], mask[1:])
    np.testing.assert_array_equal(whole[::-1], turned)
    np.testing.assert_array_equal(whole[1:], alone)


def test_shuffling_is_decided_for_each_sample():
    rows = 64
    z, q = np.repeat(Z[:1], rows, 0), np.repeat(Q[:1], rows, 0)
    mask = np.ones((rows, 8, 8, 1), bool)
    out = swap(keys(rows), z, q, mask, sides=(2,))
    sums = np.sort(q[0].reshape(-1, 3), 0)
    kept = [(np.sort(x.reshape(-1, 3), 0) == sums).all() for x in out]
    assert 20 < sum(kept) < 44  # half of them, +- 4


@pytest.mark.slow
@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_patches_change_places_whole(side):
    torch = pytest.importorskip("torch")
    cells = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)
    out = np.asarray(shuffle_patches(keys(1), cells, (side,)))[0, ..., 0]

    def patches(x):
        whole = torch.nn.functional.unfold(
            torch.tensor(x)[None, None], side, 1, 0, side
        )
        return whole[0].T.numpy()

    before, after = patches(cells[0, ..., 0]), patches(out)
    assert {tuple(p) for p in after} == {tuple(p) for p in before}
    assert (side == 8) == (out == cells[0, ..., 0]).all()


def test_every_side_is_drawn_and_must_divide():
    q = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1).repeat(60, 0)
    out = np.asarray(shuffle_patches(keys(60), q, (1, 4, 8)))[..., 0]
    whole = (out == q[..., 0]).all((1, 2))
    fours = (np.diff(out[:, :4, :4], axis=2) == 1).all((1, 2))
    assert 10 < whole.sum() < 32 and 25 < fours.sum() < 55
    with pytest.raises(ValueError, match="divisors of 8 and 8"):
        shuffle_patches(keys(1), q[:1], (3,))


def test_cases_have_their_frequencies():
    lower, higher = (np.asarray(x) for x in draw_levels(keys(4000)))
    assert (lower | higher).all()
    for cases, expected in (
        (lower & higher, 0.5),
        (lower & ~higher, 0.25),
        (higher & ~lower, 0.25),
    ):
        assert cases.mean() == pytest.approx(expected, abs=0.03)


def test_masks_cover_what_the_public_code_covers():
    allowed = np.ones((200, 128, 128, 1), bool)
    allowed[0, :64] = False
    make = jax.jit(noise_masks, static_argnums=3)
    masks = np.asarray(make(keys(200), allowed, Swap(p_normal=0.0), True))
    assert masks.mean() == pytest.approx(0.057, abs=0.012)
    assert (~masks.any((1, 2, 3))).mean() == pytest.approx(0.10, abs=0.05)
    assert not (masks & ~allowed).any()
    normal = np.asarray(make(keys(200), allowed, Swap(), True))
    assert normal.any((1, 2, 3)).mean() == pytest.approx(0.45, abs=0.1)
    one_sided = Swap(p_normal=0.0, threshold_low=0.5, threshold_high=0.5)
    masks = np.asarray(make(keys(200), allowed, one_sided, False))
    assert masks.mean() == pytest.approx(0.048, abs=0.012)


@pytest.mark.slow
def test_cells_of_a_mask_and_back():
    torch = pytest.importorskip("torch")
    mask = np.zeros((1, 16, 16, 1), bool)
    mask[0, 3, 7] = mask[0, 12, 12] = True
    cells = pool_mask(jnp.asarray(mask), (4, 4))
    expected = torch.nn.functional.max_pool2d(
        torch.tensor(mask[..., 0], dtype=torch.float32), 4
    )
    np.testing.assert_array_equal(cells[..., 0], expected.numpy() > 0)
    coarse = np.asarray(enlarge_cells(cells, (16, 16)))
    assert coarse.sum() == 32 and coarse[0, :4, 4:8].all() and (coarse | ~mask).all()
