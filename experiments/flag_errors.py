"""Flags whose mistakes end the program with one sentence and the nearest valid name."""

import runpy
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from ad3d_jax.systems import nearest

PREFIX = "--config."


def define_config(default: str) -> flags.FlagHolder:
    """Defines `--config=FILE.py[:variant]` and its overrides `--config.FIELD=VALUE`."""
    return config_flags.DEFINE_config_file(
        "config", default, "Configuration file, with a variant after a colon."
    )


def parse(arguments: list[str]) -> list[str]:
    """Parses flags; exits with status 2 and a sentence where one is wrong."""
    try:
        return flags.FLAGS(arguments)
    except (AttributeError, KeyError) as error:
        sys.exit(refuse(unknown_field(arguments) or str(error)))
    except (flags.Error, ValueError, TypeError, OSError) as error:
        text = str(error).strip().splitlines()
        sys.exit(
            refuse(next((t.strip() for t in text[::-1] if t.strip()), repr(error)))
        )


def refuse(sentence: str) -> int:
    """Writes the sentence to the error stream and returns the exit status."""
    sys.stderr.write(f"error: {sentence}\n")
    return 2


def unknown_field(arguments: list[str]) -> str | None:
    """Returns a sentence on the first override that names no field of the config."""
    if "config" not in flags.FLAGS:
        return None
    source = flags.FLAGS["config"].default
    overrides = []
    for argument in arguments[1:]:
        if argument.startswith("--config="):
            source = argument.removeprefix("--config=")
        elif argument.startswith(PREFIX):
            overrides.append(argument.removeprefix(PREFIX).partition("=")[0])
    file, colon, variant = source.partition(":")
    get_config = runpy.run_path(file)["get_config"]
    known = set(field_names(get_config(variant) if colon else get_config()))
    for name in overrides:
        if name not in known:
            return f"config.{name}: no such field{nearest(name, known)}"
    return None


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Returns the dotted names of all fields, groups and leaves."""
    names = []
    for name, value in config.items():
        names.append(prefix + name)
        if isinstance(value, ConfigDict):
            names += field_names(value, f"{prefix}{name}.")
    return names
