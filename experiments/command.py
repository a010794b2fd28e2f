"""What all commands share: a configuration by flags, one way to begin and to end."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

from ad3d_jax.devices.remembered import remember_programs
from ad3d_jax.experiment.config import changed, load, read_texts
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.status import status_of
from data_pipelines.command import USAGE, asks_for_help, check_places, refuse, sentence
from experiments import help

FIELD = re.compile(r"^--?config\.")  # how the flag of a field begins
FLAG = re.compile(r"--?[A-Za-z]")  # how any flag begins; -1 is a number
flags.disclaim_key_flags()  # what is defined here is the command's


def run(main: Callable[..., Any], positional=False, remember=True) -> None:
    """Runs `main(flags)`, with the words that are no flags if `positional`, and ends.

    What it compiles is kept if `remember`. The status is `status_of`'s or `parse`'s.
    """

    def command(arguments: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # checkpoints are told of at length
        if remember:
            remember_programs()
        more = (arguments[1:],) if positional else ()
        sys.exit(status_of(lambda: main(flags.FLAGS, *more)))

    app.run(command, flags_parser=lambda given: parse(given, flags.FLAGS, positional))


def define_config(default: str, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines `--config=NAME[:variant]` and its overrides `--config.FIELD=VALUE`."""
    flags.DEFINE_string("config", default, "Name or file, with :variant.", values)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE, as --config.FIELD.", values)


def config_of(values: flags.FlagValues) -> ConfigDict:
    """Returns the configuration that the flags name; ValueError where one is wrong."""
    config = load(values.config)
    return changed(config, read_texts(config, values.set))


def parse(
    given: list[str], values: flags.FlagValues = flags.FLAGS, positional: bool = False
) -> list[str]:
    """Parses and checks the flags; what is wrong ends the process with status 2."""
    try:
        values.set_gnu_getopt(True)  # flags may follow words
        if asks_for_help(given):
            text = help.page(given, values)
            sys.exit(status_of(lambda: print(text)))
        rest = values(list(with_fields(given)))
        if rest[1:] and not positional:
            raise ValueError(f"no flag: {rest[1]!r}; --help lists the flags")
        check_places(values)
        if "config" in values:
            build_system(config_of(values))
        return rest
    except (flags.Error, ValueError, TypeError) as error:
        sys.exit(refuse(sentence(error), USAGE))


def with_fields(given: list[str]) -> Iterator[str]:
    """Yields `--config.FIELD=VALUE`, or with a blank or one dash, as `--set=…`."""
    waiting = [*given]
    while waiting:
        word = waiting.pop(0)
        if FIELD.match(word):
            if "=" not in word and waiting and not FLAG.match(waiting[0]):
                word += f"={waiting.pop(0)}"
        yield FIELD.sub("--set=", word)
