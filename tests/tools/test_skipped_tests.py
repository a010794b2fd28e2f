"""The list of skipped tests, from a report that pytest wrote."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "skipped_tests.py"
TESTS = """
import pytest

@pytest.mark.parametrize("x", ["a b", 2])
def test_one(x):
    pytest.skip("needs Widgets for this")

def test_two():
    pytest.skip("another reason")

def test_three():
    pass
"""


def test_what_was_skipped_for_a_reason_can_be_run_again(tmp_path):
    folder = tmp_path / "tests" / "deep"
    folder.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_some.py").write_text(TESTS)

    def pytest(*arguments):
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *arguments]
        run = {"cwd": tmp_path, "capture_output": True, "text": True}
        return subprocess.run(command, **run, check=True).stdout

    pytest("--junitxml=first.xml")
    listed = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "first.xml", "Widgets"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert listed.splitlines() == [
        "tests/deep/test_some.py::test_one[a b]",
        "tests/deep/test_some.py::test_one[2]",
    ]
    (tmp_path / "again.txt").write_text(listed)
    assert "2 skipped" in pytest("@again.txt")
