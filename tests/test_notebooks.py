"""The notebooks: built from their sources, and each runs from start to end."""

import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPOSITORY / "colab").glob("[0-9]*.py"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def builder():
    pytest.importorskip("jupytext", reason="the extra 'colab' is not installed")
    pytest.importorskip("nbclient", reason="the extra 'colab' is not installed")
    path = REPOSITORY / "tools" / "build_notebooks.py"
    spec = importlib.util.spec_from_file_location("build_notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_five():
    assert [source.name[:2] for source in SOURCES] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_is_what_its_source_says_and_has_outputs(builder, source):
    import nbformat

    built = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    made = builder.assemble(source)
    kinds = [(cell.cell_type, cell.source) for cell in built.cells]
    assert kinds == [(cell.cell_type, cell.source) for cell in made.cells], (
        "run tools/build_notebooks.py"
    )
    assert sum(bool(cell.get("outputs")) for cell in built.cells) >= 3


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_runs_from_start_to_end(builder, source, monkeypatch):
    """`execute` raises where a cell does."""
    monkeypatch.delenv("XLA_FLAGS")  # as a user has it: optimised, for one device
    done = builder.execute(source, seconds=1200)  # machines that test may be slow
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert code and all(cell.execution_count for cell in code)
