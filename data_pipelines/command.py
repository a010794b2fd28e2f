"""How every command begins and ends: its flags, one sentence for a mistake, a status.

The statuses stand in a table of docs/commands.md.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from absl import app, flags

from ad3d_jax.workdir import disk
from ad3d_jax.workdir.places import local

DONE = 0
MISTAKE = 1  # in the configuration or the data
USAGE = 2  # of a flag
DISK_FULL = 3
PLACES = ("cache", "data", "input", "output", "readme", "root", "workdir")  # flags
HELP = re.compile(r"--?(help\w*|h|\?)")


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Runs `main(words)`, with the words that are no flags, and ends with its status.

    It says itself which words it takes, by `flags.Error`.
    """
    app.run(
        lambda given: sys.exit(status_of(lambda: main(given[1:]))),
        flags_parser=lambda given: parse(given, flags.FLAGS),
    )


def parse(given: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Returns the words that are no flags; a wrong flag ends the process, status 2."""
    if asks_for_help(given):
        sys.exit(status_of(lambda: show(help_on(given[0], values))))
    try:
        values.set_gnu_getopt(True)  # flags may follow words
        rest = values(list(given))
        check_places(values)
        return rest
    except (flags.Error, ValueError) as error:
        sys.exit(refuse(sentence(error), USAGE))


def check_places(values: flags.FlagValues) -> None:
    """Raises ValueError where a flag names a place on another file system."""
    for name in sorted(set(PLACES) & set(values)):
        local(values[name].value or "", f"--{name}")


def whole_numbers(texts: Sequence[str], flag: str) -> list[int]:
    """Returns the numbers of a list; raises flags.Error where one is none."""
    try:
        return [int(text) for text in texts]
    except ValueError:
        found = ",".join(map(str, texts))
        expected = f"--{flag}: expected whole numbers, found {found!r}"
        raise flags.Error(expected) from None


def named_numbers(texts: Sequence[str], flag: str) -> dict[str, float]:
    """Returns the numbers of a list of name=number; raises flags.Error."""
    try:
        return {name: float(x) for name, x in (text.split("=") for text in texts)}
    except ValueError:
        found = ",".join(texts)
        expected = f"--{flag}: expected name=number,…, found {found!r}"
        raise flags.Error(expected) from None


@contextmanager
def checking_flags() -> Iterator[None]:
    """What goes wrong within is the wrong value of a flag."""
    try:
        yield
    except ValueError as error:
        raise flags.Error(str(error)) from error


def asks_for_help(given: Sequence[str]) -> bool:
    """Returns whether one of the arguments asks for help."""
    return any(HELP.fullmatch(word) for word in given[1:])


def help_on(command: str, values: flags.FlagValues) -> str:
    """Returns what a command does and its flags."""
    about = sys.modules["__main__"].__doc__ or ""
    return f"{about.strip()}\n\nFlags:\n{values.module_help(command)}"


def status_of(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit status; says why where that is not 0.

    A number that the command returns is its status. What is no mistake of the user
    keeps its trace.
    """
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8
        status = command()
        sys.stdout.flush()
    except flags.Error as error:
        return refuse(sentence(error), USAGE)
    except BrokenPipeError:  # who reads what is printed has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return MISTAKE
    except disk.DiskFullError as full:
        return refuse(str(full), DISK_FULL)
    except OSError as error:
        if disk.is_full(error):
            return refuse(disk.sentence(error.filename or error), DISK_FULL)
        if error.filename is None:
            raise
        return refuse(f"{error.filename}: {error.strerror}", MISTAKE)
    except MemoryError as error:
        return refuse(f"no memory is left: {error or 'of this machine'}", MISTAKE)
    except ValueError as mistake:
        return refuse(str(mistake), MISTAKE)
    except ImportError as missing:
        if missing.name:  # Python's own, not our sentence on an optional package
            raise
        return refuse(str(missing), MISTAKE)
    return status if isinstance(status, int) else DONE


def refuse(sentence: str, status: int) -> int:
    """Writes the sentence to the error stream and returns the exit status."""
    sys.stderr.write(f"error: {sentence}\n")
    return status


def show(text: str) -> None:
    """Writes a text to the output stream."""
    sys.stdout.write(f"{text}\n")


def sentence(error: Exception) -> str:
    """Returns the last line of an error; absl names the flag in it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
