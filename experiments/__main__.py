"""The console command: `ad3d NAME …` is `python -m experiments.NAME …`.

ad3d NAME --help says what NAME does. A command is a module beside this file, or one of
`data_pipelines`, that can be run.
"""

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path

import ad3d_jax
from data_pipelines.command import DONE, USAGE, refuse

PACKAGES = ("experiments", "data_pipelines")
RUNS = 'if __name__ == "__main__":'  # what a module has that can be run


def commands() -> dict[str, tuple[str, str]]:
    """Returns the module of each command and what it does in a line, by name."""
    found = {}
    for package in PACKAGES:
        folder = Path(__file__).parents[1] / package
        for path in sorted(folder.glob("[a-z]*.py")):
            text = path.read_text(encoding="utf-8")
            if RUNS in text:
                about = ast.get_docstring(ast.parse(text)).partition("\n")[0]
                found[path.stem] = f"{package}.{path.stem}", about
    return found


def page() -> str:
    """Returns the help: every command with what it does."""
    lines = [f"  {name:<14} {about}" for name, (_, about) in commands().items()]
    return "\n".join([__doc__.strip(), "", "Commands:", *lines])


def main() -> None:
    """Runs the command that the first word names."""
    _, *words = sys.argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(page())
        sys.exit(DONE if words else USAGE)
    if words[0] == "--version":
        print(ad3d_jax.__version__)
        sys.exit(DONE)
    name, known = words[0], commands()
    if name not in known:
        near = "".join(difflib.get_close_matches(name, known, 1))
        hint = f"did you mean {near!r}?" if near else "ad3d --help lists the commands"
        sys.exit(refuse(f"no command: {name!r}; {hint}", USAGE))
    sys.argv = ["", *words[1:]]  # the first word is set by what follows
    sys.path.append(os.getcwd())  # where modules of the user's own are found, last
    runpy.run_module(known[name][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
