import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.ops import knn
from experiments import rivals


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rivals, "STREAM_BYTES", 2**16)


def absent(monkeypatch, *names):
    """Makes imports of these packages fail."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_a_report_without_rivals_says_why(monkeypatch):
    absent(monkeypatch, "torch", "faiss")
    report = rivals.run(["knn", "coreset"], small=True, rounds=1)
    assert report["rounds"] == 1 and report["small"] and report["cores"] > 0
    (size,) = report["operations"]["knn"]
    assert size["contestants"]["ours"]["ratio_to_ours"] == 1
    assert size["contestants"]["ours"]["reason"] is None
    for name in ("faiss_flat", "torch_cdist"):
        missing = size["contestants"][name]
        assert missing["seconds_median"] is None and missing["ratio_to_ours"] is None
        assert name.split("_")[0] in missing["reason"]
    flops = 2 * 16 * 1000 * 24
    rate = flops / size["contestants"]["ours"]["seconds_median"]
    assert size["flops_per_second"] == rate
    assert 0 <= size["fast_share_of_queries_changed"] <= 1
    (size,) = report["operations"]["coreset"]
    assert size["picks"] == 200 and size["torch_loop_picks_same"] is None
    streamed = 4 * 2000 * 8 * 200 / size["contestants"]["ours"]["seconds_median"]
    share = streamed / size["bandwidth_bytes_per_second"]
    assert size["share_of_bandwidth"] == share


def test_changes_of_rank_are_counted(monkeypatch):
    absent(monkeypatch, "torch", "faiss")
    nearest = knn.nearest

    def wrong(bank, queries, k=1, mode="exact"):
        found = nearest(bank, queries, 3 if mode == "fast" else k)
        if mode == "exact":
            return found
        # The fast mode errs by two ranks in every second query.
        rank = jnp.where(jnp.arange(len(queries)) % 2 == 0, 2, 0).reshape(-1, 1)
        return knn.Neighbours(*(jnp.take_along_axis(x, rank, axis=1) for x in found))

    monkeypatch.setattr(knn, "nearest", wrong)
    (size,) = rivals.compare_knn(small=True, rounds=1)
    assert size["fast_share_of_queries_changed"] == 0.5
    assert size["fast_largest_rank_change"] == 2


def test_contestants_take_turns_after_a_warm_up(monkeypatch):
    clock, called = iter(range(100)), []
    monkeypatch.setattr(rivals.time, "perf_counter", lambda: next(clock))

    def contestant(name, ticks):
        def call():
            called.append(name)
            for _ in range(ticks):
                next(clock)

        return call

    calls = {"ours": contestant("ours", 1), "slow": contestant("slow", 5)}
    found = rivals.contest({**calls, "none": "not here"}, 2, {"slow": 10.0})
    assert called == ["ours", "slow"] * 3
    assert found["ours"] == {"seconds_median": 2, "ratio_to_ours": 1, "reason": None}
    assert found["slow"]["seconds_median"] == 60
    assert found["slow"]["ratio_to_ours"] == 30
    assert found["none"]["reason"] == "not here"


def test_a_contest_in_fpfh():
    pytest.importorskip("open3d")
    (size,) = rivals.compare_fpfh(small=True, rounds=1)
    assert size["clouds_per_second"] > 0
    assert size["contestants"]["open3d"]["seconds_median"] > 0


@pytest.mark.slow
def test_rivals_agree_with_us():
    pytest.importorskip("torch")
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows, queries = (rng.standard_normal((n, 16), dtype=np.float32) for n in (500, 30))
    ours = knn.nearest(knn.build(rows), queries)
    distance, number = rivals.faiss_flat(rows, queries)()
    np.testing.assert_array_equal(ours.number, number)
    np.testing.assert_allclose(ours.distance, np.sqrt(distance), rtol=1e-4)
    distance, number = rivals.torch_cdist(rows, queries)()
    np.testing.assert_array_equal(ours.number[:, 0], number)
    (size,) = rivals.compare_coreset(small=True, rounds=1)
    assert size["torch_loop_picks_same"] is True


@pytest.mark.slow
def test_the_command_line(tmp_path):
    output = tmp_path / "report.json"
    command = [sys.executable, "-m", "experiments.rivals", "--small", "--rounds=1"]
    command += ["--operations=knn,memory", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    memory = report["operations"]["memory"]
    assert memory["bank_bytes"] == 4 * 200_000 * 64 < memory["planned_bytes"]
    # The library's own memory is small beside it.
    assert memory["bank_bytes"] < memory["peak_bytes"] < 2 * memory["planned_bytes"]
    command[-2] = "--operations=nonsense"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: operations: expected")
