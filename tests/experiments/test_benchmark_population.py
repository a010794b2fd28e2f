"""What the timing of a population says; nothing of how fast it is."""

import pytest
from reference_systems import neighbours, restorer

from experiments.benchmarks import population, speed
from experiments.configs.dbrn import get_config


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(speed.MATMUL_SIDE, "cpu", 64)
    config = get_config("cpu")
    config.data.image_size = 16
    config.data.batch_size = 2
    config.fit.engine = "jit"
    config.hyper = {}
    return config


def test_each_size_is_one_program(monkeypatch, config):
    monkeypatch.setattr(population, "build_system", lambda _: restorer())
    report = population.run(config, sizes=(3,), steps=2, peak_tflops=1.0)
    found = [(x["different"], x["members"]) for x in report["timings"]]
    different = population.DIFFERENT
    assert found == [(name, count) for name in different for count in (1, 3)]
    for timing in report["timings"]:
        assert timing["traces"] == 1 and timing["seconds_median"] > 0
        alone = next(
            x["seconds_median"]
            for x in report["timings"]
            if x["members"] == 1 and x["different"] == timing["different"]
        )
        after = timing["seconds_one_after_the_other"]
        assert after == pytest.approx(timing["members"] * alone)
        assert timing["share_of_peak"] > 0


def test_a_bank_without_training_is_refused(monkeypatch, config):
    monkeypatch.setattr(population, "build_system", lambda _: neighbours())
    with pytest.raises(ValueError, match="no phase that is trained"):
        population.run(config)
