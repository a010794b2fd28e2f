"""PatchCore, PaDiM and BTF on given features against their public code.

How the stored outputs were made stands in tests/golden/README.md.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ad3d_jax.base import ALONE, Batch
from ad3d_jax.systems import backbones, btf, padim, patchcore

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "banks.npz"
KEY = jax.random.key(0)
TRAIN, CELLS, SIDE = 12, 14, 56


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(autouse=True)
def given(monkeypatch):
    """Lets samples bring their features in place of a network's."""
    monkeypatch.setattr(backbones, "features", lambda *x: x[-1].extras["fpfh"])


def samples(seed, dimensions, cells=CELLS):
    """Returns training and test samples whose features are like their neighbours'."""
    generator = np.random.default_rng(seed)
    place = generator.standard_normal((1, cells, cells, dimensions))
    own = generator.standard_normal((TRAIN + 2, cells, cells, dimensions))
    features = np.float32(place + 0.5 * own)
    features[-1, 3:6, 4:8] += 1.5
    image = np.ones((TRAIN + 2, SIDE, SIDE, 3), np.float32)
    whole = Batch(
        rgb=image,
        xyz=image,
        extras={"fpfh": features},
        weight=np.ones(TRAIN + 2, np.float32),
        id=np.arange(TRAIN + 2, dtype=np.int32),
    )
    parts = slice(TRAIN), slice(TRAIN, None)
    return [jax.tree.map(lambda x, part=part: x[part], whole) for part in parts]


def chosen(phase, rows):
    """Returns the rows that the phase keeps."""
    select = phase.select["rows"]
    data, carry = select.prepare(KEY, None, rows)
    advance = jax.jit(partial(select.advance, across=ALONE))
    while select.done(carry)[0] < select.done(carry)[1]:
        carry = advance(data, carry)
    return select.take(rows, jax.device_get(carry))


def with_bank(system, state, train):
    (phase,) = system.phases
    rows = chosen(phase, train.extras["fpfh"].reshape(TRAIN, -1, 128))
    return rows.number, phase.absorb(KEY, state, {"rows": rows})


def close(found, expected):
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def both_close(golden, name, scores, record):
    """Compares image scores and maps with the public ones."""
    for what, found in (("image score", scores.image), ("map", scores.map[..., 0])):
        expected = golden[f"{name}_{what.partition(' ')[0]}"]
        close(found, expected)
        record(what, found, expected)


def test_patchcore_is_the_public_one(golden, parity):
    """The ten random rows to start from are ours; of 128 numbers none is projected."""
    source = "PatchCore", "amazon-science/patchcore-inspection fcaa92f"
    train, test = samples(501, 128)
    system = patchcore.patchcore(patchcore.Config())
    number, state = with_bank(system, system.init(KEY, train), train)
    np.testing.assert_array_equal(number, golden["patchcore_rows"])
    parity(*source, "coreset, picks", number, golden["patchcore_rows"])
    scores = jax.jit(system.score)(KEY, state, test)
    both_close(golden, "patchcore", scores, partial(parity, *source))


def test_padim_is_the_public_one(golden, parity):
    name = "xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master"
    source = "PaDiM", f"{name} 616004b"
    channels = padim.channel_subset(1792, 550, 1024)
    np.testing.assert_array_equal(channels, golden["padim_channels"])
    parity(*source, "channels", channels, golden["padim_channels"])
    train, test = samples(502, 9)
    system = padim.padim(padim.Config())
    state = system.init(KEY, train)
    for phase in system.phases:
        sums = jax.device_get(jax.jit(phase.emit)(KEY, state, train))
        state = phase.finish(KEY, state, sums)
    scores = jax.jit(system.score)(KEY, state, test)
    close(scores.map[..., 0], golden["padim_map"])
    parity(*source, "map", scores.map[..., 0], golden["padim_map"])
    close(scores.image, golden["padim_map"].max((1, 2)))


def test_btf_is_the_public_one(golden, parity):
    """Without the random projection, which 128 numbers are too few for."""
    source = "BTF", "eliahuhorwitz/3D-ADS 612eb7b"
    train, test = samples(503, 128)
    config = btf.Config(features="fpfh", fpfh="open3d", cells=CELLS)
    system = btf.btf(config)
    number, state = with_bank(system, system.init(KEY, train), train)
    np.testing.assert_array_equal(number, golden["btf_rows"])
    parity(*source, "coreset in float16, picks", number, golden["btf_rows"])
    scores = jax.jit(system.score)(KEY, state, test)
    both_close(golden, "btf", scores, partial(parity, *source))
