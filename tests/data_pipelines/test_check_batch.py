"""Batches from elsewhere: each wrong field is named, with a hint."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from ad3d_jax.base import Batch
from data_pipelines.batches import check_batch
from data_pipelines.errors import DatasetError


def good() -> Batch:
    ones = np.ones((2, 8, 8, 1), np.float32)
    return Batch(
        rgb=np.repeat(ones, 3, -1),
        xyz=np.repeat(ones, 3, -1),
        depth=ones,
        valid=ones > 0,
        foreground=ones > 0,
        extras={"depth_normalised": ones},
        weight=np.ones(2, np.float32),
        id=np.array([5, 2**31 - 1], np.int32),
        category=np.zeros(2, np.int32),
        mask=np.zeros((2, 4, 4, 1), bool),
        label=np.array([0, 1], np.int32),
    )


@pytest.fixture
def batch() -> Batch:
    return good()


def test_good_batches(batch):
    check_batch(batch)
    check_batch(batch._replace(xyz=None, depth=None, mask=None, label=None))
    cloud = np.zeros((2, 500, 1, 3), np.float32)
    check_batch(Batch(xyz=cloud, weight=batch.weight))


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("rgb", lambda a: a * 255, "0 to 255"),
        ("rgb", lambda a: (a * 255).astype(np.uint8), "divide by 255"),
        ("rgb", lambda a: a - 1.5, "normalised"),
        ("rgb", lambda a: a[..., :1], r"\[rows, height, width, 3\]"),
        ("rgb", lambda a: np.moveaxis(a, -1, 1), r"\[2, 3, 8, 8\]"),
        ("rgb", lambda a: a * np.nan, "NaN"),
        ("xyz", lambda a: a * 980, "values up to 980: millimetres"),
        ("depth", lambda a: a * 980, "values up to 980: millimetres"),
        ("depth", lambda a: a[..., 0], "height, width, 1"),
        ("depth", lambda a: a[:, :4], r"height and width \(8, 8\)"),
        ("depth", lambda a: a.astype(np.float64), "dtype float32"),
        ("valid", lambda a: a.astype(np.float32), "dtype bool"),
        ("weight", lambda a: a * 0.5, "0 or 1"),
        ("weight", lambda a: a[:1], "2 rows"),
        ("id", lambda a: a - 6, "from 0 on"),
        ("id", lambda a: a.astype(np.int64), "dtype int32"),
        ("label", lambda a: a + 1, "0 or 1"),
        ("mask", lambda a: a.astype(np.uint8) * 255, "dtype bool"),
    ],
)
def test_wrong_fields(batch, name, change, message):
    wrong = batch._replace(**{name: change(getattr(batch, name))})
    with pytest.raises(ValueError, match=rf"batch\.{name}: expected.*{message}"):
        check_batch(wrong)


def test_wrong_extras_and_nothing(batch):
    with pytest.raises(ValueError, match="extras.feature"):
        check_batch(batch._replace(extras={"feature": np.zeros((3, 4))}))
    with pytest.raises(ValueError, match="found none"):
        check_batch(Batch())


# What `base.Batch` says of each field: channels (0 = one number a row), dtype, range.
PROMISED = {
    "rgb": (3, "float32", lambda x: (x >= 0) & (x <= 1)),
    "xyz": (3, "float32", lambda x: abs(x) < 10),
    "depth": (1, "float32", lambda x: abs(x) < 10),
    "valid": (1, "bool", lambda x: x == x),
    "mask": (1, "bool", lambda x: x == x),
    "weight": (0, "float32", lambda x: (x == 0) | (x == 1)),
    "label": (0, "int32", lambda x: (x == 0) | (x == 1)),
    "id": (0, "int32", lambda x: x >= 0),
    "category": (0, "int32", lambda x: x >= 0),
}
DTYPES = ("float32", "float64", "float16", "int32", "int64", "uint8", "bool")
VALUES = (0, 1, 0.5, -1e-6, -1, 1.001, 2, 255, 9.99, 10, -980, np.nan, np.inf)


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(strategies.data())
def test_a_batch_passes_just_where_it_is_as_promised(data):
    draw = data.draw
    name = draw(strategies.sampled_from(sorted(PROMISED)))
    channels, dtype, within = PROMISED[name]
    right = (2, 8, 8, channels) if channels else (2,)
    sides = strategies.lists(strategies.integers(0, 8), max_size=5).map(tuple)
    shape = draw(strategies.one_of(strategies.just(right), sides))
    array = np.full(shape, draw(strategies.sampled_from((0, 1))), np.float64)
    if array.size:
        place = draw(strategies.integers(0, array.size - 1))
        array.flat[place] = draw(strategies.sampled_from(VALUES))
    types = strategies.one_of(strategies.just(dtype), strategies.sampled_from(DTYPES))
    with np.errstate(invalid="ignore"):
        array = array.astype(draw(types))
    fits = shape == right
    if name == "mask":  # has sides of its own
        fits = len(shape) == 4 and shape[0] == 2 and shape[-1] == 1
    as_promised = fits and array.dtype == dtype and bool(within(array).all())
    batch = good()._replace(**{name: array})
    if as_promised:
        check_batch(batch)
        return
    with pytest.raises(DatasetError) as caught:
        check_batch(batch)
    # Where sides differ, another field may be the one that is named.
    named = f"batch.{name}: expected " if fits else "batch."
    assert str(caught.value).startswith(named) and ", found " in str(caught.value)
