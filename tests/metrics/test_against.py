"""What is ranked against sorted good samples gives the metrics of one whole sort."""

import numpy as np
import pytest

from ad3d_jax.metrics import exact
from ad3d_jax.metrics.against import rank_against
from ad3d_jax.metrics.ranking import rank_images
from ad3d_jax.metrics.regions import label_regions


def split(seed, ties):
    """Returns maps and masks of three good and three defective samples."""
    random = np.random.default_rng(seed)
    masks = np.zeros((6, 20, 24), bool)
    masks[3, 2:6, 3:9] = masks[3, 12:14, 1:4] = masks[4, 5:15, 5:8] = True
    masks[5, 0, 0] = True
    maps = random.standard_normal(masks.shape) + masks
    return (np.round(ties * maps) / ties if ties else maps).astype(np.float32), masks


@pytest.mark.parametrize("ties", [0, 2, 20])
@pytest.mark.parametrize("kept", [[3, 4, 5], [4], [5, 3]])
def test_metrics_are_those_of_all_pixels_sorted_at_once(ties, kept):
    maps, masks = split(len(kept), ties)
    numbers = [0, 1, 2, *kept]
    labels, image = np.array([0, 0, 0] + [1] * len(kept)), maps[numbers].max((1, 2))
    whole = exact.evaluate(maps[numbers], masks[numbers], image, labels).values
    good, regions = np.sort(maps[:3].ravel()), label_regions(masks[kept])
    ranking = rank_against(good, maps[kept], regions)
    assert (np.diff(ranking.threshold) < 0).all()
    found = exact.measure(ranking, rank_images(image, labels)).values
    for name in set(whole) - {"aupro_30_compat"}:
        assert found[name] == pytest.approx(whole[name], abs=1e-12), name


def test_infinite_scores_and_masks_without_a_pixel_are_ranked():
    good = np.array([-np.inf, 0.0, 1.0], np.float32)
    scores = np.array([np.inf, -np.inf, 1.0], np.float32)
    ranking = rank_against(good, scores, np.array([1, 2, 0], np.int32))
    assert ranking.normal.tolist() == [0, 3, 4] and ranking.defect.tolist() == [1, 1, 2]
    assert ranking.overlap.tolist() == [0.5, 0.5, 1.0]
    nothing = rank_against(good, scores, np.zeros(3, np.int32))
    assert (nothing.normals, nothing.defects) == (6, 0)
    empty = rank_against(good[:0], scores[:0], np.zeros(0, np.int32))
    assert (empty.normals, empty.defects) == (0, 0)
