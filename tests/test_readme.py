"""What the README says in Python runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_lines_of_python_run_in_an_empty_folder(tmp_path):
    (lines,) = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert 8 <= len(lines.strip().splitlines()) <= 13
    done = subprocess.run(
        [sys.executable, "-c", lines],
        # As a user's machine compiles: the suite's flags save compilation, not running.
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures, scores = done.stdout.strip().splitlines()
    i_auroc, aupro, report = figures.split()
    assert 0.5 < float(i_auroc) <= 1 and 0 < float(aupro) <= 1
    assert (tmp_path / report).is_file()
    score, rest = scores.split(" ", 1)
    # Of ten good samples that calibrate none scores as high: p = 1 / 11.
    assert float(score) > 0 and rest.startswith("(128, 128, 1) 0.0909")
    assert "Box(top=" in rest
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "bun-detector"}
