"""Members by the command are the runs alone, in workdirs like theirs."""

import pytest

from ad3d_jax.devices import compilation
from ad3d_jax.experiment import population, run, tables
from ad3d_jax.experiment.data import data_folder
from ad3d_jax.experiment.inspect import inspect
from ad3d_jax.fit.fit import NonFiniteError
from ad3d_jax.workdir.log import read_log
from experiments.configs.simplenet import get_config
from experiments.population import read_vary


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(cache):
    config = get_config("cpu")
    config.update_from_flattened_dict(
        {
            "data.image_size": 32,
            "data.batch_size": 4,
            "data.cache": str(cache),
            "data.reader": "resident",
            "model.dimensions": 16,
            "model.hidden": 8,
            "model.epochs": 2,
            "model.layers": ("layer1",),
            "fit.engine": "jit",
            "fit.log_every": 2,
            "eval.batch_size": 4,
            "eval.images_per_defect": 0,
        }
    )
    config.data.sample_set.update(
        {"train": 6, "validation": 1, "test_good": 3, "test_per_defect": 1}
    )
    return config


def losses(folder):
    """Returns the losses that a run has logged."""
    lines = read_log(folder / "log.jsonl")
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.slow
def test_classes_and_seeds_are_a_grid_of_runs(config, tmp_path, monkeypatch):
    traces = []
    for name in ("compile_members", "compile_map"):
        make = getattr(compilation, name)

        def noted(*arguments, make=make, **options):
            traces.append(make(*arguments, **options))
            return traces[-1]

        monkeypatch.setattr(compilation, name, noted)
    vary = {"data.category": ["bun", "rope"], "seed": [0, 1]}
    found = population.population(config, vary, tmp_path / "all")
    # One score for all, the features of each seed's own random backbone and class, and
    # the training of all together; each is traced once.
    assert [each.traces for each in traces if each.traces] == [1] * (1 + 4 + 1)
    assert [str(folder.relative_to(tmp_path / "all")) for folder in found] == [
        f"simplenet-cpu/{category}/seed-{seed}"
        for category in ("bun", "rope")
        for seed in (0, 1)
    ]
    rows = tables.table(tmp_path / "all", "i_auroc")
    assert rows[0].ours[tables.MEAN].seeds == 2
    one = config.copy_and_resolve_references()
    one.update_from_flattened_dict({"data.category": "rope", "seed": 1})
    expected = run.run(one, str(tmp_path / "one"), "fit_eval")
    folder = list(found)[3]
    assert expected["config_hash"] == found[folder]["config_hash"]
    assert expected.keys() == found[folder].keys()
    mine, alone = losses(folder), losses(tmp_path / "one")
    assert mine == pytest.approx(alone, rel=1e-5) and len(mine) == 1
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in folder.iterdir()}
    root, category = data_folder(one)
    source = root / category / "test" / "good" / "rgb"
    assert inspect(folder, source, tmp_path / "out").exists()
    # Again: nothing is left to be done but the scoring.
    again = population.population(config, vary, tmp_path / "all")
    assert again[folder]["i_auroc"] == found[folder]["i_auroc"]
    lines = read_log(folder / "log.jsonl")
    assert [line.get("event") for line in lines].count("fit") == 1


def test_a_member_that_diverges_is_told_of_and_the_others_are_scored(config, tmp_path):
    config.fit.patience = 2
    vary = {"hyper.noise": [0.015, 3e38]}
    for _ in range(2):  # the second time from the files
        found = population.population(config, vary, tmp_path, together=2)
        good, bad = found.values()
        assert good["i_auroc"] is not None
        assert isinstance(bad, NonFiniteError) and "2 steps in a row" in str(bad)
    names = [folder.name for folder in found]
    assert names == ["noise=0.015", "noise=3e+38"]
    assert (list(found)[1] / "failed.json").exists()
    assert not (list(found)[1] / "metrics.json").exists()


def test_what_may_vary_is_said(config, tmp_path):
    with pytest.raises(ValueError, match="hyper.nois: no such field.*hyper.noise"):
        population.combinations(config, {"hyper.nois": [0.1]})
    with pytest.raises(ValueError, match="model.hidden: members may differ in"):
        population.combinations(config, {"model.hidden": [8, 16]})
    wider = config.copy_and_resolve_references()
    wider.model.hidden = 16
    with pytest.raises(ValueError, match="model.hidden differs between members"):
        population.run_members([config, wider], [tmp_path] * 2, tmp_path)
    assert population.structure_of(config) != population.structure_of(wider)
    with pytest.raises(ValueError, match="one member"):
        population.run_members([], [], tmp_path)


def test_values_are_read_in_the_type_of_their_field(config):
    found = read_vary(config, ["hyper.noise=1,0.5", "seed=3,4"])
    assert found == {"hyper.noise": [1.0, 0.5], "seed": [3, 4]}
    assert [type(x) for x in found["seed"]] == [int, int]
    with pytest.raises(ValueError, match="seed: expected int.*'a'"):
        read_vary(config, ["seed=a"])
    with pytest.raises(ValueError, match="seed: expected int"):
        read_vary(config, ["seed"])
