"""Addresses of other file systems are refused wherever a place is named."""

import os

import pytest

import ad3d_jax as ad
from ad3d_jax.experiment.config import changed, load
from ad3d_jax.experiment.run import run
from experiments import collect

ADDRESS = "gs://bucket/run"
CONFIG = load("btf:tiny")
REFUSED = "expected a path of this machine, found the address 'gs://bucket/run'"


@pytest.mark.parametrize(
    "field", ["data.root", "data.cache", "data.images", "weights.dada"]
)
def test_a_field(field):
    with pytest.raises(ValueError, match=f"^{field}: {REFUSED}"):
        changed(load("dsr:tiny"), {field: ADDRESS})
    with pytest.raises(ValueError, match=REFUSED):
        changed(load("dsr:tiny"), {"save_weights.dada": ADDRESS})


@pytest.mark.parametrize(
    "call",
    [
        lambda: run(CONFIG, ADDRESS),
        lambda: ad.Experiment(CONFIG, workdir=ADDRESS),
        lambda: ad.Experiment(CONFIG, data=ADDRESS),
        lambda: ad.load(ADDRESS),
        lambda: ad.grid(["btf:tiny"], ["bun"], workdir=ADDRESS),
        lambda: ad.grid(["btf:tiny"], ["bun"], workdir="x", data=ADDRESS),
        lambda: ad.population("simplenet:tiny", {"seed": [0]}, ADDRESS),
        lambda: ad.study("simplenet:tiny", {"seed": [0]}, workdir=ADDRESS),
        lambda: collect.main(None, [ADDRESS]),
    ],
)
def test_an_argument(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=REFUSED):
        call()
    assert os.listdir(tmp_path) == []
