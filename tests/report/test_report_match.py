"""The worst patch and the training patch it matched are marked where they are."""

import numpy as np
from made_up_run import make_run

from ad3d_jax.report import write_report
from ad3d_jax.report.colors import CONTOUR
from ad3d_jax.report.files import Sample
from ad3d_jax.report.panels import checked, match_panels

SIDE = 64


def matched(**changes) -> Sample:
    """Returns a sample whose worst patch is at (40, 8) and matched (16, 56) of 12."""
    grey = np.full((SIDE, SIDE, 3), 0.5, np.float32)
    arrays = {
        "rgb": grey,
        "map": grey[..., 0],
        "match": np.array([40, 8, 12, 16, 56], np.int32),
        "match/rgb": grey,
    }
    return Sample("hole_000", {**arrays, **changes})


def marked_centre(image: np.ndarray) -> np.ndarray:
    """Returns the centre of what is outlined, as shares of height and width."""
    rows, columns = np.nonzero((image == CONTOUR).all(-1))
    ends = [(x.min() + x.max() + 1) / 2 for x in (rows, columns)]
    return np.array(ends) / image.shape[:2]


def test_both_patches_are_outlined_where_they_are():
    sample, gaps = checked(matched())
    own, theirs = match_panels(sample)
    assert not gaps
    assert own.title == "worst patch"
    assert theirs.title == "matched patch of training sample 12"
    expected = np.array([[40.5, 8.5], [16.5, 56.5]]) / SIDE
    np.testing.assert_allclose(marked_centre(own.image), expected[0], atol=0.01)
    np.testing.assert_allclose(marked_centre(theirs.image), expected[1], atol=0.01)


def test_depth_alone_is_enough():
    depth = np.linspace(0.4, 0.5, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE, 1)
    arrays = {"match": matched().arrays["match"], "depth": depth, "match/depth": depth}
    sample, gaps = checked(Sample("hole_000", arrays))
    assert not gaps and len(match_panels(sample)) == 2


def test_a_broken_match_is_told_and_not_drawn():
    sample, gaps = checked(matched(match=np.zeros(3, np.int32)))
    assert match_panels(sample) == []
    assert "matched patch is not drawn" in gaps[0]
    sample, gaps = checked(matched())
    del sample.arrays["match/rgb"]
    assert match_panels(sample) == []


def test_the_page_shows_them(tmp_path):
    folder = tmp_path / "run"
    make_run(folder)
    path = next((folder / "maps" / "samples").glob("dent_000.npz"))
    with np.load(path) as file:
        arrays = dict(file)
    match = np.array([3, 4, 7, 5, 6], np.int32)
    np.savez(path, **arrays, match=match, **{"match/rgb": arrays["rgb"]})
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count("<figcaption>matched patch of training sample 7") == 1
