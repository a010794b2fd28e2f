"""What a fitted state comes from: kept beside it from the beginning of its fit on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ad3d_jax.base import Phase
from ad3d_jax.experiment import ranges, recipes
from ad3d_jax.experiment.config import NEEDS, from_plain, plain
from ad3d_jax.workdir import fields, names
from ad3d_jax.workdir.checkpoint import has_tree
from ad3d_jax.workdir.folder import WorkdirError, differences, has_run
from ad3d_jax.workdir.json_files import read_json, to_json, write_json
from ad3d_jax.workdir.unreadable import reading
from data_pipelines.sensor_file import of_table
from data_pipelines.sources import Data

# Fields that a fitted state does not depend on: where the data lies, whose digest is
# compared, and how it is read, evaluated, watched and kept.
LATER = (
    *("data.name", "data.root", "data.category", "data.sample_set", "data.on_missing"),
    *("data.cache", "data.reader", "eval", "save_weights"),
    *("fit.engine", "fit.keep", "fit.checkpoint_every", "fit.log_every"),
    *("fit.patience", "fit.tensorboard"),
    *("fit.device_memory_bytes", "fit.host_memory_bytes"),
)


class Origin(NamedTuple):
    """What a state was fitted with."""

    config: Mapping[str, Any]  # plain
    recipe: Mapping[str, Any]  # name, and params with what it has learned
    data: Mapping[str, Mapping[str, Any]]  # number and digest of samples, by source
    sizes: Sequence[Sequence[int]]  # rows and columns that samples of the class have
    distances: Sequence[float]  # least and greatest of train, metres; [] = not known
    weights: Mapping[str, Any]  # what is said of the files that brought a part
    changes: Sequence[str] = ()  # "field: old -> new" that a fit under way was allowed
    sensor: Mapping[str, Any] | None = None  # as declared, see `sensor_file.to_table`

    @property
    def configuration(self) -> ConfigDict:
        """The configuration, as `ad3d_jax.Experiment` takes it."""
        return from_plain(self.config)


def origin_of(
    config: ConfigDict,
    data: Data,
    phases: Sequence[Phase],
    weights: Mapping[str, Any],
) -> Origin:
    """Returns what a state will come from that the phases fit on the data.

    `weights` is what is said of each file that brings a part, see `pretrained.Brought`.
    """
    recipe = {name: data.manifest[name] for name in ("recipe", "params")}
    sources = sorted({"train", *(phase.source for phase in phases)})
    digests = {source: data.digest(source) for source in sources}
    known = {source: digest for source, digest in digests.items() if digest}
    sizes = [list(map(int, size.split("x"))) for size in data.manifest["image_sizes"]]
    rows = data.manifest["samples"]
    found = [row["distance"] for row in rows if row["split"] == "train"]
    measured = [metres for metres in found if metres is not None]
    distances = [min(measured), max(measured)] if measured else []
    return Origin(
        *(plain(config), to_json(recipe), known, sizes, distances, to_json(weights)),
        sensor=to_json(data.manifest["sensor"]),
    )


def read(folder: Path) -> Origin | None:
    """Returns what the state in a folder comes from, None where there is no state.

    Raises:
        WorkdirError: there is a state, and nothing says what it comes from.
    """
    path = folder / names.ORIGIN
    if not path.exists():
        if has_tree(folder / names.FINAL):
            raise WorkdirError(
                f"{path}: expected what the state beside it was fitted with, found no "
                f"file; remove {folder / names.CHECKPOINTS} and fit anew"
            )
        return None
    needs = (name for name in Origin._fields if name != "sensor")  # the newest
    needs = (*needs, *(f"config.{name}" for name in NEEDS))
    found = read_json(path, needs=needs)
    with reading(path):
        if found.get("sensor") is not None:
            of_table("sensor", found["sensor"])
        ranges.check(fields.values(from_plain(found["config"])))
        recipes.check_kept(found["recipe"])
        return Origin(**found)


def begin(folder: Path, origin: Origin) -> None:
    """Writes what a fit begins with, or holds what goes on to what it began with.

    Raises:
        WorkdirError: other data or weights, another recipe or configuration; each is
            listed.
    """
    path = folder / names.ORIGIN
    path.parent.mkdir(exist_ok=True)
    before = read(folder) if has_run(folder) else None
    if before is None:
        write_json(path, origin._asdict())
        return
    fields_changed = changes_of(before, origin.config)
    finished = has_tree(folder / names.FINAL)
    refuse(
        folder,
        {
            **(fields_changed if finished else {}),
            **differences({"recipe": before.recipe}, {"recipe": origin.recipe}),
            **differences({"data": before.data}, {"data": origin.data}),
            **differences({"sensor": before.sensor}, {"sensor": origin.sensor}),
            **differences(_digests(before), _digests(origin)),
        },
    )
    if fields_changed and not finished:
        lines = (f"{name}: {change}" for name, change in fields_changed.items())
        changes = [*before.changes, *lines]
        write_json(path, origin._replace(changes=changes)._asdict())


def _digests(origin: Origin) -> dict[str, Any]:
    """Returns the digest of each file of weights; what is said where there is none."""
    return {
        f"weights.{name}": told["sha256"] if isinstance(told, Mapping) else told
        for name, told in origin.weights.items()
    }


def to_score_with(folder: Path, config: ConfigDict) -> Origin:
    """Returns what a state was fitted with, where a configuration fits it.

    Raises:
        WorkdirError: there is no state, or fields that it depends on differ.
    """
    found = read(folder)
    if found is None or not has_tree(folder / names.FINAL):
        raise WorkdirError(f"{folder / names.FINAL}: no fitted state; fit first")
    refuse(folder, changes_of(found, plain(config)))
    return found


def changes_of(origin: Origin, config: Mapping[str, Any]) -> dict[str, str]:
    """Returns "old -> new" by name of the fields that a fitted state depends on."""
    return {
        name: change
        for name, change in differences(origin.config, config).items()
        if not any(fields.within(name, later) for later in LATER)
    }


def refuse(folder: Path, changed: Mapping[str, str]) -> None:
    """Raises WorkdirError where something has changed."""
    if changed:
        lines = "".join(f"\n  {name}: {change}" for name, change in changed.items())
        raise WorkdirError(
            f"{folder}: what is there was fitted with something else:{lines}\nuse "
            f"another workdir, or remove {folder / names.CHECKPOINTS} to fit anew"
        )
