"""Thousands of broken image files: one named error each, or a right reading."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("mutants.py")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), [("tiff", 4000), ("png", 2000)])
def test_mutated_files_and_bombs_are_read_right_or_refused(tmp_path, kind, number):
    """As image, mask, depth, points and texture, within 1 GiB beyond the imports."""
    words = [sys.executable, str(CHILD), kind, str(number), str(tmp_path)]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, capture_output=True, text=True, env=paths)
    assert done.returncode == 0, done.stderr[-2000:]
    table = json.loads(done.stdout)
    assert sum(count for key, count in table.items() if "bomb" not in key) == 5 * number
    assert sum(count for key, count in table.items() if key.endswith("bomb")) >= 40
    known = "points" if kind == "tiff" else "image"
    assert table[f"{known} read"] > 50 and table[f"{known} refused"] > 1000
