import csv
import html.parser
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from reference_systems import bank, neighbours, restorer
from sklearn.metrics import average_precision_score, roc_auc_score

from ad3d_jax.experiment import opening, run
from ad3d_jax.experiment.config import load, read_config
from ad3d_jax.experiment.data import data_folder
from ad3d_jax.experiment.inspect import inspect
from ad3d_jax.experiment.state import build_system
from ad3d_jax.fit.fit import Options
from ad3d_jax.fit.monitor import NOT_APPLIED
from ad3d_jax.testing import MemoryDataset, make_batch
from ad3d_jax.workdir.log import Log
from data_pipelines import synthetic
from experiments.configs.dbrn import VARIANTS, get_config
from experiments.configs.quickstart import get_config as get_quickstart

METRICS = (
    "i_auroc p_auroc aupro_30 aupro_10 aupro_05 aupro_01 i_ap p_ap i_f1max p_f1max "
    "aupro_30_compat"
).split()
FACTS = (
    "seconds_fit seconds_score images_per_second peak_memory_bytes system variant "
    "recipe resolution weights category seed steps config_hash commit jax device "
    "notes parts"
).split()


def tiny(cache, name="dbrn:tiny"):
    config = load(name)
    config.data.cache = str(cache)
    config.data.category = "bun"
    config.fit.engine = "jit"
    config.fit.log_every = 2
    if config.system == "dbrn":
        # Three scales, whose maps are metrics["parts"].
        config.model.update(steps=4, scales=3, reconstruction_levels=4)
        config.model.update(reconstruction_width=4, discriminator_width=4)
    return config


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run.run(tiny(cache), str(folder), "fit_eval")
    return folder


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_workdir_holds_what_users_rely_on(finished):
    names = {p.name for p in finished.iterdir()}
    expected = {"config.json", "log.jsonl", "checkpoints", "metrics.json", "scores.csv"}
    assert expected | {"maps", "report"} <= names
    assert (finished / "report" / "index.html").is_file()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(METRICS) | set(FACTS) <= set(metrics)
    assert metrics["weights"] == {}  # DBRN has no pretrained network
    assert metrics["steps"] == 4
    assert metrics["category"] == "bun"
    assert set(metrics["parts"]) == {"map_full", "map_quarter", "map_eighth"}


def test_metrics_follow_from_the_files(finished):
    with open(finished / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 + len(synthetic.DEFECTS["bun"])
    labels = [int(r["label"]) for r in rows]
    scores = [float(r["score"]) for r in rows]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["i_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert metrics["i_ap"] == pytest.approx(average_precision_score(labels, scores))
    names = [f"{r['defect']}_{r['stem']}.npz" for r in rows]
    loaded = [np.load(finished / "maps" / name) for name in names]
    masks = np.concatenate([x["mask"].ravel() for x in loaded])
    maps = np.concatenate([x["map"].ravel() for x in loaded])
    assert metrics["p_auroc"] == pytest.approx(roc_auc_score(masks, maps), abs=1e-6)


def test_report_is_well_formed_and_shows_the_metrics(finished):
    page = (finished / "report" / "index.html").read_text()
    html.parser.HTMLParser().feed(page)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert f"{metrics['p_auroc']:.3f}" in page


def test_scoring_again_gives_the_same_bits(finished):
    before = (finished / "metrics.json").read_text()
    scores = [line.split(",")[5] for line in open(finished / "scores.csv")]
    config = read_config(finished)
    run.run(config, str(finished), "eval")
    again = [line.split(",")[5] for line in open(finished / "scores.csv")]
    assert scores == again
    same, then = json.loads(before), json.loads((finished / "metrics.json").read_text())
    assert {n: same[n] for n in METRICS} == {n: then[n] for n in METRICS}


@pytest.mark.parametrize("left", ["good", None])
def test_a_test_split_without_defects_gives_nulls_with_reasons(  # fault 10
    finished, cache, tmp_path, left
):
    root, category = data_folder(tiny(cache))
    shutil.copytree(root / category, tmp_path / "data" / category)
    for folder in (tmp_path / "data" / category / "test").iterdir():
        if folder.name != left:
            shutil.rmtree(folder)
    shutil.copytree(finished, tmp_path / "run")
    config = read_config(finished)
    config.data.root = str(tmp_path / "data")
    allow = ["data.root"]
    metrics = run.run(config, str(tmp_path / "run"), "eval", allow)
    assert all(metrics[name] is None for name in METRICS)
    assert all(metrics["notes"][name] for name in METRICS)
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_a_changed_configuration_is_refused_with_a_diff(finished, cache):
    config = tiny(cache)
    config.hyper.beta_max = 0.5
    with pytest.raises(ValueError, match=r"hyper\.beta_max: 0\.8 -> 0\.5"):
        run.run(config, str(finished), "eval")


def test_predict_scores_as_the_evaluation_did(finished, cache, tmp_path):
    config = read_config(finished)
    root, category = data_folder(config)
    source = root / category / "test" / "hole"
    path = inspect(str(finished), str(source), str(tmp_path / "out"))
    with open(path, newline="") as file:
        predicted = {r["name"]: r for r in csv.DictReader(file)}
    with open(finished / "scores.csv", newline="") as file:
        known = {r["stem"]: r for r in csv.DictReader(file) if r["defect"] == "hole"}
    assert len(predicted) == len(known) > 0
    for name, row in predicted.items():
        stem = name.rsplit("/", 1)[-1].removesuffix(".png")
        assert float(row["score"]) == pytest.approx(
            float(known[stem]["score"]), rel=1e-5
        )
        assert float(row["seconds"]) > 0
    for folder in ("heat_maps", "overlays"):
        images = list((tmp_path / "out" / folder).rglob("*.png"))
        assert len(images) == len(known)
        picture = Image.open(next((source / "rgb").iterdir()))
        assert Image.open(images[0]).size == picture.size


def test_predict_with_images_alone_for_an_rgb_system(cache, tmp_path):
    config = tiny(cache, "padim:tiny+rgb")
    config.data.recipe = "raw"
    run.run(config, str(tmp_path / "run"), "fit")
    root, category = data_folder(config)
    source = root / category / "test" / "good" / "rgb"
    path = inspect(tmp_path / "run", source, tmp_path / "out")
    assert len(path.read_text().splitlines()) == 1 + 3


def test_predict_without_the_needed_modality_names_it(finished, tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="xyz|depth"):
        inspect(finished, tmp_path, tmp_path / "out")


def test_an_unfinished_workdir_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="finished run"):
        inspect(tmp_path, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_builds(name):
    build_system(get_config(name))


def test_quickstart_builds():
    assert build_system(get_quickstart()).name == "dbrn"


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="hadamard"):
        get_config("hadamrad")


@pytest.mark.parametrize(
    "field,value,expected",
    [
        ("reconstruction", "unet", "res_unet"),
        ("scales", 2, "scales"),
        ("reconstruction_levels", 3, "reconstruction_levels.*1/8.*found 3"),
        ("dtype", "float16", "bfloat16"),
    ],
)
def test_wrong_values_are_named(field, value, expected):
    config = get_config("res_unet")
    config.model.scales = 3
    config.model[field] = value
    with pytest.raises(ValueError, match=expected):
        build_system(config)


@pytest.mark.parametrize(
    "argument,expected",
    [
        ("--config.model.stepz=3", "model.steps"),
        ("--config.model.steps=many", "many"),
        ("--confg=x", "config"),
        ("--config=dbrn:nope", "nope"),
    ],
)
def test_a_wrong_flag_ends_with_one_sentence(argument, expected):  # fault 72
    done = command("experiments.main", argument)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert expected in done.stderr.strip().splitlines()[-1]


def test_a_missing_folder_ends_with_one_sentence(tmp_path):
    done = command(
        "experiments.main",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={tmp_path / 'nowhere'}",
        "--config.data.category=bagel",
        f"--config.data.cache={tmp_path / 'cache'}",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "nowhere" in done.stderr


def test_training_steps_are_counted_from_passes_and_none_where_nothing_is_trained():
    data = MemoryDataset({"train": make_batch(7)})
    trained = restorer(steps=5)
    passes = trained.phases[0]._replace(steps=0, epochs=3)
    both = trained._replace(phases=(*trained.phases, passes))
    options = Options(batch_size=4)
    assert (
        opening.training_steps(both, options, data) == 5 + 6
    )  # 21 rows in batches of 4
    assert opening.training_steps(neighbours(), options, data) is None
    loaded = options._replace(loaded=("adapter",))
    assert opening.training_steps(bank(steps=3), loaded, data) is None


def test_steps_that_were_not_applied_are_in_the_metrics(finished, cache, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    with Log(folder / "log.jsonl") as log:
        for step in (1, 3, 3):  # a resumed run may say one twice
            log.write(kind="event", event=NOT_APPLIED, phase="main", step=step)
    metrics = run.run(tiny(cache), str(folder), "eval")
    assert metrics["notes"]["steps"] == "2 were not finite and were not applied"
    assert "steps" not in json.loads((finished / "metrics.json").read_text())["notes"]
