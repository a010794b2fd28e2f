"""The list of the lowest versions that pyproject.toml allows."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "lower_bounds.py"


def test_every_package_that_the_library_needs_has_a_lower_bound():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    lines = done.stdout.split()
    assert done.returncode == 0, done.stderr
    text = (SCRIPT.parents[1] / "pyproject.toml").read_text()
    needed, _, rest = text.partition("dependencies = [")[2].partition("]\n")
    assert len(lines) == needed.count('"') // 2 + len(["optuna", "psycopg"])
    for name, version in (line.split("==") for line in lines):
        assert f'"{name}>={version}' in needed + rest.replace("[binary]", "")
