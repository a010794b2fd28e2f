import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import libraries
import numpy as np
import pytest

from ad3d_jax.ops import knn, point_sets
from experiments.benchmarks.baselines import __main__ as baselines
from experiments.benchmarks.baselines import (
    cfm,
    comparison,
    coreset,
    draem,
    easynet,
    fpfh,
    points,
    synthesis,
)
from experiments.benchmarks.baselines import knn as knn_rivals


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(coreset, "STREAM_BYTES", 2**16)


def absent(monkeypatch, *names):
    """Makes imports of these packages fail."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_a_report_without_rivals_says_why(monkeypatch):
    absent(monkeypatch, "torch", "faiss")
    report = baselines.run(["knn", "coreset"], small=True, rounds=1)
    assert report["rounds"] == 1 and report["small"] and report["cores"] > 0
    (size,) = report["operations"]["knn"]
    assert size["implementations"]["ours"]["ratio_to_ours"] == 1
    assert size["implementations"]["ours"]["reason"] is None
    for name in ("faiss_flat", "torch_cdist"):
        missing = size["implementations"][name]
        assert missing["seconds_median"] is None and missing["ratio_to_ours"] is None
        assert name.split("_")[0] in missing["reason"]
    flops = 2 * 16 * 1000 * 24
    rate = flops / size["implementations"]["ours"]["seconds_median"]
    assert size["flops_per_second"] == rate
    assert 0 <= size["fast_share_of_queries_changed"] <= 1
    (size,) = report["operations"]["coreset"]
    assert size["picks"] == 200 and size["torch_loop_picks_same"] is None
    streamed = 4 * 2000 * 8 * 200 / size["implementations"]["ours"]["seconds_median"]
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
    (size,) = knn_rivals.compare(small=True, rounds=1)
    assert size["fast_share_of_queries_changed"] == 0.5
    assert size["fast_largest_rank_change"] == 2


def test_implementations_take_turns_after_a_warm_up(monkeypatch):
    clock, called = iter(range(100)), []
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: next(clock))

    def implementation(name, ticks):
        def call():
            called.append(name)
            for _ in range(ticks):
                next(clock)

        return call

    calls = {"ours": implementation("ours", 1), "slow": implementation("slow", 5)}
    found = comparison.side_by_side({**calls, "none": "not here"}, 2, {"slow": 10.0})
    assert called == ["ours", "slow"] * 3
    assert found["ours"] == {"seconds_median": 2, "ratio_to_ours": 1, "reason": None}
    assert found["slow"]["seconds_median"] == 60
    assert found["slow"]["ratio_to_ours"] == 30
    assert found["none"]["reason"] == "not here"


def test_a_contest_in_fpfh():
    libraries.open3d()
    (size,) = fpfh.compare(small=True, rounds=1)
    assert size["clouds_per_second"] > 0
    assert size["implementations"]["open3d"]["seconds_median"] > 0


def test_a_contest_in_points_without_rivals_says_why(monkeypatch):
    def nowhere(*_):
        raise ImportError("none here")

    for rival in ("open3d_farthest", "open3d_nearest", "torch_farthest"):
        monkeypatch.setattr(points, rival, nowhere)
    monkeypatch.setattr(points, "torch_nearest", nowhere)
    monkeypatch.setattr(points, "torch_map", nowhere)
    found = points.compare(small=True, rounds=1)
    assert found["pixels"] == 576 > found["points"] > 200
    assert (found["group_count"], found["group_size"]) == (16, 8)
    for stage in ("centres", "groups", "map"):
        assert found[stage]["ours"]["seconds_median"] > 0
        assert found[stage]["torch"]["reason"] == "none here"


@pytest.mark.slow
def test_rivals_in_points_agree_with_us():
    pytest.importorskip("torch")
    xyz, valid = points._cloud(40)
    cloud = xyz[valid]
    ours = jax.jit(point_sets.farthest_points, static_argnums=2)(xyz, valid, 60)
    index = np.cumsum(valid)[ours.index] - 1  # among the valid ones
    np.testing.assert_array_equal(points.torch_farthest(cloud, 60)(), index)
    shifted = cloud - cloud.mean(0)
    near = (shifted**2).sum(1) <= 1e-3
    assert 20 < near.sum() < len(cloud)
    kernel = partial(point_sets.farthest_points, count=60, least_squared_norm=1e-3)
    found = jax.jit(kernel)(shifted, np.ones(len(cloud), bool))
    theirs = points.torch_farthest(shifted, 60, 1e-3)()
    np.testing.assert_array_equal(found.index, theirs)
    assert (theirs != index).any()
    group = jax.jit(point_sets.nearest_points, static_argnums=3)
    found = np.cumsum(valid)[group(xyz, valid, ours.xyz, 16)] - 1
    centres = np.asarray(ours.xyz)
    np.testing.assert_array_equal(points.torch_nearest(cloud, centres, 16)(), found)
    tokens = np.random.default_rng(2).standard_normal((60, 5), np.float32)
    way_back = partial(points._map, side=40, cells=10)
    np.testing.assert_allclose(
        jax.jit(way_back)(xyz, valid, centres, tokens),
        points.torch_map(xyz, valid, centres, tokens, 10)(),
        atol=2e-4,  # their distances are of the expanded form
    )
    libraries.open3d()
    chosen = points.open3d_farthest(cloud, 60)()
    np.testing.assert_array_equal(np.sort(chosen, 0), np.sort(np.float64(centres), 0))
    np.testing.assert_array_equal(points.open3d_nearest(cloud, centres, 16)(), found)


@pytest.mark.slow
def test_rivals_agree_with_us():
    pytest.importorskip("torch")
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows, queries = (rng.standard_normal((n, 16), dtype=np.float32) for n in (500, 30))
    ours = knn.nearest(knn.build(rows), queries)
    distance, number = knn_rivals.faiss_flat(rows, queries)()
    np.testing.assert_array_equal(ours.number, number)
    np.testing.assert_allclose(ours.distance, np.sqrt(distance), rtol=1e-4)
    distance, number = knn_rivals.torch_cdist(rows, queries)()
    np.testing.assert_array_equal(ours.number[:, 0], number)
    (size,) = coreset.compare(small=True, rounds=1)
    assert size["torch_loop_picks_same"] is True


def test_a_contest_in_synthesis(monkeypatch):
    found = synthesis.compare(small=True, rounds=1)
    assert found["implementations"]["ours"]["seconds_median"] > 0
    assert found["images_per_second"] > 0

    def nowhere(*_):
        raise ImportError("no cv2")

    monkeypatch.setattr(synthesis, "opencv", nowhere)
    found = synthesis.compare(small=True, rounds=1)
    assert found["implementations"]["opencv"]["reason"] == "no cv2"
    assert found["ratio_of_all_cores"] is None


def test_the_rival_of_the_synthesis_makes_such_anomalies():
    pytest.importorskip("cv2")
    from experiments.benchmarks.baselines import opencv_synthesis

    rng = np.random.default_rng(0)
    image = np.full((64, 64, 3), 0.5, np.float32)
    texture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    made = [opencv_synthesis.corrupt(rng, image, texture) for _ in range(200)]
    areas = np.array([mask.mean() for _, mask in made])
    assert 0.3 < (areas > 0).mean() < 0.6  # half are normal, few masks are empty
    # Of the noise 4.8 % lie above the threshold, facts of DRAEM's masks.
    assert 0.02 < areas.sum() / (0.5 * len(made)) < 0.08
    for altered, mask in made:
        assert altered.dtype == mask.dtype == np.float32
        np.testing.assert_array_equal(altered[mask[..., 0] == 0], 0.5)
    for change in opencv_synthesis.CHANGES:
        changed = change(rng, texture)
        assert changed.shape == texture.shape and changed.dtype == np.uint8


def test_the_rivals_of_the_networks_have_the_published_sizes():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.baselines import torch_networks

    with torch.device("meta"):
        sizes = {
            "restore": torch_networks.AutoEncoder(128),
            "judge": torch_networks.UNet(64),
            "easynet": torch_networks.EasyNet(),
            "mappings": torch_networks.Mappings(768, 1152),
        }
    counts = {name: torch_networks.parameters(x) for name, x in sizes.items()}
    assert counts == {
        "restore": 69_048_579,
        "judge": 28_374_146,
        "easynet": 140_599_314,
        "mappings": 5_535_360,
    }


def test_losses_of_the_rivals_are_those_of_the_papers():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.baselines import torch_networks

    half = torch.full((1, 2, 4, 4), 0.5)
    mask = torch.ones(1, 1, 4, 4)
    assert torch_networks.focal(half, mask) == pytest.approx(0.173275, abs=1e-4)
    image = torch.rand(1, 3, 32, 32)
    assert torch_networks.appearance(image, image) == pytest.approx(0, abs=1e-6)
    even = torch.arange(256)[None] / 255
    assert torch_networks.entropies(even) == pytest.approx(8, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("module", [draem, easynet])
def test_a_contest_of_networks(module):
    pytest.importorskip("torch")
    found = module.compare(small=True, rounds=1)
    for scope in ("score", "step"):
        for name in ("ours", "torch"):
            assert found[scope][name]["seconds_median"] > 0


@pytest.mark.slow
def test_a_contest_of_mappings():
    pytest.importorskip("torch")
    found = cfm.compare(small=True, rounds=1)
    for name in ("ours", "torch"):
        assert found["step"][name]["seconds_median"] > 0


@pytest.mark.slow
def test_the_command_line(tmp_path):
    output = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "experiments.benchmarks.baselines",
        "--small",
        "--rounds=1",
    ]
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
