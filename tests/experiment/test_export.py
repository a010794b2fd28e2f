"""An exported detector scores as the library does, without the library."""

import functools
import json
import os
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from systems_table import SYSTEMS

from ad3d_jax.base import Scores, Train
from ad3d_jax.experiment.config import load, plain
from ad3d_jax.experiment.data import extras_of
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.export import folder as exporting
from ad3d_jax.experiment.export import score as script
from ad3d_jax.experiment.export.program import export_score
from ad3d_jax.experiment.origin import Origin
from ad3d_jax.testing.samples import make_batch
from ad3d_jax.testing.trial import Trial
from ad3d_jax.workdir.calibration import Calibration
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters
from experiments import export as command

SIZE = (48, 40)  # rows and columns of the sensor
# Runs a script where nothing can be imported but Python's own modules and those that
# jax brings.
ALONE = """
import runpy, sys
ALLOWED = {"jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum"}
class Only:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        first = name.split(".")[0]
        own = first in sys.stdlib_module_names or first.startswith("_sysconfigdata")
        if first in ALLOWED or own:
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Only, sys.meta_path)
try:
    import ad3d_jax
except ModuleNotFoundError:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def frames(count, seed, defect=False):
    """Returns samples as a sensor has them: a wavy board, with a dent or without."""
    batch = make_batch(count, size=SIZE[0], seed=seed, defect=defect, rails=True)
    rgb = np.round(255 * batch.rgb[:, :, : SIZE[1]]).astype(np.uint8)
    return [
        {"rgb": rgb[i], "xyz": batch.xyz[i, :, : SIZE[1]].copy()} for i in range(count)
    ]


def detector_of(name):
    """Returns a detector of a row of the table.

    Its state is fitted where it would be empty otherwise; networks that are trained
    alone score as well by the weights that they begin with.
    """
    row = SYSTEMS[name]
    trial = Trial(row.make_system, row.make_batch, stochastic=row.stochastic)
    trained = all(isinstance(phase, Train) for phase in trial.system.phases)
    state = jax.device_get(trial.before(0) if trained else trial.fitted)
    config = load(
        {
            "btf_hog": "btf:tiny+hog",
            "cpmf": "cpmf:tiny+views",
            "cfm": "cfm:tiny+raw",  # its own recipe cuts away the board, which is flat
        }.get(name, "easynet:tiny+fusion2+1layer" if "turn" in name else f"{name}:tiny")
    )
    recipe = config.data.recipe
    own = config.data.recipe_parameters.to_dict()
    params = complete_parameters(
        recipe, {**own, "image_size": 32, "extras": extras_of(trial.system)}
    )
    good = [Sample(**frame) for frame in frames(3, seed=0)]
    params = RECIPES[recipe].fit(params, good)
    origin = Origin(
        config=plain(config),
        recipe={"recipe": recipe, "params": params},
        data={"train": {"samples": 3, "digest": "0"}},
        sizes=[list(SIZE)],
        distances=[],
        weights={},
    )
    return Detector(origin, trial.system, state)


def given():
    """Returns the frames that the script is held to the library on."""
    return frames(1, seed=2) + frames(2, seed=3, defect=True)


def calibrated(detector):
    """Returns the detector, good scores between those of `given`."""
    scores = [detector.score(**frame) for frame in given()]
    low, high = (f(float(x.image) for x in scores) for f in (min, max))
    values = max(scores, key=lambda x: x.image).map
    middle, top = float(np.median(values)), float(values.max())
    image = [*(low - i for i in range(1, 8)), low, high + 1]
    peak = [*(middle - i for i in range(7)), (middle + top) / 2, top + 1]
    detector.calibration = Calibration(
        source="validation",
        names=tuple(f"good/{i}" for i in range(9)),
        image=np.array(image, np.float32),
        peak=np.array(peak, np.float32),
        fold=np.zeros(9, np.int32),
        low=0.0,
        high=1.0,
    )
    detector.config.eval.alpha = 0.25  # the threshold is the 8th smallest of nine
    return detector


def field_of(batch, name):
    fields = {**batch.extras, **batch._asdict()}
    return np.asarray(fields[name])[0]


def sample_of(detector, manifest, frame):
    """Returns the arrays that the script takes of a frame."""
    if manifest["takes"] == "measured":
        return {name: frame[name] for name in manifest["inputs"]}
    batch = detector.prepare(**frame)
    arrays = {name: field_of(batch, name) for name in manifest["inputs"]}
    return {"id": batch.id[0], **arrays}


def run_alone(folder, *arguments):
    """Runs the script of an export as a machine without the library does."""
    environment = {n: x for n, x in os.environ.items() if n != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", ALONE, folder / "score.py", *arguments],
        env=environment,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def scored_alone(folder, samples):
    """Returns (line of JSON, map) of each sample."""
    names = []
    for i, sample in enumerate(samples):
        names.append(folder.parent / f"{i}.npz")
        np.savez(names[-1], **sample)
    done = run_alone(folder, *names, f"--maps={folder.parent / 'maps'}")
    assert done.returncode == 0, done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    maps = [np.load(folder.parent / "maps" / f"{path.name}.npy") for path in names]
    return list(zip(lines, maps, strict=True))


def same_bits(detector, folder):
    """Holds the script to the library on frames, good and defective."""
    manifest = script.read_manifest(folder)
    samples = [sample_of(detector, manifest, frame) for frame in given()]
    scores, verdicts, boxes = set(), set(), []
    for frame, (line, map) in zip(given(), scored_alone(folder, samples), strict=True):
        if manifest["takes"] == "measured":
            frame = {name: frame[name] for name in manifest["inputs"]}
        expected = detector.score(**frame)
        assert line["score"] == float(expected.image)
        np.testing.assert_array_equal(map, expected.map[..., 0])
        assert line["p_value"] == float(expected.decision.p_value)
        verdict = "defective" if expected.decision.defective else "good"
        assert line["verdict"] == verdict
        assert [tuple(box) for box in line["boxes"]] == [*expected.decision.boxes]
        scores.add(line["score"])
        verdicts.add(verdict)
        boxes += line["boxes"]
    # Of a network that was not trained, all frames may have one score.
    assert len(verdicts) == min(len(scores), 2) and boxes


@pytest.fixture(scope="module")
def bank():
    return calibrated(detector_of("patchcore"))


@pytest.fixture
def exported_once(bank, monkeypatch):
    """Exports what the module's bank is, without its program being made again."""
    monkeypatch.setattr(exporting, "export_score", lambda *_: program_of(bank))


@functools.cache
def program_of(detector):
    batch = detector.prepare(**frames(1, seed=2)[0])
    return export_score(detector.system, detector.key, detector.state, batch)


@pytest.fixture(scope="module")
def exported(bank, tmp_path_factory):
    return bank.export(tmp_path_factory.mktemp("bank") / "export")


def test_a_bank_scores_alike(bank, exported):
    same_bits(bank, exported)


def test_a_network_scores_alike(tmp_path):
    detector = calibrated(detector_of("simplenet"))
    folder = detector.export(tmp_path / "export")
    assert script.read_manifest(folder)["takes"] == "measured"
    same_bits(detector, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_scores_alike(name, tmp_path):
    detector = calibrated(detector_of(name))
    same_bits(detector, detector.export(tmp_path / "export"))


def test_the_manifest_says_what_is_there(bank, exported):
    manifest = script.read_manifest(exported)
    there = {path.name for path in exported.iterdir()} - {"__pycache__"}
    assert there == {script.MANIFEST, *manifest["files"]}
    assert manifest["inputs"].keys() == {"rgb", "xyz"}
    assert manifest["program"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["program"]["outputs"]["map"]["shape"] == [1, 32, 32, 1]
    assert manifest["fitted"]["system"] == "patchcore"
    decision = manifest["decision"]
    assert decision["good"] == sorted(map(float, bank.calibration.image))
    assert decision["threshold"] == decision["good"][7]
    text = (exported / script.PROGRAM).read_bytes()
    assert b"site-packages" not in text and str(os.getcwd()).encode() not in text


def test_a_sample_in_a_folder_and_wrong_ones(bank, exported, tmp_path):
    frame = frames(1, seed=2)[0]
    for name, array in frame.items():
        (tmp_path / "frame").mkdir(exist_ok=True)
        np.save(tmp_path / "frame" / f"{name}.npy", array)
    np.savez(tmp_path / "float.npz", rgb=frame["rgb"] / 255, xyz=frame["xyz"])
    np.savez(tmp_path / "alone.npz", rgb=frame["rgb"])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "alone.npz").read_bytes()[:99])
    names = ("gone.npz", "cut.npz", "float.npz", "alone.npz", "frame")
    done = run_alone(exported, *(tmp_path / name for name in names))
    gone, cut, floats, alone, good = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1 and "gone.npz" in gone["error"] and cut["error"]
    assert floats["error"].startswith("rgb: expected uint8 [None, None, 3]")
    assert alone["error"] == "expected ['rgb', 'xyz'], found ['rgb']"
    assert good["score"] == float(bank.score(**frame).image)


def test_two_maps_of_one_name_are_refused(capsys):
    with pytest.raises(SystemExit):
        script.main(["a/x.npz", "b/x.npz", "--maps=maps"])
    assert "different names" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [script.PROGRAM, script.STATE, "recipe.py", "score.py", script.MANIFEST]
)
def test_a_damaged_file_is_named(exported, tmp_path, name):
    copy = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: missing or damaged"):
        script.Scorer(copy)
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: missing or damaged"):
        script.Scorer(copy)


def test_a_damaged_export_ends_with_a_sentence(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    with (copy / script.STATE).open("ab") as file:
        file.write(b"more")
    done = run_alone(copy, "x.npz")
    assert done.returncode == 1 and script.STATE in done.stderr
    assert "Traceback" not in done.stderr


def test_another_calling_convention_is_refused(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    manifest = script.read_manifest(copy)
    manifest["program"]["calling_convention_version"] = 10**6
    manifest["digest"] = script.digest_of(manifest)
    (copy / script.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="calling convention 1000000"):
        script.Scorer(copy)


def test_an_export_takes_the_place_of_an_export_alone(
    bank, exported, tmp_path, exported_once
):
    folder = shutil.copytree(exported, tmp_path / "again")
    bank.export(folder, alpha=0.5)
    assert script.read_manifest(folder)["decision"]["alpha"] == 0.5
    (folder / "mine.txt").write_text("x")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="mine.txt"):
        bank.export(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="expected a folder"):
        bank.export(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "file"]


def test_too_large_is_refused_before_anything_is_written(bank, tmp_path, exported_once):
    with pytest.raises(ValueError, match=r"max_mb = 0\.5 MB, found a state of 2\.\d"):
        bank.export(tmp_path / "export", max_mb=0.5)
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_off_leaves_the_earlier_export(
    bank, exported, tmp_path, monkeypatch, exported_once
):
    folder = shutil.copytree(exported, tmp_path / "again")
    monkeypatch.setattr(exporting, "save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bank.export(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    script.read_manifest(folder)


def decision(calibration, alpha):
    return exporting.decision_of(calibration, alpha)


def test_what_cannot_be_decided_is_none_with_a_reason(bank):
    nothing = decision(None, 0.1)
    assert nothing["good"] is None and "nothing was calibrated" in nothing["note"]
    few = decision(bank.calibration, 0.05)
    assert few["threshold"] is None and few["smallest_alpha"] == 0.1
    assert len(few["good"]) == 9 and "too few for alpha = 0.05" in few["note"]
    fold = np.arange(9, dtype=np.int32) % 3
    folds = decision(bank.calibration._replace(fold=fold), 0.25)
    assert folds["good"] is None and "3 models" in folds["note"]
    with pytest.raises(ValueError, match="alpha"):
        decision(bank.calibration, 1.5)


def test_without_calibration_there_is_a_score_alone(bank, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    scorer = script.Scorer(copy)
    scorer.manifest["decision"] = decision(None, 0.1)
    result = scorer.score(**frames(1, seed=2)[0])
    assert result[1:4] == (None, None, None)
    assert set(result.parts) >= {"match"} and result.map.dtype == np.float32


def test_boxes_of_a_map_by_hand():
    map = np.array([[0, 3, 0, 0], [4, 0, 0, 1], [0, 0, 0, 1], [9, 0, 0, 0]], np.float32)
    found = script.boxes_of(map, map > 0.5)
    assert found == ((3, 0, 4, 1, 9.0), (0, 0, 2, 2, 4.0), (1, 3, 3, 4, 1.0))


def test_a_score_that_calls_the_host_is_refused(bank):
    def score(key, state, batch):
        shape = jax.ShapeDtypeStruct((1,), np.float32)
        image = jax.pure_callback(lambda x: x.max((1, 2, 3)), shape, batch.depth)
        return Scores(batch.depth, image)

    system = bank.system._replace(score=score, name="caller")
    batch = bank.prepare(**frames(1, seed=2)[0])
    with pytest.raises(ValueError, match="caller cannot be exported"):
        export_score(system, bank.key, bank.state, batch)


def test_the_command_exports_a_workdir(bank, exported, tmp_path, capsys):
    folder, workdir = tmp_path / "export", bank.save(tmp_path / "run")
    values = types.SimpleNamespace(
        workdir=workdir, output=folder, alpha=0.25, max_mb=exporting.MAX_MB
    )
    command.main(values)
    assert f"export: {folder} (" in capsys.readouterr().out
    found, expected = map(script.read_manifest, (folder, exported))
    for name in ("inputs", "decision", "recipe", "program", "fitted"):
        assert found[name] == expected[name]
    assert found["files"][script.STATE] == expected["files"][script.STATE]


def test_what_is_prepared_is_what_is_scored(bank):
    frame = frames(1, seed=2)[0]
    scores = bank.score_batch(bank.prepare(**frame))
    np.testing.assert_array_equal(scores.map[0], bank.score(**frame).map)
