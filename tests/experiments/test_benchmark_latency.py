"""The benchmark of latency: two starts of one detector, and frames after the second."""

import pytest

from experiments.benchmarks import latency


@pytest.mark.slow
def test_starts_and_frames_are_timed(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    report = latency.run(["padim:tiny+rgb"], frame_size=64, runs=2)
    timing = report["timings"]["padim:tiny+rgb"]
    assert timing["image_size"] == 32
    for start in ("cold", "warm"):
        assert timing[start]["load"] > 0 and timing[start]["first"] > 0
    assert "frame" not in timing["cold"]
    for part in ("frame", "score"):
        assert timing["warm"][part]["seconds_median"] > 0
