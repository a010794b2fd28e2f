"""Flags whose mistakes end the program with one sentence and the nearest valid name."""

import runpy
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from ad3d_jax.systems import nearest
from ad3d_jax.workdir import fields

PREFIX = "--config."


def define_config(default: str) -> flags.FlagHolder:
    """Defines `--config=FILE.py[:variant]` and its overrides `--config.FIELD=VALUE`.

    Exits with status 2 and a sentence where the file, the variant or a field is
    unknown, since the definition itself reads the command line.
    """
    try:
        check_overrides(sys.argv[1:], default)
    except ValueError as mistake:
        sys.exit(refuse(str(mistake)))
    return config_flags.DEFINE_config_file(
        "config", default, "Configuration file, with a variant after a colon."
    )


def parse(arguments: list[str]) -> list[str]:
    """Parses flags; exits with status 2 and a sentence where one is wrong."""
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, ValueError, TypeError) as error:
        text = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(refuse(text[-1] if text else repr(error)))


def refuse(sentence: str) -> int:
    """Writes the sentence to the error stream and returns the exit status."""
    sys.stderr.write(f"error: {sentence}\n")
    return 2


def check_overrides(arguments: list[str], default: str) -> None:
    """Raises ValueError where the configuration has no such file, variant or field."""
    source, overrides = default, []
    for argument in arguments:
        if argument.startswith("--config="):
            source = argument.removeprefix("--config=")
        elif argument.startswith(PREFIX):
            overrides.append(argument.removeprefix(PREFIX).partition("=")[0])
    file, colon, variant = source.partition(":")
    if not Path(file).is_file():
        raise ValueError(f"--config: there is no file {file}")
    get_config = runpy.run_path(file)["get_config"]
    known = set(fields.names(get_config(variant) if colon else get_config()))
    for name in overrides:
        if name not in known:
            raise ValueError(f"config.{name}: no such field{nearest(name, known)}")
