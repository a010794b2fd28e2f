"""The cutter of parts, on a frame that is a plane."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.camera import read_intrinsics, xyz_from_depth

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "cut_parts.py"


@pytest.fixture
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("cut_parts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def frame(tmp_path):
    """Returns the flags of a frame of 90 x 120 pixels at a metre and a half."""
    color = np.random.default_rng(0).integers(60, 180, (90, 120, 3), np.uint8)
    Image.fromarray(color).save(tmp_path / "color.png")
    Image.fromarray(np.full((90, 120), 1500, np.uint16)).save(tmp_path / "depth.png")
    camera = {"fx": 100.0, "fy": 100.0, "cx": 60.0, "cy": 45.0, "scale": 0.001}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    files = ("color.png", "depth.png", "camera.json")
    names = ("color", "depth", "camera")
    return [f"--{n}={tmp_path / f}" for n, f in zip(names, files, strict=True)] + [
        "--side=40",
        "--good=3",
        "--altered=3",
    ]


def test_samples_are_windows_whose_points_lie_where_the_frame_has_them(
    script, frame, tmp_path
):
    script.main([*frame, f"--output={tmp_path / 'out'}"])
    for folder in ("good", "altered"):
        for number in range(3):
            place = tmp_path / "out" / folder
            image = np.asarray(Image.open(place / "rgb" / f"{number:03}.png"))
            units = np.asarray(Image.open(place / "depth" / f"{number:03}.png"))
            camera = read_intrinsics(place / "camera" / f"{number:03}.json")
            assert image.shape == (40, 40, 3) and units.dtype == np.uint16
            xyz = xyz_from_depth(units * np.float32(0.001), camera)
            # The frame's middle is on the optical axis, x = y = 0, in each window.
            assert np.abs(xyz[..., :2]).min(axis=(0, 1)).max() < 1e-9
            raised = (folder, number) == ("altered", 2)
            assert (units.min() < 1480) == raised


def test_a_window_beyond_the_frame_and_a_full_folder_are_refused(
    script, frame, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        script.main([*frame, f"--output={tmp_path / 'out'}", "--centre=10,60"])
    assert "within image and depth of one size" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([*frame, f"--output={tmp_path}"])
    assert "expected an empty folder" in capsys.readouterr().err
