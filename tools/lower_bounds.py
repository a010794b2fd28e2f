"""Prints the lowest version of each package that pyproject.toml allows.

python tools/lower_bounds.py > lowest.txt && pip install -c lowest.txt '.[test]'
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lower_bounds(project: dict) -> list[str]:
    """Returns "name==version" of what the library and its studies need to run."""
    needed = [*project["dependencies"], *project["optional-dependencies"]["study"]]
    return [
        f"{requirement.name}=={bound.version}"
        for requirement in map(Requirement, needed)
        for bound in requirement.specifier
        if bound.operator == ">="
    ]


if __name__ == "__main__":
    print(*lower_bounds(tomllib.loads(PROJECT.read_text())["project"]), sep="\n")
