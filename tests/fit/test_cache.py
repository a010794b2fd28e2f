"""The features of `System.cache`: who sees them, how often, and where they are kept."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from reference_systems import bank, moments
from test_fit import KEY, QUIET, MemoryLog, same, start

from ad3d_jax.base import Gather, State, System, Train, Update, scoring, with_cache
from ad3d_jax.devices import memory
from ad3d_jax.evaluate import compile_score
from ad3d_jax.fit import cache_store
from ad3d_jax.fit.fit import Preempted, fit
from ad3d_jax.fit.monitor import Interruption
from ad3d_jax.testing import MemoryDataset, make_batch, take


@pytest.fixture
def data():
    return Passes({"train": make_batch(6, size=8)})


class Passes(MemoryDataset):
    """Notes the passes that reached the last batch."""

    whole = []

    def ordered(self, split, batch_size, start):
        for number, batch in enumerate(super().ordered(split, batch_size, start)):
            yield batch
            if (start + number + 1) * batch_size >= self.size(split):
                self.whole.append((split, start))


@pytest.fixture(autouse=True)
def whole(monkeypatch):
    noted = []
    monkeypatch.setattr(Passes, "whole", noted)
    return noted


def test_cached_features_reach_the_loss_by_sample(engine):
    """Every row must meet the features of its own sample, in any order."""
    data = MemoryDataset({"train": make_batch(6, size=8)})
    seen = []

    def cache(state, batch):
        return {"mean": jnp.mean(batch.rgb, (1, 2)) * state.frozen["scale"]}

    def loss(keys, params, state, batch, across):
        away = batch.extras["mean"] - 2 * jnp.mean(batch.rgb, (1, 2))
        assert "depth_normalised" in batch.extras
        seen.append(batch.extras["mean"].shape)
        return params["w"] ** 2 + jnp.max(jnp.abs(away), 1), {}, {}

    def emit(key, state, batch):
        return batch.extras["mean"]

    def absorb(key, state, rows):
        return state._replace(memory={"means": jnp.asarray(rows)})

    phases = (
        Train("t", (Update(loss, lambda h, s: optax.sgd(0.0)),), 4),
        Gather("g", emit, absorb),
    )
    system = System("s", (), (), None, phases, None, cache=cache)
    state = State(params={"w": jnp.zeros(())}, frozen={"scale": jnp.float32(2)})
    log = MemoryLog()
    fitted = fit(system, state, KEY, data, QUIET._replace(log_every=1), engine, log=log)
    losses = [line["loss"] for line in log.lines if line["kind"] == "train"]
    assert len(losses) == 4 and max(losses) < 1e-6 and seen[0] == (4, 3)
    expected = 2 * data.splits["train"].rgb.mean((1, 2))
    np.testing.assert_allclose(fitted.memory["means"], expected, rtol=1e-5)


def test_two_different_samples_of_one_id_cannot_be_cached(engine):
    samples = make_batch(6, size=8)
    twins = samples._replace(id=np.array([0, 1, 2, 3, 4, 4], np.int32))
    system = bank(steps=1)
    with pytest.raises(ValueError, match="share the id 4"):
        data = MemoryDataset({"train": twins})
        fit(system, start(system, data), KEY, data, QUIET, engine)
    # The same sample twice is harmless.
    data = MemoryDataset({"train": take(samples, [0, 1, 2, 3, 4, 4])})
    fit(system, start(system, data), KEY, data, QUIET, engine)


def with_phases(system, *names):
    """Returns the system with these of its phases, which may repeat."""
    phases = {phase.name: phase for phase in system.phases}
    return system._replace(phases=tuple(phases[name] for name in names))


def test_features_are_computed_once_for_all_phases(data, engine, whole):
    system = with_phases(bank(steps=2), "adapt", "bank", "adapt", "bank")
    fit(system, start(system, data), KEY, data, QUIET, engine)
    assert len(whole) == 1 + 2, "one pass for features, and one for each bank"


def test_a_single_pass_keeps_nothing(data, engine, whole):
    system = with_phases(bank(), "bank")
    state, folder = start(system, data), "never written to"
    options = QUIET._replace(host_memory_bytes=1, cache_folder=folder)
    alone = fit(system, state, KEY, data, options, engine)
    assert len(whole) == 1
    # In a fit with another phase its features are kept, and are the same.
    both = with_phases(bank(), "bank", "bank")
    found = fit(both, state, KEY, data, QUIET, engine)
    np.testing.assert_allclose(found.memory["bank"], alone.memory["bank"], rtol=1e-6)


def test_a_phase_with_needs_of_its_own_sees_none(engine):
    """As a pretraining on images alone, of which there are no features."""
    samples = make_batch(4, size=8)
    images = make_batch(4, size=8, seed=1)._replace(depth=None)
    data = MemoryDataset({"train": samples, "images": images})
    system = bank(steps=2)

    def loss(keys, params, state, batch, across):
        assert "features" not in batch.extras
        return 0 * jnp.sum(params["adapter"]) + batch.weight, {}, {}

    update = Update(loss, lambda h, s: optax.sgd(1.0))
    first = Train("p", (update,), 1, source="images", needs=("rgb",))
    more = system._replace(phases=(first, *system.phases))
    whole = fit(more, start(system, data), KEY, data, QUIET, engine)
    assert whole.memory["bank"].shape == (4 * 4, 8)


def test_scoring_computes_the_features_itself(data, engine):
    system = bank(steps=2)
    state = fit(system, start(system, data), KEY, data, QUIET, engine)
    test = make_batch(4, size=8, seed=9, defect=True)
    plain = jax.jit(
        lambda batch: system.score(KEY, state, with_cache(system, state, batch))
    )(test)
    same(jax.jit(scoring(system))(KEY, state, test), plain)
    compiled = compile_score(system, engine, KEY, state)
    found = compiled(test)
    np.testing.assert_allclose(found.map, plain.map, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["params", "extra", "memory"])
def test_a_cache_may_not_read_what_phases_change(data, engine, part):
    system = bank(steps=1)

    def greedy(state, batch):
        (leaf,) = getattr(state, part).values()
        return {"features": batch.rgb * leaf}

    system = system._replace(cache=greedy)
    state = start(system, data)._replace(**{part: {"leaf": jnp.ones(())}})
    match = f"bank reads state.{part}.*leaf.*frozen and hyper alone"
    with pytest.raises(ValueError, match=match):
        fit(system, state, KEY, data, QUIET, engine)


# --- In a folder ----------------------------------------------------------------------

TIGHT = QUIET._replace(host_memory_bytes=2000)  # 6 samples take 6 x 4 x 8 x 4 bytes


def test_features_that_fit_nowhere_are_refused(data, engine, tmp_path, monkeypatch):
    system = bank(steps=1)
    state = start(system, data)
    options = TIGHT._replace(host_memory_bytes=1000)
    with pytest.raises(memory.MemoryLimitError, match="6 samples.*cache_folder"):
        fit(system, state, KEY, data, options, engine)
    monkeypatch.setattr(cache_store.shutil, "disk_usage", full)
    options = options._replace(cache_folder=tmp_path)
    with pytest.raises(memory.MemoryLimitError, match="the disk has 0 GiB left"):
        fit(system, state, KEY, data, options, engine)


class full:  # noqa: N801 (stands for a function)
    free = 0

    def __init__(self, place):
        pass


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "features"


@pytest.fixture
def options(folder):
    return QUIET._replace(host_memory_bytes=1000, cache_folder=folder, save_seconds=0)


def files(folder):
    return sorted(folder.glob("*/*.npy"))


def test_features_in_files_are_those_in_memory(data, engine, options, folder):
    system = bank(steps=3)
    state = start(system, data)
    expected = fit(system, state, KEY, data, QUIET, engine)
    assert not folder.exists()
    same(fit(system, state, KEY, data, options, engine), expected)
    stored = sorted(np.load(file).tobytes() for file in files(folder))
    features = jax.jit(system.cache)(state, data.splits["train"])["features"]
    np.testing.assert_array_equal(stored, sorted(x.tobytes() for x in features))
    # Another fit of the same finds them: they are not written again.
    written = [file.stat().st_mtime_ns for file in files(folder)]
    same(fit(system, state, KEY, data, options, engine), expected)
    assert [file.stat().st_mtime_ns for file in files(folder)] == written


def test_a_killed_pass_goes_on_where_it_was(engine, options, folder, monkeypatch):
    data = MemoryDataset({"train": make_batch(10, size=8)})
    system = bank(steps=2)
    state = start(system, data)
    options = options._replace(batch_size=2)
    asked = iter([False, True])
    monkeypatch.setattr(Interruption, "wanted", lambda self: next(asked, False))
    with pytest.raises(Preempted, match="features of train"):
        fit(system, state, KEY, data, options, engine)
    begun = {file: file.stat().st_mtime_ns for file in files(folder)}
    assert len(begun) == 4
    found = fit(system, state, KEY, data, options, engine)
    after = {file: file.stat().st_mtime_ns for file in files(folder)}
    assert len(after) == 10 and begun.items() <= after.items()
    memory = options._replace(host_memory_bytes=None)
    same(found, fit(system, state, KEY, data, memory, engine))


def test_other_data_or_weights_are_not_mistaken_for_these(
    data, engine, options, folder
):
    system = bank(steps=2)
    state = start(system, data)
    fit(system, state, KEY, data, options, engine)
    brighter = data.splits["train"]._replace(rgb=0.5 * data.splits["train"].rgb)
    other = MemoryDataset({"train": brighter})
    found = fit(system, state, KEY, other, options, engine)
    same(found, fit(system, state, KEY, other, QUIET, engine))
    frozen = start(system, data, seed=5)
    found = fit(system, frozen, KEY, data, options, engine)
    same(found, fit(system, frozen, KEY, data, QUIET, engine))
    assert len(files(folder)) == 3 * 6


def test_a_damaged_folder_is_named(data, engine, options, folder):
    system = bank(steps=2)
    state = start(system, data)
    fit(system, state, KEY, data, options, engine)
    file = files(folder)[3]
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"{file.name}: \w"):
        fit(system, state, KEY, data, options, engine)
    np.save(file, np.zeros((4, 7), np.float32))
    with pytest.raises(ValueError, match=rf"{file.name}: expected shape .*, found"):
        fit(system, state, KEY, data, options, engine)


def test_half_precision_survives_the_folder(data, engine, options):
    """NumPy's files have no name for bfloat16."""
    system = moments()
    whole = system.cache

    def half(state, batch):
        rounded = whole(state, batch)["pixels"].astype(jnp.bfloat16)
        return {"half": rounded, "pixels": rounded.astype(jnp.float32)}

    def emit(key, state, batch):
        assert batch.extras["half"].dtype == ml_dtypes.bfloat16
        return batch.extras["half"]

    def absorb(key, state, rows):
        return state._replace(memory={**state.memory, "half": np.float32(rows)})

    phases = (*system.phases, Gather("g", emit, absorb))
    system = system._replace(cache=half, phases=phases)
    state = start(system, data)
    expected = fit(system, state, KEY, data, QUIET, engine)
    same(fit(system, state, KEY, data, options, engine), expected)
    assert expected.memory["half"].any()
