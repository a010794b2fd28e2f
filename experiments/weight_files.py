"""Files of weights that a run begins with: backbones, and phases done before."""

from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from ad3d_jax.features import provenance, weights
from ad3d_jax.features.extractors import extractor
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


def describe(config: ConfigDict) -> dict | str | None:
    """Returns what metrics.json says of pretrained weights, None where there are none.

    Raises:
        ValueError: the file is known to be another set than `backbone.source`.
    """
    for file in artifacts(config).values():
        return provenance.describe(file)
    if "backbone" not in config or not config.backbone.name:
        return None
    if not config.backbone.weights:
        return "random"
    file = weights.read(config.backbone.weights)
    source = config.backbone.source
    provenance.check_source(file, (source,) if source else ())
    return provenance.describe(file)


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
        network, deepest = extractor(config.backbone.name), max(config.model.layers)
        like = jax.eval_shape(lambda key: network.init(key, deepest), jax.random.key(0))
        network.read(config.backbone.weights, like)
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
