"""Batches from elsewhere: each wrong field is named, with a hint."""

import numpy as np
import pytest

from ad3d_jax.base import Batch
from data_pipelines.batches import check_batch


@pytest.fixture
def batch() -> Batch:
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
