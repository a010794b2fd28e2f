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
from ad3d_jax.features.extractors import pretrained_backbone
from ad3d_jax.fit.positions import unpack_state
from ad3d_jax.synthesis.textures import load_textures
from ad3d_jax.systems import SYSTEMS, build, nearest
from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import load_tree
from ad3d_jax.workdir.json_files import read_json
from ad3d_jax.workdir.scores import Row
from data_pipelines import layout
from data_pipelines.prepared import MANIFEST, Prepared, open_prepared
from data_pipelines.preprocess import prepare
from experiments import weight_files

KEYS = {"init": 0, "fit": 1, "score": 2, "pictures": 3, "synthesis": 4}


def plain(config: ConfigDict) -> dict:
    """Returns the configuration as JSON types."""
    return json.loads(json.dumps(config.to_dict()))


def read_config(workdir: Path) -> ConfigDict:
    """Returns the configuration that a workdir was made with."""
    return ConfigDict(read_json(workdir / names.CONFIG, hint="name a finished run"))


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


def data_folder(config: ConfigDict) -> tuple[Path, str]:
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
    from data_pipelines import synthetic

    category = data.category or synthetic.CATEGORIES[0]
    if category not in synthetic.CATEGORIES:
        raise ValueError(
            f"data.category: the sample set has no {category!r}"
            f"{nearest(category, synthetic.CATEGORIES)}"
        )
    numbers = data.sample_set.to_dict()
    tag = config_hash({**numbers, "size": data.image_size})
    root = Path(data.cache).expanduser() / f"sample-set-{tag}"
    if processes.is_first():
        size = data.image_size
        synthetic.generate(root, categories=(category,), size=size, **numbers)
    processes.wait()
    return root, category


def recipe_parameters(config: ConfigDict) -> dict:
    """Returns the parameters that the recipe is applied with."""
    data = config.data
    return {
        "image_size": data.image_size,
        "mask_size": data.mask_size or data.image_size,
        **data.recipe_parameters.to_dict(),
    }


def prepare_class(config: ConfigDict) -> Prepared:
    """Returns the class that the configuration names, preprocessed if need be.

    Of several processes the first preprocesses it and the others wait.

    Raises:
        ValueError: see `data_folder` and `preprocess.prepare`.
    """
    root, category = data_folder(config)
    if not processes.is_first():
        folder = Path(processes.word_of_first(""))
        processes.wait_for(folder / MANIFEST)
        return open_prepared(folder)
    prepared = prepare(
        root,
        category,
        config.data.recipe,
        recipe_parameters(config),
        cache_dir=Path(config.data.cache).expanduser(),
        on_missing=config.data.on_missing,
        name=config.data.name,
    )
    processes.word_of_first(str(prepared.folder))
    processes.wait_for(prepared.folder)
    return prepared


def samples_of(manifest: Mapping, split: str) -> list[Row]:
    """Returns the samples of a split in the manifest's order."""
    return [
        Row(manifest["category"], s["defect"], s["stem"], s["id"], s["label"])
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
    path = workdir / names.FINAL
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
