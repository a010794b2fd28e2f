"""Executes the notebooks' sources and writes them as .ipynb beside them.

    python tools/build_notebooks.py [01_quickstart …] [--output=FOLDER]

A source is a jupytext script in `colab/`; `install.py` is put below its title. Each
runs in an empty folder and must end within three minutes. Each has a badge that opens
it in Colab where `[project.urls]` of pyproject.toml has a `Repository` on GitHub.
"""

import argparse
import os
import tempfile
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

COLAB = Path(__file__).resolve().parents[1] / "colab"
SECONDS = 180
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": [], "toc_visible": True},
}
GITHUB = "https://github.com/"
BADGE = "[![Open in Colab]({0}/assets/colab-badge.svg)]({0}/github/{1}/blob/main/{2})"


def sources() -> list[Path]:
    """Returns the sources in the order of their numbers."""
    return sorted(COLAB.glob("[0-9]*.py"))


def assemble(source: Path) -> nbformat.NotebookNode:
    """Returns a source as a notebook that has not run, installation included."""
    notebook = jupytext.read(source)
    notebook.cells[0].source += badge(source, repository())
    install = jupytext.read(COLAB / "install.py")
    cells = [notebook.cells[0], *install.cells, *notebook.cells[1:]]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same in every build
    notebook.cells = cells
    notebook.metadata = METADATA
    return notebook


def repository() -> str:
    """Returns the address of the repository, "" where none is declared."""
    text = (COLAB.parent / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"].get("urls", {}).get("Repository", "")


def badge(source: Path, address: str) -> str:
    """Returns the badge of a notebook, "" where the address is not on GitHub."""
    if not address.startswith(GITHUB):
        return ""
    owned = address.removeprefix(GITHUB).rstrip("/")
    file = f"colab/{source.stem}.ipynb"
    return "\n\n" + BADGE.format("https://colab.research.google.com", owned, file)


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
            # A page of megabytes stands in its own file.
            page = "report" in cell.metadata.get("tags", ())
            cell.outputs = [] if page else joined(cell.outputs)
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
