import importlib.util
import json
import random
import sys

import numpy as np
import pytest
from PIL import Image

from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import write_json
from ad3d_jax.workdir.maps import write_maps
from ad3d_jax.workdir.scores import Row, write_scores
from data_pipelines.layout import scan
from experiments.benchmarks.anomalib import __main__ as contest

SIDE = 64


def write_class(root, train=3):
    """Writes images in the layout of MVTec 3D-AD; the defect is a bright square."""
    rng = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:40, 20:40] = 255
    places = {"train/good": train, "test/good": 1, "test/hole": 2}
    for place, count in places.items():
        for kind in ("rgb", "gt"):
            (root / place / kind).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(90, 120, (SIDE, SIDE, 3)).astype(np.uint8)
            if place.endswith("hole"):
                image[mask > 0] = 250
            truth = mask if place.endswith("hole") else 0 * mask
            Image.fromarray(image).save(root / place / "rgb" / f"{number:03}.png")
            if place.startswith("test"):
                Image.fromarray(truth).save(root / place / "gt" / f"{number:03}.png")


def test_training_images_are_evenly_spaced():
    samples = tuple(range(9))
    assert contest.evenly_spaced(samples, 5) == (0, 2, 4, 6, 8)
    assert contest.evenly_spaced(samples, 2) == (0, 8)
    assert contest.evenly_spaced(samples, 9) == samples
    assert contest.evenly_spaced(samples, None) == samples
    for wrong in (1, 10):
        with pytest.raises(ValueError, match=f"expected 2 to 9, found {wrong}"):
            contest.evenly_spaced(samples, wrong)


def test_copies_have_the_same_layout(tmp_path):
    write_class(tmp_path / "a" / "part")
    layout = scan(tmp_path / "a", "part")
    train = layout.split("train")
    chosen = (train[0], train[2], *layout.split("test"))
    contest.copy(chosen, tmp_path / "b" / "part")
    found = scan(tmp_path / "b", "part")
    assert [s.key for s in found.samples] == sorted(s.key for s in chosen)
    for one, other in zip(found.samples, sorted(chosen), strict=True):
        for kind in ("rgb", "gt"):
            source = getattr(other, kind)
            assert (source is None) == (getattr(one, kind) is None)
            if source is not None:
                assert getattr(one, kind).read_bytes() == source.read_bytes()


def test_the_channels_are_those_of_the_reference():
    expected = random.Random(1024).sample(range(448), 100)
    assert list(contest.channels("padim:anomalib")) == expected


def test_medians_and_ratios():
    def runs(*seconds):
        return [{"costs": {"fit": {"wall": s}, "peak_bytes": 10 * s}} for s in seconds]

    found = contest.summary({"ours": runs(1, 3, 2), "anomalib": runs(5, 9, 8)})
    assert found["medians"]["ours"] == {"fit": {"wall": 2}, "peak_bytes": 20}
    assert found["ratios_to_ours"] == {"fit": {"wall": 4}, "peak_bytes": 4}


def write_results(output, order):
    """Writes what both sides leave; maps of anomalib are half of ours."""
    rows = [
        Row("part", "good", "000", 0, 0, 1.0),
        Row("part", "hole", "000", 1, 1, 3.0),
        Row("part", "hole", "001", 2, 1, 2.0),
    ]
    masks = np.zeros((3, 4, 4), bool)
    masks[1:, 1:3, 1:3] = True
    maps = masks * np.float32([0, 4, 2])[:, None, None]
    write_scores(output / "workdir" / names.SCORES, rows)
    write_maps(output / "workdir" / names.MAPS, rows, maps, masks)
    write_json(output / "workdir" / names.METRICS, dict.fromkeys(contest.METRICS, 0.5))
    np.savez(
        output / "theirs.npz",
        paths=[f"/x/{rows[i].defect}/rgb/{rows[i].stem}.png" for i in order],
        map=maps[order] / 2,
        score=np.float32([3, 1, 2])[order],  # of rows; the good one is the worst
    )
    (output / "theirs.json").write_text(json.dumps({"own_metrics": {"a": 0.25}}))


def test_quality_is_of_raw_maps_in_whatever_order(tmp_path):
    (tmp_path / "workdir").mkdir()
    write_results(tmp_path, [2, 0, 1])
    found = contest.qualities(tmp_path)
    assert found["ours"] == {"metrics": dict.fromkeys(contest.METRICS, 0.5)}
    expected = {"i_auroc": 0.0, "p_auroc": 1.0, "aupro_30": 1.0}
    assert found["anomalib"]["metrics"] == pytest.approx(expected)
    assert found["anomalib"]["own_metrics"] == {"a": 0.25}
    # Ours are twice theirs, whose largest value is 2.
    assert found["anomalib"]["difference_of_maps"] == 1.0


def test_what_a_process_takes_is_measured_from_outside(tmp_path, monkeypatch):
    (tmp_path / "workdir").mkdir()
    write_results(tmp_path, [0, 1, 2])
    inside = {"fit": {"wall": 2.0}, "evaluate": {"wall": 1.0}, "seconds_score": 0.75}
    write_json(tmp_path / "ours.json", inside)
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\necho "$2 $JAX_PLATFORMS"\n[ "$3" = \'{"seed": 1}\' ]'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    found = contest.run_apart("ours", {"seed": 1}, tmp_path)
    assert found["seconds_score_an_image"] == 0.25
    assert found["seconds_fit"] == {"wall": 2.0}
    assert found["seconds_whole"]["wall"] > 0 and found["peak_bytes"] > 2**16
    told = (tmp_path / "ours.txt").read_text()
    assert told == "experiments.benchmarks.anomalib.ours cpu\n"
    with pytest.raises(ValueError, match="anomalib: status 1: .*anomalib.theirs"):
        contest.run_apart("anomalib", {"seed": 2}, tmp_path)


def test_what_is_missing_is_told_before_any_work(tmp_path, monkeypatch):
    weights = tmp_path / "weights.safetensors"
    arguments = (tmp_path, "part", str(weights))
    with pytest.raises(ValueError, match="systems: expected some of patchcore, padim"):
        next(contest.run(*arguments, ["cflow"]))
    with pytest.raises(ValueError, match="weights: expected a file"):
        next(contest.run(*arguments, ["padim"]))
    weights.touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ad3d_jax\[anomalib\]'"):
        next(contest.run(*arguments, ["padim"]))
