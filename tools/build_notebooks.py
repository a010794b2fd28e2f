"""Executes the notebooks' sources and writes them as .ipynb beside them.

    python tools/build_notebooks.py [01_quickstart …] [--output=FOLDER]

A source is a jupytext script in `colab/`; `install.py` is put below its title. Each
runs in an empty folder and must end within three minutes.
"""

import argparse
import os
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

COLAB = Path(__file__).resolve().parents[1] / "colab"
SECONDS = 180
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def sources() -> list[Path]:
    """Returns the sources in the order of their numbers."""
    return sorted(COLAB.glob("[0-9]*.py"))


def assemble(source: Path) -> nbformat.NotebookNode:
    """Returns a source as a notebook that has not run, installation included."""
    notebook = jupytext.read(source)
    install = jupytext.read(COLAB / "install.py")
    cells = [notebook.cells[0], *install.cells, *notebook.cells[1:]]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same in every build
    notebook.cells = cells
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


def execute(source: Path, seconds: int = SECONDS) -> nbformat.NotebookNode:
    """Returns a source as a notebook with its outputs; a cell may take `seconds`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        nbclient.exceptions.CellTimeoutError: a cell took longer.
    """
    notebook = assemble(source)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # read by the kernel
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=seconds, resources=resources)
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list) -> list:
    """Returns outputs with neighbouring texts joined, as a screen would show them.

    What a carriage return wrote over, such as the earlier states of a progress bar, is
    left out, and the folder of the project is called "..", as from the notebook.
    """
    kept: list = []
    for output in outputs:
        if kept and output.get("name") and output.name == kept[-1].get("name"):
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            lines = output.text.replace(str(COLAB.parent), "..").split("\n")
            output.text = "\n".join(line.rpartition("\r")[2] for line in lines)
    return kept


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--output", type=Path, default=COLAB)
    given = parser.parse_args()
    for source in sources():
        if not given.names or source.stem in given.names:
            path = given.output / f"{source.stem}.ipynb"
            nbformat.write(execute(source), path)
            print(path)


if __name__ == "__main__":
    main()
