"""What every command does with a configuration: data, system, state, facts."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ad3d_jax.base import Array, Batch, State, System
from ad3d_jax.devices import processes
from ad3d_jax.evaluate import Sample
from ad3d_jax.features.extractors import pretrained_backbone
from ad3d_jax.fit.positions import unpack_state
from ad3d_jax.synthesis.textures import load_textures
from ad3d_jax.systems import SYSTEMS, build, nearest
from ad3d_jax.workdir.checkpoint import load_tree
from data_pipelines import layout, sources, synthetic
from experiments import weight_files

FINAL = "final"  # folder of the trained state below checkpoints/
KEYS = {"init": 0, "fit": 1, "score": 2, "images": 3, "synthesis": 4}


def plain(config: ConfigDict) -> dict:
    """Returns the configuration as JSON types."""
    return json.loads(json.dumps(config.to_dict()))


def read_config(workdir: Path) -> ConfigDict:
    """Returns the configuration that a workdir was made with."""
    return ConfigDict(read_json(workdir / "config.json"))


def read_json(path: Path) -> dict:
    """Returns the content of a workdir's file.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: not there; name a finished run") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: damaged: {error}") from None


def config_hash(config: Mapping) -> str:
    """Returns 12 hex digits that stand for all fields of a plain configuration."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def key_of(config: ConfigDict, use: str) -> Array:
    """Returns the random key of a use named in KEYS."""
    return jax.random.fold_in(jax.random.key(config.seed), KEYS[use])


def build_system(config: ConfigDict) -> System:
    """Returns the system; raises ValueError where a field is wrong."""
    system = build(config.system, config.model.to_dict())
    known = SYSTEMS[config.system].hyper
    for name in config.hyper:
        if name not in known:
            raise ValueError(f"hyper.{name}: no such field{nearest(name, known)}")
    if config.data.textures and "textures" not in config.model:
        raise ValueError(
            f"data.textures: {config.system} has no use for textures; expected '', "
            f"found {config.data.textures!r}"
        )
    return system


def data_folder(config: ConfigDict, whole: bool = False) -> tuple[Path, str]:
    """Returns (root, category); makes the sample set where `data.root` is empty.

    Of several processes the first makes it and the others wait.

    Raises:
        ValueError: a root is given without a category, or the category is unknown.
    """
    data = config.data
    if data.root:
        if not data.category:
            raise ValueError("data.category: name one of the folders of data.root")
        return Path(data.root).expanduser(), data.category
    if data.name != layout.MVTEC_3D:
        raise ValueError(
            f"data.name={data.name} needs data.root: the sample set that is made where "
            f"it is empty has the layout {layout.MVTEC_3D}"
        )
    category = data.category or synthetic.CATEGORIES[0]
    counts, size = data.sample_set.to_dict(), data.image_size
    return sources.sample_set(data.cache, category, size, counts, whole), category


def extras_of(system: System) -> list[str]:
    """Returns the names of the extras that a system needs."""
    needs = (*system.needs_fit, *system.needs_score)
    names = {n.removeprefix("extras.") for n in needs if n.startswith("extras.")}
    return sorted(names)


def open_class(config: ConfigDict, system: System) -> sources.Data:
    """Returns the class that the configuration names, preprocessed if need be.

    The recipe makes the extras that the system needs.

    Raises:
        ValueError: see `data_folder` and `sources.open_data`.
    """
    data = config.data
    whole = any(phase.source == "train_all" for phase in system.phases)
    root, category = data_folder(config, whole)
    return sources.open_data(
        root,
        category,
        data.recipe,
        name=data.name,
        image_size=data.image_size,
        mask_size=data.mask_size or data.image_size,
        parameters=data.recipe_parameters.to_dict(),
        extras=extras_of(system),
        cache=Path(data.cache).expanduser(),
        reader=data.reader,
        on_missing=data.on_missing,
    )


def samples_of(manifest: Mapping, split: str) -> list[Sample]:
    """Returns the samples of a split in the manifest's order."""
    return [
        Sample(manifest["category"], s["defect"], s["stem"], s["id"], s["label"])
        for s in manifest["samples"]
        if s["split"] == split
    ]


def initial_state(config: ConfigDict, system: System, batch: Batch) -> State:
    """Returns the untrained state with its numbers, textures and weights in place."""
    state = system.init(key_of(config, "init"), batch)
    hyper = {name: jnp.float32(value) for name, value in config.hyper.items()}
    state = state._replace(hyper={**state.hyper, **hyper})
    if config.data.textures:
        bank = state.frozen["textures"]
        textures = load_textures(
            config.data.textures, size=bank.shape[1], limit=None, seed=config.seed
        )
        state = state._replace(frozen={**state.frozen, "textures": textures})
    if "backbone" in config and config.backbone.weights:
        row = pretrained_backbone(config.backbone.name)
        state = row.put(state, row.read(config.backbone.weights, row.get(state)))
    return state


def trained_state(
    config: ConfigDict, system: System, batch: Batch, workdir: Path
) -> State:
    """Returns the state that a finished fit saved; `batch` gives shapes alone.

    Files of weights or textures are not read: their content was saved.

    Raises:
        ValueError: the workdir holds none, or that of another configuration.
    """
    path = workdir / "checkpoints" / FINAL
    processes.wait_for(path)
    if not path.exists():
        raise ValueError(f"{path}: no trained state; run with --mode=fit first")
    like = jax.eval_shape(system.init, key_of(config, "init"), batch)
    hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in config.hyper}
    like = like._replace(hyper={**like.hyper, **hyper})
    return unpack_state(like, load_tree(path))


def commit() -> str | None:
    """Returns the commit of the checkout that runs, marked where it was changed."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ("git", *arguments), cwd=here, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    try:
        changed = "-changed" if git("status", "--porcelain", "-uno") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return None


def facts(config: ConfigDict, category: str, steps: int | None) -> dict:
    """Returns what metrics.json says of a run besides its metrics.

    Args:
        config: of the run.
        category: the class.
        steps: training steps of all phases, None where nothing is trained.
    """
    device = jax.local_devices()[0]
    return {
        "system": config.system,
        "variant": config.variant,
        "recipe": config.data.recipe,
        "resolution": config.data.image_size,
        "mask_size": config.data.mask_size or config.data.image_size,
        "weights": weight_files.describe(config),
        "category": category,
        "seed": config.seed,
        "steps": steps,
        "config_hash": config_hash(plain(config)),
        "commit": commit(),
        "jax": jax.__version__,
        "device": f"{jax.device_count()} x {device.device_kind}",
    }
