"""Preprocesses a class once, off-line: `python -m data_pipelines.preprocess`.

    python -m data_pipelines.preprocess --root=DATA --category=bagel --recipe=ast
    python -m data_pipelines.preprocess --name=mvtec_ad --root=DATA --recipe=raw

What is written depends on the source files' bytes, the recipe, its parameters and the
version of the package; their hash names the folder, so that a change of any makes a
new folder and leaves the old ones alone. A folder is complete or absent: it is written
under another name and renamed at the end.
"""

import collections
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags, logging
from tqdm import tqdm

import ad3d_jax
from data_pipelines import clouds, command, layout, shards
from data_pipelines.arrangements import MVTEC_3D
from data_pipelines.errors import DatasetError
from data_pipelines.layout import Layout
from data_pipelines.measured import distance
from data_pipelines.pairing import GOOD, SampleFiles
from data_pipelines.prepared import MANIFEST, Prepared, open_prepared, write_manifest
from data_pipelines.recipes import RECIPES
from data_pipelines.remarks import NO_MASKS, refuse_useless, remarks
from data_pipelines.samples import (
    Processed,
    complete_parameters,
    file_digests,
    first_digest,
    fit_recipe,
    measured_by,
    sample_ids,
)
from data_pipelines.sensor_file import to_table
from data_pipelines.whole_folder import complete_or_absent

FORMATS = ("tfds", "npz")
ON_MISSING = ("error", "skip")
SHOWN_FAULTS = 10
RULES = 3  # of reading and preparing; a change makes all prepared data anew


def prepare(
    root: str | Path,
    category: str,
    recipe: str,
    parameters: Mapping[str, Any],
    cache_dir: str | Path,
    on_missing: str = "error",
    format: str | None = None,
    name: str = MVTEC_3D,
    learned: Mapping[str, Any] | None = None,
    points: bool = True,
) -> Prepared:
    """Preprocesses a class, or finds that it was done before.

    Args:
        root: folder that holds the classes.
        category: name of the class.
        recipe: a name of `recipes.RECIPES`.
        parameters: those of the recipe that differ from its defaults.
        cache_dir: where the preprocessed folder goes.
        on_missing: `error`, or `skip` for samples of which a file is missing.
        format: `tfds` shards for `stream`, `npz` for machines without TensorFlow; None
            takes the first where TensorFlow Datasets is installed.
        name: of the folder layout, one of `layout.LAYOUTS`.
        learned: `params` of the manifest that a system was fitted on, in place of what
            the recipe would learn from this class.
        points: whether they are wanted. Where not, and neither the recipe nor an extra
            needs them, classes with images and points are prepared as images alone.

    Raises:
        DatasetError: the class, the recipe or a parameter is unknown, or files are
            missing.
        CorruptSampleError: a file cannot be read; nothing is written then.
        DiskFullError: no space is left in `cache_dir`.
    """
    if format is None:
        installed = importlib.util.find_spec("tensorflow_datasets") is not None
        format = "tfds" if installed else "npz"
    _check_choice("format", format, FORMATS)
    _check_choice("on_missing", on_missing, ON_MISSING)
    parameters = complete_parameters(recipe, parameters)
    found = layout.scan(root, category, name)
    _refuse_faults(found, on_missing)
    _refuse_unsuited(recipe, parameters, found)
    progress = tqdm(
        found.samples, desc=f"{category}: checking", leave=False, disable=None
    )
    digests = file_digests(progress)
    if not (points or RECIPES[recipe].needs_xyz or _asked(recipe, parameters)):
        found = _without_points(found)
    inputs = {
        "points": points,
        "package": ad3d_jax.__version__,
        "rules": RULES,
        "format": format,
        "name": name,
        "category": category,
        "category_index": layout.categories(root, name).index(category),
        "sensor": None if found.sensor is None else to_table(found.sensor),
        "recipe": recipe,
        "parameters": parameters,
    }
    folder = _named(Path(cache_dir), inputs, digests)
    if learned is not None and not _learned(folder, learned):
        inputs["learned"] = dict(learned)
        folder = _named(Path(cache_dir), inputs, digests)
    if not (folder / MANIFEST).is_file():
        with complete_or_absent(folder) as unfinished:
            _write(unfinished, found, inputs, digests)
    prepared = open_prepared(folder)
    for remark in prepared.manifest["remarks"]:
        logging.warning("%s", remark)
    return prepared


def _named(
    cache: Path, inputs: dict[str, Any], digests: Mapping[str, Mapping[str, str]]
) -> Path:
    """Returns the folder of what is made of the inputs, and notes their hash there."""
    plain = {name: value for name, value in inputs.items() if name != "hash"}
    whole = json.dumps([plain, digests], sort_keys=True).encode()
    inputs["hash"] = hashlib.sha256(whole).hexdigest()
    return cache / f"{safe_name(inputs['category'])}-{inputs['hash'][:12]}"


def _learned(folder: Path, params: Mapping[str, Any]) -> bool:
    """Returns whether a folder is there, with this as what its recipe learned."""
    there = (folder / MANIFEST).is_file()
    return there and open_prepared(folder).manifest["params"] == params


def _refuse_unsuited(recipe: str, parameters: Mapping[str, Any], found: Layout) -> None:
    """Raises DatasetError where a recipe cannot work on what a class holds."""
    first, folder = found.samples[0], found.root / found.category
    xyz = first.xyz
    asked = _asked(recipe, parameters)
    if xyz is None and (RECIPES[recipe].needs_xyz or asked):
        needs = " and ".join([recipe, *sorted(asked)])
        raise DatasetError(
            f"data.recipe: {needs} needs points, and {folder} holds images alone; raw "
            "does without"
        )
    if _is_list(first) and not RECIPES[recipe].takes_lists:
        raise DatasetError(
            f"data.recipe: {recipe} expects points in rows and columns, as a camera "
            f"sees them, and {xyz} is a list of points; the recipe points takes lists, "
            "and with images beside, or size in sensor.json, it lies in rows and "
            "columns"
        )


def _is_list(files: SampleFiles) -> bool:
    """Returns whether the points of a sample lie in no rows and columns."""
    in_rows = files.rgb is not None or files.sensor.size is not None
    xyz = files.xyz
    return xyz is not None and xyz.suffix.lower() in clouds.SUFFIXES and not in_rows


def _asked(recipe: str, parameters: Mapping[str, Any]) -> set[str]:
    """Returns the extras that are made besides what the recipe always makes."""
    return set(parameters["extras"]) - set(RECIPES[recipe].defaults["extras"])


def _without_points(found: Layout) -> Layout:
    """Returns a class whose samples have images alone, where they have images."""
    samples = [s if s.rgb is None else s._replace(xyz=None) for s in found.samples]
    return found._replace(samples=tuple(samples))


def _check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DatasetError(f"{field}: expected one of {allowed}, found {value!r}")


def safe_name(category: str) -> str:
    """Returns the name with all but letters, digits, `_` and `-` replaced."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", category)


def _refuse_faults(found: Layout, on_missing: str) -> None:
    faults = [fault for fault in found.faults if not fault.warning]
    fatal = [f for f in faults if f.kind in ("missing_split", "empty_class")]
    others = [f for f in faults if f not in fatal]
    shown = fatal + others if fatal or on_missing != "skip" else []
    if shown:
        lines = [f"  {fault}" for fault in shown[:SHOWN_FAULTS]]
        if len(shown) > SHOWN_FAULTS:
            lines.append(f"  and {len(shown) - SHOWN_FAULTS} more")
        advice = "" if fatal else "\non_missing=skip leaves such samples out"
        raise DatasetError(
            f"{found.root / found.category}: {len(shown)} faults\n"
            + "\n".join(lines)
            + advice
        )
    for fault in found.faults:
        if fault.message != NO_MASKS:  # which the remarks say
            logging.warning("%s", fault)


def _write(
    folder: Path,
    found: Layout,
    inputs: dict[str, Any],
    digests: dict[str, dict[str, str]],
) -> None:
    recipe = RECIPES[inputs["recipe"]]
    training = tqdm(
        found.split("train"),
        desc=f"{found.category}: fitting",
        leave=False,
        disable=None,
    )
    params = inputs.get("learned")
    if params is None:
        params = fit_recipe(recipe, inputs["parameters"], training)
    ids = sample_ids(digests)
    samples: list[dict[str, Any]] = []
    sizes: collections.Counter[str] = collections.Counter()
    with tqdm(
        total=len(found.samples),
        desc=f"{found.category}: writing",
        leave=False,
        disable=None,
    ) as bar:

        def note(processed: Processed) -> None:
            key = processed.files.key
            samples.append(_entry(processed, ids[key], digests[key]))
            sizes["{}x{}".format(*processed.size)] += 1
            bar.update()

        tfds = partial(shards.write_tfds, ids=ids)
        write = tfds if inputs["format"] == "tfds" else shards.write_npz
        names = write(folder, found.samples, inputs["recipe"], params, note)
    refuse_useless(inputs["category"], samples)
    measured = measured_by(found.samples[0])
    samples.sort(key=lambda row: (row["split"], row["defect"], row["stem"]))
    manifest = {
        **inputs,
        "params": params,
        "fields": recipe.fields(params, measured),
        "extras": sorted(params["extras"]) if "xyz" in measured else [],
        "counts": _counts(samples),
        "flags": dict(collections.Counter(f for row in samples for f in row["flags"])),
        "regions": sum(row["regions"] for row in samples),
        "regions_lost": sum(row["regions_lost"] for row in samples),
        "faults": [fault._asdict() for fault in found.faults],
        "duplicates": _duplicates(samples),
        "image_sizes": dict(sorted(sizes.items())),
        "shards": names,
        "samples": samples,
    }
    manifest["remarks"] = remarks(manifest)
    (folder / "params.json").write_text(json.dumps(params, indent=1) + "\n")
    write_manifest(folder, manifest)


def _entry(
    processed: Processed, number: int, digests: dict[str, str]
) -> dict[str, Any]:
    files = processed.files
    return {
        "split": files.split,
        "defect": files.defect,
        "stem": files.stem,
        "id": number,
        "label": int(files.defect != GOOD),
        "nonfinite": processed.nonfinite,
        "distance": distance(processed.applied.record.get("xyz")),
        "regions": processed.regions.count,
        "regions_lost": processed.regions.lost,
        "flags": list(processed.flags),
        "sha256": digests,
    }


def _counts(samples: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in samples:
        of_split = counts.setdefault(row["split"], {})
        of_split[row["defect"]] = of_split.get(row["defect"], 0) + 1
    return counts


def _duplicates(samples: list[dict[str, Any]]) -> list[list[str]]:
    """Returns the groups of samples whose first files have the same bytes."""
    groups: dict[str, list[str]] = {}
    for row in samples:
        key = f"{row['split']}/{row['defect']}/{row['stem']}"
        groups.setdefault(first_digest(row["sha256"]), []).append(key)
    return [group for group in groups.values() if len(group) > 1]


def main(words: list[str]) -> None:
    """Preprocesses the classes that the flags name."""
    if words:
        raise flags.Error(f"no flag: {words[0]!r}; --help lists the flags")
    values = flags.FLAGS
    parameters = read_table(values.parameters)
    if not values.category:
        for fault in layout.strangers(values.root, values.name):
            logging.warning("%s", fault)
    for category in values.category or layout.categories(values.root, values.name):
        prepared = prepare(
            values.root,
            category,
            values.recipe,
            parameters,
            values.cache,
            values.on_missing,
            values.format,
            values.name,
        )
        logging.info("%s: %s", prepared.folder, prepared.manifest["counts"])


def read_table(text: str) -> dict[str, Any]:
    """Returns the parameters of a recipe; raises flags.Error for what is no table."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise flags.Error(f"--parameters: expected a JSON table, found {text!r}")
    return table


def define_flags() -> None:
    """Declares the command line."""
    flags.DEFINE_enum("name", MVTEC_3D, layout.LAYOUTS, "Layout of the root.")
    flags.DEFINE_string("root", None, "Folder that holds the classes.", required=True)
    flags.DEFINE_list("category", [], "Classes; all of them where none is named.")
    flags.DEFINE_enum("recipe", "ast", sorted(RECIPES), "Preprocessing recipe.")
    flags.DEFINE_string("parameters", "{}", "Parameters of the recipe, a JSON table.")
    flags.DEFINE_string("cache", "runs/cache", "Where preprocessed folders go.")
    flags.DEFINE_enum("on_missing", "error", ON_MISSING, "Incomplete samples.")
    flags.DEFINE_enum("format", None, FORMATS, "Default: tfds where it is installed.")


if __name__ == "__main__":
    define_flags()
    command.run(main)
