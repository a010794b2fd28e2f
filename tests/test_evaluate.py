"""Scores of a split bank, memory that runs out, and what a bank matched."""

import jax
import numpy as np
import pytest
from absl import logging as absl_logging
from reference_systems import bank, neighbours

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Batch, Scores
from ad3d_jax.devices import compilation, engines, memory
from ad3d_jax.fit.fit import Options, fit
from ad3d_jax.testing import MemoryDataset, make_batch, pad, take
from ad3d_jax.workdir.scores import Row

KEY = jax.random.key(3)
OPTIONS = Options(batch_size=4, progress=False)
# 7 samples of 9 patches, half of them kept: 31 rows, which nothing divides.
TRAIN = make_batch(7, size=12)
TEST = jax.tree.map(
    lambda *x: np.concatenate(x),
    make_batch(3, size=12, seed=9),
    make_batch(2, size=12, seed=8, defect=True),
)
DATA = MemoryDataset({"train": TRAIN, "test": TEST})
AMPLE = memory.Limits(2**40, 2**40, 1)
ROWS = [
    Row("board", "good" if i < 3 else "hole", f"{i:03}", i, int(i > 2))
    for i in range(5)
]


def engine_of(kind="jit", devices=1):
    return engines.make_engine(kind, jax.devices()[:devices])


def fitted(system):
    state = system.init(jax.random.key(1), TRAIN)
    return fit(system, state, KEY, DATA, OPTIONS, engine_of())


@pytest.fixture(scope="module")
def state():
    return fitted(neighbours())


def compiled(state, limits=AMPLE, kind="jit", devices=1):
    engine = engine_of(kind, devices)
    return evaluation.compile_score(neighbours(), engine, KEY, state, limits)


@pytest.mark.parametrize(
    ("kind", "devices"), [("pmap", 2), ("pmap", 4), ("shard_map", 2), ("shard_map", 4)]
)
def test_a_bank_too_large_for_a_device_is_split_and_scores_the_same(
    state, kind, devices, monkeypatch, capsys
):
    batch = pad(TEST, 3)
    expected = compiled(state)(batch)
    planned = memory.of_banks(("bank",), state)
    room = planned.whole_bytes + -(-planned.split_bytes // devices)
    seen = []
    place = engines.place

    def watched(engine, state, split):
        seen.append(split)
        return place(engine, state, split)

    monkeypatch.setattr(engines, "place", watched)
    limits = memory.Limits(room, 0, devices)
    found = compiled(state, limits, kind, devices)(batch)
    assert seen == [("bank",)]
    assert f"split over {devices} devices" in capsys.readouterr().err
    np.testing.assert_allclose(found.map, expected.map, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.image, expected.image, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.match[:5], expected.match[:5])
    with pytest.raises(
        memory.MemoryLimitError, match="score of neighbours: 31 rows of"
    ):
        compiled(state, limits._replace(device_bytes=room - 1), kind, devices)


def test_a_small_bank_stays_whole(state):
    score = compiled(state, memory.Limits(2**40, 2**40, 4), "pmap", 4)
    np.testing.assert_allclose(
        score(pad(TEST, 3)).map, compiled(state)(pad(TEST, 3)).map, atol=1e-6
    )


def test_the_bank_is_searched_with_smaller_chunks_when_memory_runs_out(
    state, monkeypatch
):
    said, seen = [], []
    monkeypatch.setattr(absl_logging, "warning", lambda *a: said.append(a[0] % a[1:]))
    expected = compiled(state)(TEST)
    call = compilation.Compiled.__call__

    def scarce(self, key, state, batch):
        seen.append(state.memory["bank"].chunk_bytes)
        if seen[-1] > 2**10:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return call(self, key, state, batch)

    monkeypatch.setattr(compilation.Compiled, "__call__", scarce)
    score = compiled(state)
    found = score(TEST)
    np.testing.assert_allclose(found.map, expected.map, rtol=0, atol=1e-6)
    assert seen == [2**12, 2**11, 2**10] and "score of neighbours" in said[0]
    score(TEST)
    assert seen[3:] == [2**10], "the chunk that fits is kept"

    def never(self, key, state, batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(compilation.Compiled, "__call__", never)
    with pytest.raises(memory.MemoryLimitError, match="ran out.*31 rows of 8 numbers"):
        score(TEST)


def test_what_was_matched_is_the_nearest_patch_of_the_training_set(state):
    scored = evaluation.score_split(compiled(state), DATA, 4)
    assert scored.match.shape == (5, 5) and scored.match.dtype == np.int32
    features = np.asarray(state.frozen["features"], np.float64)

    def patch(batch, sample, row, column):
        """Returns the feature of the patch of 4 x 4 pixels about a pixel."""
        where = (sample, slice(row - 2, row + 2), slice(column - 2, column + 2))
        x = np.concatenate([batch.rgb[where], 20 * (batch.depth[where] - 0.5)], -1)
        return x.reshape(-1).astype(np.float64) @ features

    memory = state.memory
    kept = np.asarray(memory["bank"].rows, np.float64) + memory["bank"].mean
    for i, (row, column, sample, sample_row, sample_column) in enumerate(scored.match):
        query = patch(TEST, i, row, column)
        assert scored.maps[i, row, column] == scored.maps[i].max()
        matched = patch(TRAIN, sample, sample_row, sample_column)
        apart = np.linalg.norm(query - matched)
        nearest = np.linalg.norm(kept - query.reshape(1, -1), axis=1).min()
        np.testing.assert_allclose(apart, nearest, rtol=1e-4)
        np.testing.assert_allclose(apart, scored.image[i], rtol=1e-4)


def test_the_rows_say_what_was_matched(state):
    score = compiled(state)
    shown = evaluation.Shown(ROWS, 1)
    scored = evaluation.score_split(score, DATA, 4, shown=shown)
    rows = evaluation.scored_rows(scored, ROWS)
    assert [row[:5] for row in rows] == [row[:5] for row in ROWS]
    np.testing.assert_array_equal([row.score for row in rows], scored.image)
    np.testing.assert_array_equal([row.seconds for row in rows], scored.seconds)
    np.testing.assert_array_equal([row.match for row in rows], scored.match)
    found = shown.samples(DATA, 4)
    assert list(found) == evaluation.chosen_rows(rows, 1) and len(found) == 2
    for row, arrays in found.items():
        np.testing.assert_array_equal(arrays["match"], scored.match[row])
        sample = take(TRAIN, [scored.match[row][2]])
        np.testing.assert_array_equal(arrays["match/rgb"], sample.rgb[0])
        np.testing.assert_array_equal(arrays["match/depth"], sample.depth[0])
        np.testing.assert_array_equal(arrays["rgb"], TEST.rgb[row])
        np.testing.assert_array_equal(arrays["mask"], TEST.mask[row, ..., 0])
        np.testing.assert_allclose(arrays["map"], scored.maps[row], atol=1e-6)


def test_a_system_that_matches_nothing_says_nothing():
    system = bank(steps=1)
    score = evaluation.compile_score(system, engine_of(), KEY, fitted(system))
    shown = evaluation.Shown(ROWS, 1)
    scored = evaluation.score_split(score, DATA, 4, shown=shown)
    assert scored.match is None
    assert [row.match for row in evaluation.scored_rows(scored, ROWS)] == [()] * 5
    for arrays in shown.samples(DATA, 4).values():
        assert not [name for name in arrays if name.startswith("match")]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_what_is_shown_is_chosen_while_the_split_is_scored(count):
    rng = np.random.default_rng(count)
    rows = [
        ROWS[0]._replace(stem=f"{i}", defect=f"{i % 3}", label=int(i % 3 > 0))
        for i in range(40)
    ]
    image = rng.integers(0, 6, 40).astype(np.float32)  # with ties
    shown, most = evaluation.Shown(rows, count), 0
    for first in range(0, 40, 7):
        part = image[first : first + 7]
        maps = np.arange(first, first + len(part)).reshape(-1, 1, 1, 1)
        shown.see(Batch(mask=maps > 0), Scores(map=maps, image=part))
        most = max(most, len(shown.samples(DATA, 4)))
    rows = [r._replace(score=float(s)) for r, s in zip(rows, image, strict=True)]
    found = shown.samples(DATA, 4)
    assert list(found) == evaluation.chosen_rows(rows, count)
    assert all(row == arrays["map"].item() for row, arrays in found.items())
    assert most <= 3 * count


def test_the_best_and_the_worst_told_rows_of_each_type_are_chosen():
    scores = (0.3, 0.1, 0.2, 0.9, 0.5)  # of three good samples and two with a hole
    rows = [row._replace(score=score) for row, score in zip(ROWS, scores, strict=True)]
    assert evaluation.chosen_rows(rows, 2) == [1, 0, 3, 4]
    assert evaluation.chosen_rows(rows, 1) == [1, 3]
    assert evaluation.chosen_rows(rows, 9) == [1, 2, 0, 3, 4]


def test_metrics_of_pixels_that_cannot_be_sorted_come_with_bounds(caplog):
    random = np.random.default_rng(0)
    maps, masks = random.random((5, 32, 32), np.float32), np.zeros((5, 32, 32), bool)
    masks[3:, 4:9, 5:20] = True
    maps += masks
    image, seconds = maps.max((1, 2)), np.ones(5)
    scored = evaluation.Scored(maps, masks, image, seconds, {"map_first": maps**2})
    needed = evaluation.SORTING_BYTES * maps.size
    sorted_ = evaluation.measure(scored, ROWS, needed)
    assert sorted_ == evaluation.measure(scored, ROWS) and "bounds" not in sorted_
    found = evaluation.measure(scored, ROWS, needed - 1)
    assert "exact ones lie within bounds" in caplog.text
    pairs = [(found, sorted_)]
    pairs += [(x["parts"]["map_first"] for x in pairs[0])]
    for one, other in pairs:
        for name, (low, high) in one["bounds"].items():
            assert low <= other[name] <= high
    assert found["i_auroc"] == sorted_["i_auroc"]
    assert found["aupro_30_compat"] is None and "bounds" in found["notes"]
