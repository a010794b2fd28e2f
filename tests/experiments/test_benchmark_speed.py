import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_systems

from ad3d_jax.testing import make_batch
from ad3d_jax.workdir.json_files import write_json
from experiments.benchmarks import speed
from experiments.configs.dbrn import get_config

EVERY = {
    "scope",
    "batch_size",
    "seconds_trace",
    "seconds_compile",
    "seconds_median",
    "seconds_p90",
    "images_per_second",
    "flops",
    "flops_per_second",
    "share_of_peak",
    "ratio_to_matmul",
    "planned_bytes",
    "device_peak_bytes",
    "peak_to_planned",
}


@pytest.fixture
def config():
    config = get_config("cpu")
    config.data.image_size = 16
    return config


def run(monkeypatch, config, system, **options):
    monkeypatch.setattr(speed, "build_system", lambda _: system)
    monkeypatch.setitem(speed.MATMUL_SIDE, "cpu", 64)
    return speed.run(config, **options)


def test_the_report_has_all_fields(monkeypatch, tmp_path, config):
    system = reference_systems.restorer()
    report = run(monkeypatch, config, system, batch_sizes=(1, 3), peak_tflops=2.0)
    write_json(tmp_path / "report.json", report)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["device"] == jax.devices()[0].device_kind
    assert report["jax"] == jax.__version__
    assert report["resolution"] == 16 and report["precision"] == "float32"
    assert report["warm_ups"] >= 3 and report["runs"] >= 30
    assert report["host_peak_bytes"] > 1e7
    assert "commit" in report and "config_hash" in report
    assert report["peak_flops_per_second"] == 2e12
    assert report["peak_source"] == "stated"
    train = f"step.{system.phases[0].name}"
    found = [(t["scope"], t["batch_size"]) for t in report["timings"]]
    scopes = ("score", "end_to_end", train)
    assert found == [(scope, size) for size in (1, 3) for scope in scopes]
    assert report["best"].keys() == set(scopes)
    for timing in report["timings"]:
        assert timing.keys() == EVERY
        assert 0 < timing["seconds_median"] <= timing["seconds_p90"]
        assert timing["flops"] > 0 and timing["planned_bytes"] > 0
        rate = timing["flops"] / timing["seconds_median"]
        np.testing.assert_allclose(timing["flops_per_second"], rate)
        np.testing.assert_allclose(timing["share_of_peak"], rate / 2e12)
        images = timing["batch_size"] / timing["seconds_median"]
        np.testing.assert_allclose(timing["images_per_second"], images)


def test_more_rows_cost_more_flops(monkeypatch, config):
    report = run(
        monkeypatch,
        config,
        reference_systems.restorer(),
        batch_sizes=(1, 4),
        scopes=("score",),
    )
    one, four = (timing["flops"] for timing in report["timings"])
    assert 3.5 < four / one < 4.5


@pytest.mark.parametrize("name", ["bank", "critic"])
def test_systems_with_memory_caches_and_several_updates(monkeypatch, config, name):
    system = getattr(reference_systems, name)()
    report = run(monkeypatch, config, system, batch_sizes=(2,))
    steps = [t for t in report["timings"] if t["scope"].startswith("step.")]
    trained = [p for p in system.phases if hasattr(p, "updates")]
    assert len(steps) == len(trained)
    assert report["peak_source"] == "matmul"


def test_the_count_of_flops_is_that_of_a_matrix_product():
    a, b = jnp.ones((10, 20)), jnp.ones((20, 30))
    program = speed.compiled(jax.jit(jnp.matmul), a, b)
    assert program.facts["flops"] == 2 * 10 * 20 * 30
    assert program.facts["planned_bytes"] >= 4 * (10 * 20 + 20 * 30 + 10 * 30)
    np.testing.assert_array_equal(program.call(a, b), 20)


def test_warm_ups_are_not_counted(monkeypatch):
    clock, calls = iter(range(1000)), []

    def function(x):
        calls.append(x)
        # The clock ticks once before and once after; the first three calls take longer.
        for _ in range(5 if len(calls) <= speed.WARM_UPS else len(calls) % 2):
            next(clock)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    facts = speed.measure(function, lambda: (1,), 31)
    assert len(calls) == speed.WARM_UPS + 31
    expected = [1 + number % 2 for number in range(4, 35)]
    assert facts["seconds_median"] == np.median(expected)
    assert facts["seconds_p90"] == 2


def test_a_random_batch_has_what_systems_need(config):
    batch = speed.random_batch(config, 2)
    assert batch.extras["height_normalised"].shape == (2, 16, 16, 1)
    assert batch.mask is None and batch.label is None
    for name in ("rgb", "xyz", "depth"):
        field = getattr(batch, name)
        assert field.dtype == np.float32 and np.isfinite(field).all()
    assert batch.xyz.shape == (2, 16, 16, 3)
    assert (0.3 < batch.depth).all() and (batch.depth < 0.5).all()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"scopes": ("scores",)}, "'scores'"),
        ({"runs": 3}, "30 runs"),
        ({"batch_sizes": (0, 1)}, "1 row"),
    ],
)
def test_mistakes_are_named(monkeypatch, config, options, text):
    with pytest.raises(ValueError, match=text):
        run(monkeypatch, config, reference_systems.restorer(), **options)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks.speed", "--scope=nonsense"]
    command += ["--config=experiments/configs/dbrn.py:cpu", "--batch_sizes=1"]
    command += [f"--output={tmp_path / 'report.json'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: scope: expected")


def test_a_bank_is_as_large_as_the_samples_that_it_is_said_to_hold(config):
    config.data.image_size = 16
    system = reference_systems.neighbours()
    batch = make_batch(2, size=16)
    states = [speed.ready_state(config, system, batch, n) for n in (2, 6)]
    sizes = [len(state.memory["bank"].number) for state in states]
    assert sizes[1] == 3 * sizes[0]
    rows = np.asarray(states[1].memory["bank"].rows)
    assert len(np.unique(rows, axis=0)) == len(rows)  # no row twice
