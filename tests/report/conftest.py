"""A workdir for the tests of the report."""

from pathlib import Path

import pytest
from made_up_run import make_run


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Returns a workdir with 4 good and 8 defective samples of a made-up run."""
    make_run(tmp_path / "run")
    return tmp_path / "run"
