"""What files bring to a run: the pretrained parts of its system.

`config.weights.NAME` names a file, a folder, `shipped:NAME` or a name on the hub for
each part; `config.save_weights.NAME` the file that a phase's result is written to. Each
file is read and hashed once a run.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from ad3d_jax.base import Pretrained, State, System, Tree
from ad3d_jax.experiment.data import example
from ad3d_jax.experiment.state import key_of
from ad3d_jax.features import locate, provenance, weights

SHIPPED = Path(__file__).parent / "shipped"  # files that come with the project
RANDOM = "random"  # what a result says of a network without weights


class Brought(NamedTuple):
    """What files brought, and what a result says of it, by the parts' names."""

    trees: Mapping[str, Tree]
    facts: Mapping[str, Any]  # {"file", "sha256", "source"} or RANDOM


def bring(config: ConfigDict, system: System) -> Brought:
    """Reads what the configuration names, and says loudly where a network is random.

    Raises:
        ValueError: a file cannot be had or read, does not fit, or is known to hold
            another set than the part accepts.
    """
    made = parts_made(system)
    trees, facts = {}, {}
    for row in system.pretrained:
        name, value = row.name, config.weights.get(row.name, "")
        if not value and name in made:
            continue
        part = row.get(shapes(config, system))
        if value:
            trees[name], facts[name] = read(config, row, value, part)
        elif is_network(part):
            facts[name] = RANDOM
            logging.warning(
                "RANDOM WEIGHTS: the %s of %s was not trained, so that figures are not "
                "those of the published system; name a file by --config.weights.%s",
                *(name, config.system, name),
            )
    return Brought(trees, facts)


def parts_made(system: System) -> set[str | None]:
    """Returns the names of the parts that phases make."""
    return {phase.pretrained for phase in system.phases}


def is_network(part: Tree) -> bool:
    """Returns whether a part holds floating numbers, as networks do."""
    leaves = jax.tree.leaves(part)
    return any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)


def networks(config: ConfigDict, system: System) -> tuple[str, ...]:
    """Returns the names of the parts that files bring and that are random without."""
    named = set(loaded(config)) - parts_made(system)
    rows = [row for row in system.pretrained if row.name in named]
    if not rows:
        return ()
    state = shapes(config, system)
    return tuple(row.name for row in rows if is_network(row.get(state)))


def shapes(config: ConfigDict, system: System) -> State:
    """Returns the state that a fit begins with, its shapes and dtypes alone."""
    batch = example(config, system)
    return jax.eval_shape(system.init, key_of(config, "init"), batch)


def read(
    config: ConfigDict, row: Pretrained, value: str, like: Tree
) -> tuple[Tree, dict[str, Any]]:
    """Returns the content of a part, and what a result says of its file.

    Args:
        config: of the run, for messages.
        row: the part.
        value: of its field.
        like: its structure, shapes and dtypes.

    Raises:
        ValueError: see `bring`.
    """
    file = locate.bring(value, f"weights.{row.name}", SHIPPED)
    if isinstance(file, Path):  # a folder of images
        tree = row.read(file, like)
        return tree, {"file": file.name, "sha256": digest(tree), "source": None}
    provenance.check_source(file, row.sources)
    facts = provenance.describe(file)
    if row.sources and not facts["source"]:
        logging.warning(
            "%s: whose weights these are is not known; %s expects %s, and other sets "
            "of the same shapes load without an error and give other figures",
            *(facts["file"], config.system, " or ".join(row.sources)),
        )
    return row.read(file, like), facts


def loaded(config: ConfigDict) -> tuple[str, ...]:
    """Returns the names of the parts that files bring."""
    return tuple(name for name, value in config.weights.items() if value)


def seen(config: ConfigDict, system: System, told: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is said of the files, anew of those that are on this machine still.

    Args:
        config: of a run that is fitted.
        system: of the configuration.
        told: what was said of them when it was fitted.

    Raises:
        ValueError: a file cannot be read, or does not fit.
    """
    found = dict(told)
    for row in system.pretrained:
        value = config.weights.get(row.name, "")
        if value and Path(value).expanduser().exists():
            part = row.get(shapes(config, system))
            found[row.name] = read(config, row, value, part)[1]
    return found


def save(config: ConfigDict, system: System, phase: str, state: State) -> None:
    """Writes what a phase has made, where the configuration names a file for it."""
    made = {each.pretrained for each in system.phases if each.name == phase}
    for row in system.pretrained:
        file = config.save_weights.get(row.name, "")
        if file and row.name in made:
            weights.save(Path(file).expanduser(), row.get(state))


def digest(tree: Tree) -> str:
    """Returns the SHA-256 of the bytes of all leaves, in hexadecimal digits."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array)
    return total.hexdigest()
