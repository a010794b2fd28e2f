"""What all commands share: a configuration by flags, one way to begin and to end."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import changed, load, read_texts
from ad3d_jax.experiment.status import USAGE, refuse, status_of

PREFIX = "--config."


def run(main: Callable[..., Any], positional: bool = False) -> None:
    """Parses the flags and runs `main(flags)`; ends with the status of `status_of`.

    A flag that is wrong ends it with status 2 and one sentence. With `positional`,
    `main` gets the arguments that are no flags, too; else there may be none.
    """

    def command(arguments: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # checkpoints are told of at length
        given = arguments[1:]
        if given and not positional:
            sys.exit(refuse(f"no flag: {given[0]}", USAGE))
        more = (given,) if positional else ()
        sys.exit(status_of(lambda: main(flags.FLAGS, *more)))

    app.run(command, flags_parser=parse)


def define_config(default: str) -> None:
    """Defines `--config=NAME[:variant]` and its overrides `--config.FIELD=VALUE`."""
    text = "Name or file of a configuration, with a variant after a colon."
    flags.DEFINE_string("config", default, text)
    text = "FIELD=VALUE of the configuration; the same as --config.FIELD=VALUE."
    flags.DEFINE_multi_string("set", [], text)


def config_of(values: flags.FlagValues) -> ConfigDict:
    """Returns the configuration that the flags name.

    Raises:
        ValueError: it, or a field of it, is unknown, or a value is of another type.
    """
    config = load(values.config)
    return changed(config, read_texts(config, values.set))


def parse(arguments: list[str]) -> list[str]:
    """Parses the flags, and checks the configuration that they name."""
    try:
        rest = flags.FLAGS(list(with_fields(arguments)))
        if "config" in flags.FLAGS:
            config_of(flags.FLAGS)
        return rest
    except (flags.Error, ValueError, TypeError) as error:
        text = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(refuse(text[-1] if text else repr(error), USAGE))


def with_fields(arguments: list[str]) -> Iterator[str]:
    """Yields the arguments with `--config.FIELD=VALUE` as `--set=FIELD=VALUE`.

    A value may follow after a blank; a field without any is true.
    """
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith(PREFIX):
            yield argument
            continue
        field, equals, value = argument.removeprefix(PREFIX).partition("=")
        if not equals:
            follows = waiting and not waiting[0].startswith("--")
            value = waiting.pop(0) if follows else "true"
        yield f"--set={field}={value}"
