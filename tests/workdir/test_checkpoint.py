import asyncio
import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore
from disturbed import small_files
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ad3d_jax.workdir import checkpoint
from ad3d_jax.workdir.checkpoint import (
    Checkpointer,
    CheckpointError,
    _decode_manifest,
    _encode_manifest,
    _Leaf,
    has_tree,
    load_tree,
    save_tree,
)
from ad3d_jax.workdir.disk import DiskFullError


def noise(seed, size=20_000):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def example(seed=0):
    """A tree with all that a run's state may hold."""
    params = {
        "dense": {"kernel": jnp.asarray(noise(seed, (6, 4))), "bias": jnp.ones(4)}
    }
    return {
        "params": params,
        "optimizer": optax.adam(1e-3).init(params),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "flags": np.array([True, False]),
        "codes": np.arange(7, dtype=np.int8),
        "step": np.int32(seed),
        "count": seed,
        "empty": {},
        "none": None,
        "no rows": np.zeros((0, 3), np.float32),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed), 3),
        "a/b": np.ones(2),
        "a": {"b": np.zeros(2)},
    }


def in_dicts(seed=0):
    """What comes back of `example`, spelt out."""
    params = example(seed)["params"]
    zeros = jax.tree.map(np.zeros_like, params)
    tree = example(seed) | {
        "optimizer": {"0": {"count": np.int32(0), "mu": zeros, "nu": zeros}}
    }
    return {name: x for name, x in tree.items() if name not in ("empty", "none")}


def assert_same(found, expected):
    """Checks that trees of dicts are equal to the bit, keys as keys."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        if jnp.issubdtype(getattr(one, "dtype", np.int64), jax.dtypes.prng_key):
            assert one.dtype == other.dtype
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def saved(folder, steps, tree=lambda step: {"w": noise(step)}):
    with Checkpointer(folder, keep=len(steps)) as checkpointer:
        for step in steps:
            checkpointer.save(step, tree(step))
    return folder


def largest_file(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def test_a_tree_comes_back_with_the_same_bits(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, example(5))
        step, found = checkpointer.latest()
    assert step == 3
    assert_same(found, in_dicts(5))
    assert isinstance(found["params"]["dense"]["kernel"], np.ndarray)


@pytest.mark.parametrize("tree", [{}, {"no rows": np.zeros((0, 3), np.float32)}])
def test_a_tree_of_nothing_comes_back(tmp_path, tree):
    save_tree(tmp_path / "tree", tree)
    assert_same(load_tree(tmp_path / "tree"), tree)


def test_what_is_written_is_the_moment_of_the_call(tmp_path):
    array = noise(0)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(0, {"w": array})
        array[:] = 0
    np.testing.assert_array_equal(load_tree(tmp_path)["w"], noise(0))


def test_donated_buffers_do_not_reach_the_file(tmp_path):
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    x = jnp.asarray(noise(0))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(0, {"w": x})
        double(x).block_until_ready()
    np.testing.assert_array_equal(load_tree(tmp_path)["w"], noise(0))


def test_nothing_saved_is_none(tmp_path):
    assert Checkpointer(tmp_path / "absent").latest() is None
    assert Checkpointer(tmp_path / "absent").steps() == []
    with pytest.raises(CheckpointError, match="no saved tree"):
        load_tree(tmp_path / "absent")


def test_the_newest_steps_by_number_stay(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (1, 2, 9, 10, 11):
            checkpointer.save(step, {"w": noise(step)})
        assert checkpointer.steps() == [10, 11]
    os.utime(tmp_path / "11", (1, 1))  # steps order by number, not by time
    assert Checkpointer(tmp_path).latest()[0] == 11


def test_a_saved_tree_is_replaced(tmp_path):
    for seed in (1, 2, 3):
        save_tree(tmp_path / "tree", {"w": noise(seed)})
    found = load_tree(tmp_path / "tree")
    np.testing.assert_array_equal(found["w"], noise(3))
    assert len(list((tmp_path / "tree").iterdir())) == 1


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_what_lies_on_several_devices_comes_back_whole(tmp_path, devices):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} devices")
    mesh = Mesh(np.array(jax.devices()[:devices]), "d")
    rows = noise(0, (8, 3))
    placed = jax.device_put(rows, NamedSharding(mesh, PartitionSpec("d")))
    save_tree(tmp_path / "tree", {"bank": placed})
    np.testing.assert_array_equal(load_tree(tmp_path / "tree")["bank"], rows)


def truncate(file):
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def empty(file):
    file.write_bytes(b"")


def garbage(file):
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))


@pytest.mark.parametrize("damage", [truncate, empty, garbage, Path.unlink])
@pytest.mark.parametrize("name", ["data", "_METADATA", "manifest.ocdbt"])
def test_a_damaged_step_falls_back_loudly(tmp_path, caplog, damage, name):
    saved(tmp_path, [1, 2])
    if name == "data":
        damage(largest_file(tmp_path / "2"))
    else:
        damage(next((tmp_path / "2").rglob(name)))
    step, found = Checkpointer(tmp_path).latest()
    np.testing.assert_array_equal(found["w"], noise(step))
    if name == "data":
        assert step == 1
    assert step == 2 or "step 2 " in caplog.text and "before it" in caplog.text


@pytest.mark.parametrize("part", np.linspace(0, 1, 9))
def test_a_flipped_bit_of_the_data_is_found(tmp_path, part):
    saved(tmp_path, [1, 2])
    file = largest_file(tmp_path / "2")
    content = bytearray(file.read_bytes())
    content[int(part * (len(content) - 1))] ^= 1 << random.Random(part).randrange(8)
    file.write_bytes(content)
    step, found = Checkpointer(tmp_path).latest()
    np.testing.assert_array_equal(found["w"], noise(step))
    if 0.1 < part < 0.9:  # the ends are orbax's own records, partly unused
        assert step == 1


def test_no_flipped_bit_of_any_file_gives_another_tree(tmp_path):
    saved(tmp_path, [1, 2], example)
    rng = random.Random(0)
    files = sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file())
    passed_over = 0
    for file in files:
        whole = file.read_bytes()
        for _ in range(4 if whole else 0):
            content = bytearray(whole)
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            step, found = Checkpointer(tmp_path).latest()
            assert_same(found, in_dicts(step))
            passed_over += step == 1
        file.write_bytes(whole)
    assert passed_over > 0
    assert Checkpointer(tmp_path).latest()[0] == 2


def test_a_changed_manifest_is_never_believed():
    manifest = [_Leaf(("dense", "w"), (2, 3), "float32", "ab" * 32, None)]
    whole = _encode_manifest(manifest)
    assert _decode_manifest(whole) == manifest
    for place in range(len(whole)):
        changed = whole.copy()
        changed[place] ^= 1
        with pytest.raises(ValueError):
            _decode_manifest(changed)


def test_no_whole_step_is_an_error(tmp_path):
    saved(tmp_path, [1, 2])
    for step in "12":
        truncate(largest_file(tmp_path / step))
    with pytest.raises(CheckpointError, match=r"none of the steps \[1, 2\]"):
        Checkpointer(tmp_path).latest()


def test_after_a_fallback_the_good_step_outlives_the_damaged_ones(tmp_path):
    saved(tmp_path, [1, 5, 6])
    for step in "56":
        truncate(largest_file(tmp_path / step))
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.latest()[0] == 1
        checkpointer.save(2, {"w": noise(2)})
        assert checkpointer.steps() == [1, 2]
        checkpointer.save(5, {"w": noise(5)})
        step, found = checkpointer.latest()
    assert step == 5
    np.testing.assert_array_equal(found["w"], noise(5))


def test_tmp_folders_of_dead_runs_go_and_younger_ones_stay(tmp_path):
    saved(tmp_path, [1])
    names = ["2.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp", "0.removed", "notes"]
    for name in names:
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1, 1))
    later = time.time() + 1000
    os.utime(tmp_path / names[1], (later, later))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest()[0] == 1
        assert all((tmp_path / name).exists() for name in names)  # reading only
        checkpointer.save(2, {"w": noise(2)})
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["1", "2", names[1], "notes"]


def test_a_full_disk_is_told_at_the_next_call(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"w": noise(1)})
        assert checkpointer.steps() == [1]
        with small_files(100_000):
            with pytest.raises(DiskFullError, match=f"^{tmp_path / '2'}: no space is"):
                checkpointer.save(2, {"w": noise(2, 500_000)})
                checkpointer.save(3, {"w": noise(3)})
        assert checkpointer.latest()[0] == 1
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, {"w": noise(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_failure_of_the_last_save_is_told_at_the_end(tmp_path):
    with small_files(100_000):
        with pytest.raises(DiskFullError, match=f"^{tmp_path / '1'}: no space is left"):
            with Checkpointer(tmp_path) as checkpointer:
                checkpointer.save(1, {"w": noise(1, 500_000)})
    assert not has_tree(tmp_path)


def test_writes_that_end_after_a_failed_one_print_nothing(tmp_path, monkeypatch):
    late, ended = tensorstore.Promise.new()
    other, strange = tensorstore.Promise.new()
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Orbax(contextlib.nullcontext):
        def save(self, *_, **__):
            async def write():
                await ended

            async def write_all():
                written.append(asyncio.ensure_future(write()))
                await asyncio.sleep(0)  # it begins, and is not waited for
                raise OSError(errno.ENOSPC, "no space")

            with contextlib.closing(asyncio.new_event_loop()) as loop:
                loop.run_until_complete(write_all())

        def __enter__(self):
            return self

    written = []
    monkeypatch.setattr(checkpoint, "_orbax", Orbax)
    with pytest.raises(DiskFullError):
        save_tree(tmp_path, {"w": noise(0)})
    late.set_result(0)
    assert not told
    strange.add_done_callback(lambda _: 1 / 0)
    other.set_result(0)
    assert [type(each.exc_value) for each in told] == [ZeroDivisionError]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="saving step 0 failed"):
        save_tree(tmp_path / "file" / "tree", {"w": noise(0)})


def test_another_process_than_the_first_may_load_and_not_save(tmp_path, monkeypatch):
    save_tree(tmp_path / "tree", {"w": noise(0)})
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    np.testing.assert_array_equal(load_tree(tmp_path / "tree")["w"], noise(0))
    with pytest.raises(CheckpointError, match="the first saves, found process 1"):
        save_tree(tmp_path / "tree", {"w": noise(1)})


def test_text_in_a_tree_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match="leaf 'a/name'"):
        save_tree(tmp_path / "tree", {"a": {"name": "text"}})


CHILD = textwrap.dedent(
    """
    import sys
    import numpy as np
    from ad3d_jax.workdir.checkpoint import Checkpointer
    with Checkpointer(sys.argv[1], keep=2) as checkpointer:
        for step in range(1, 1000):
            tree = {str(i): np.full(50_000, step + i, np.float32) for i in range(4)}
            rng = np.random.default_rng(step)
            tree["noise"] = rng.standard_normal(50_000)
            checkpointer.save(step, tree)
            print(checkpointer.steps()[-1] if step % 2 else 0, flush=True)
    """
)


def kill_while_saving(folder, seed):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    rng = random.Random(seed)
    try:
        reported = 0
        for _ in range(rng.randrange(1, 6)):
            reported = max(reported, int(child.stdout.readline()))
        time.sleep(rng.uniform(0, 0.05))
    finally:
        child.kill()
        rest = child.communicate()[0].split()
    reported = max([reported, *map(int, rest)])
    with Checkpointer(folder) as checkpointer:
        step, found = checkpointer.latest()
        assert step >= reported
        for i in range(4):
            np.testing.assert_array_equal(found[str(i)], step + i)
        expected = np.random.default_rng(step).standard_normal(50_000)
        np.testing.assert_array_equal(found["noise"], expected)
        checkpointer.save(step + 1, found)
    assert all(path.name.isdecimal() for path in folder.iterdir())
    shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_writer_leaves_a_good_step(tmp_path, seed):
    kill_while_saving(tmp_path / "steps", seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 20))
def test_a_killed_writer_leaves_a_good_step_at_many_moments(tmp_path, seed):
    kill_while_saving(tmp_path / "steps", seed)
