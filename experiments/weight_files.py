"""Files of weights that a run begins with: backbones, and phases done before."""

from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from ad3d_jax.base import State, System
from ad3d_jax.features import image, weights
from ad3d_jax.systems import nearest

SHIPPED = "shipped:"  # prefix of the files that come with the project
FOLDER = Path(__file__).parent / "pretrained"


def artifacts(config: ConfigDict, field: str = "artifacts") -> dict[str, str]:
    """Returns the files that stand for phases, or are written by them, by their names.

    Args:
        config: of a run.
        field: artifacts or save_artifacts.

    Raises:
        ValueError: there are no shipped weights of that name.
    """
    files = {}
    for name, file in config.get(field, {}).items():
        if file.startswith(SHIPPED):
            path = FOLDER / f"{file.removeprefix(SHIPPED)}.safetensors"
            if not path.is_file():
                known = [SHIPPED + p.stem for p in FOLDER.glob("*.safetensors")]
                raise ValueError(f"{field}.{name}: no {file!r}{nearest(file, known)}")
            file = str(path)
        if file:
            files[name] = file
    return files


def check_names(config: ConfigDict, system: System) -> None:
    """Raises ValueError where a file is named for what is no part of the system."""
    known = [row.name for row in system.pretrained]
    for field in ("artifacts", "save_artifacts"):
        for name in artifacts(config, field):
            if name not in known:
                where = f"{field}.{name}: {system.name}"
                raise ValueError(f"{where} has no such part{nearest(name, known)}")


def put(config: ConfigDict, system: System, state: State) -> State:
    """Returns the state with the parts that files bring."""
    files = artifacts(config)
    for row in system.pretrained:
        if row.name in files:
            state = row.put(state, row.read(files[row.name], row.get(state)))
    return state


def save(config: ConfigDict, system: System, phase: str, state: State) -> None:
    """Writes what a phase has made, where the configuration names a file for it."""
    files = artifacts(config, "save_artifacts")
    made = {p.pretrained for p in system.phases if p.name == phase}
    for row in system.pretrained:
        if row.name in made and row.name in files:
            weights.save(files[row.name], row.get(state))


def describe(config: ConfigDict) -> dict | str | None:
    """Returns what metrics.json says of pretrained weights, None where there are none.

    Raises:
        ValueError: the file is known to be another set than `backbone.source`.
    """
    for file in artifacts(config).values():
        return image.describe(file)
    if "backbone" not in config or not config.backbone.name:
        return None
    if not config.backbone.weights:
        return "random"
    image.check_source(config.backbone.weights, config.backbone.source)
    return image.describe(config.backbone.weights)


def check(config: ConfigDict) -> None:
    """Checks a file of weights before any work; says loudly where there is none.

    Raises:
        ValueError: the file cannot be read, does not fit, is known to be another set
            than `backbone.source`, or there is no network that it could be for.
    """
    for name, file in artifacts(config).items():
        if not Path(file).exists():
            raise ValueError(f"artifacts.{name}: no such file: {file}")
        weights.read(file)
    found = describe(config)
    source = config.backbone.source if "backbone" in config else ""
    if found is None and "backbone" in config and config.backbone.weights:
        raise ValueError(
            f"backbone.weights: {config.system} ({config.variant}) has no backbone"
        )
    if isinstance(found, dict) and "backbone" in config:
        name, deepest = config.backbone.name, max(config.model.layers)
        like = jax.eval_shape(
            lambda key: image.init_backbone(key, name, deepest), jax.random.key(0)
        )
        image.load_backbone(config.backbone.weights, name, like)
    if found == "random":
        logging.warning(
            "RANDOM WEIGHTS: the %s was not trained, so that figures are not those of "
            "the published system; name a file by --config.backbone.weights=FILE",
            config.backbone.name,
        )
    elif source and found and not found["source"]:
        logging.warning(
            "%s: whose weights these are is not known; %s expects %s, and other sets "
            "of the same shapes load without an error and give other figures",
            found["file"],
            config.system,
            source,
        )
