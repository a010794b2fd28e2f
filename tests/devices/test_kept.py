"""What tracing found is read again by another process, and never what is not the same.

A second `Program` stands for the next process: it shares nothing with the first one but
the folder.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import Scores, State
from ad3d_jax.devices import compilation, engines, kept
from ad3d_jax.devices.described import described, rebuilt
from ad3d_jax.ops import knn
from ad3d_jax.ops.gaussian import empty
from ad3d_jax.testing import make_batch

FACTS = {"system": "nearest"}
KEY = jax.random.key(3)
BATCH = make_batch(2, size=8)


@pytest.fixture(autouse=True)
def folder(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / kept.FOLDER
    jax.config.update("jax_compilation_cache_dir", before)


def state(rows=40, **changes):
    drawn = np.random.default_rng(rows).normal(size=(rows, 3))
    bank = dataclasses.replace(knn.build(drawn.astype(np.float32)), **changes)
    return State(params={"w": np.float32([1, 2, 3])}, memory={"bank": bank})


class Process:
    """Scores by a program of its own, and counts its traces."""

    def __init__(self, facts=FACTS):
        def score(key, state, batch):
            self.traces += 1
            noise = jax.random.normal(key, batch.rgb.shape)
            pixels = (batch.rgb * state.params["w"].reshape(1, 1, 1, 3)).reshape(-1, 3)
            far = knn.nearest(state.memory["bank"], pixels).distance
            map = far.reshape(*batch.rgb.shape[:3], 1)
            parts = {"noise": noise, "map_far": map}
            return Scores(map, jnp.max(map, axis=(1, 2, 3)), parts)

        self.traces = 0
        self.engine = engines.make_engine("jit")
        self.plain = compilation.compile_map(self.engine, score)
        self.program = kept.Program(self.plain, facts, Scores)

    def scores(self, state, run=None, batch=BATCH):
        key, placed = engines.replicate(self.engine, (KEY, state))
        rows = engines.split(self.engine, batch)
        return engines.join((run or self.program)(key, placed, rows))


def test_the_next_process_traces_nothing_and_gives_the_same_bits(folder):
    first, second, plain = Process(), Process(), Process()
    found = [first.scores(state()), first.scores(state()), second.scores(state())]
    expected = plain.scores(state(), plain.plain)
    for scores in found:
        assert jax.tree.structure(scores) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, scores, expected)
    assert (first.traces, second.traces, len(list(folder.iterdir()))) == (1, 0, 1)
    # The state is an argument: another one of these shapes is scored by the same file.
    other = state()._replace(params={"w": np.float32([3, 2, 1])})
    found, expected = second.scores(other), plain.scores(other, plain.plain)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert second.traces == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda process: process.scores(state(rows=41)),
        lambda process: process.scores(state(chunk_bytes=2**12)),
        lambda process: process.scores(state(), batch=make_batch(3, size=8)),
        lambda process: process.scores(state(), batch=BATCH._replace(xyz=None)),
    ],
)
def test_another_shape_or_structure_is_another_program(change):
    Process().scores(state())
    process = Process()
    change(process)
    assert process.traces == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source_digest", lambda: "another library"),
        ("SETTINGS", (*kept.SETTINGS, "jax_platforms")),
    ],
)
def test_another_source_or_setting_is_another_program(monkeypatch, name, value):
    Process().scores(state())
    monkeypatch.setattr(kept, name, value)
    process = Process()
    process.scores(state())
    assert process.traces == 1
    other = Process({"system": "another"})
    other.scores(state())
    assert other.traces == 1


def test_what_is_damaged_is_made_anew(folder, caplog):
    expected = Process().scores(state())
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    process = Process()
    found = process.scores(state())
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert process.traces == 1 and "damaged" in caplog.text
    again = Process()
    again.scores(state())
    assert again.traces == 0


def test_nothing_is_kept_of_what_is_not_known_or_has_no_place(folder):
    Process(None).scores(state())
    jax.config.update("jax_compilation_cache_dir", None)
    Process().scores(state())
    assert not folder.exists()


def test_shapes_are_found_without_a_trace():
    traces = []

    def make():
        def init(key, batch):
            traces.append(1)
            drawn = jax.random.normal(key, batch.rgb.shape)
            memory = {"bank": knn.empty(3, 2**12), "gaussians": empty(4, 5), "n": ()}
            return State(params={"a": drawn, "b": {}}, memory=memory)

        return init

    expected = jax.eval_shape(make(), KEY, BATCH)
    for _ in range(2):
        found = kept.shapes(make(), KEY, BATCH, facts=FACTS)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert len(traces) == 2


def test_no_class_but_a_container_of_this_library_is_rebuilt():
    for name in (["subprocess", "Popen"], ["ad3d_jax.devices.kept", "Program"]):
        with pytest.raises(TypeError, match="container of this library"):
            rebuilt({"class": name, "parts": {}})

    class Foreign(dict):
        pass

    for tree in (Foreign(), {1: np.zeros(2)}, [lambda: None]):
        with pytest.raises(TypeError):
            rebuilt(described(tree))
