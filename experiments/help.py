"""What --help prints: the flags of a command, configurations, variants and fields."""

import re
from collections.abc import Sequence

from absl import flags

from ad3d_jax.experiment.config import fields_of, known, load, variants, written
from ad3d_jax.experiment.ranges import words
from ad3d_jax.experiment.recipes import GROUP
from data_pipelines.command import help_on
from data_pipelines.recipes import RECIPES

CONFIG = re.compile(r"--?config")
WIDTH = 88


def page(given: Sequence[str], values: flags.FlagValues) -> str:
    """Returns the help of a command, with the fields of what `--config` names.

    Raises:
        ValueError: there is no such configuration.
    """
    parts = [help_on(given[0], values)]
    if "config" in values:
        parts += configurations(named(given) or values["config"].default)
    return "\n\n".join(parts)


def configurations(name: str) -> list[str]:
    """Returns what configurations there are, and variants and fields of one."""
    config, bare = load(name), name.partition(":")[0]
    lines, own = [], RECIPES[config.data.recipe].defaults
    for field, value in fields_of(config).items():
        may = words(config.system, field)
        lines.append(f"  {field} = {written(value)}" + (f"  ({may})" if may else ""))
    return [
        listed("Configurations, --config=NAME[:VARIANT+VARIANT]:", known()),
        listed(f"Variants of {bare}:", variants(name)),
        f"Fields of {name}, --config.FIELD=VALUE, and what they are by default:",
        "\n".join(lines),
        f"Parameters of the recipe {config.data.recipe}, --config.{GROUP}.NAME=VALUE:",
        "\n".join(f"  {name} = {written(value)}" for name, value in own.items()),
    ]


def named(given: Sequence[str]) -> str:
    """Returns the configuration that the arguments name, the last one, or ""."""
    found = ""
    for word, following in zip(given, (*given[1:], ""), strict=True):
        flag, equals, value = word.partition("=")
        if CONFIG.fullmatch(flag):
            found = value if equals else following
    return found


def listed(title: str, names: Sequence[str]) -> str:
    """Returns a title and names in lines."""
    body = flags.text_wrap(", ".join(names) or "none", WIDTH, "  ")
    return f"{title}\n{body}"
