"""Opens what a run reads: a class, its sources by name, and a system's own."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache as cache_calls
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ad3d_jax.devices import processes
from data_pipelines import calibration as calibrations
from data_pipelines import images, layout, resident, synthetic
from data_pipelines.arrangements import MVTEC_3D, SPLITS
from data_pipelines.errors import DatasetError
from data_pipelines.prepared import MANIFEST, Prepared, open_prepared
from data_pipelines.preprocess import prepare
from data_pipelines.reader import Arrays, Opener, Reader, Source, Subset
from data_pipelines.recipes import RECIPES
from data_pipelines.recipes.base import NOTHING

PREPARED_AS = {"stream": "tfds", "resident": "npz"}  # format that a reader reads
READERS = tuple(PREPARED_AS)
CALIBRATION = "calibration"  # the source of good samples that a fit does not see


class Images(NamedTuple):
    """Natural images for a pretraining."""

    key: jax.Array  # of procedural images
    folder: str = ""  # of images; "" = procedural ones
    count: int = 2048  # of procedural images
    size: int = 256  # pixels, both sides


class Class(NamedTuple):
    """A class of a root, and how it and its neighbours are prepared and opened."""

    root: Path
    name: str  # of the layout
    category: str
    prepared: Callable[[str], Prepared]  # of a category
    openers: Callable[[str], Mapping[str, Opener]]  # of the splits of a category
    images: Images | None


class Data(NamedTuple):
    """A class that was opened."""

    prepared: Prepared
    dataset: Reader
    opened: Class
    calibration: calibrations.Split  # samples of the source "calibration"

    def digest(self, source: str) -> dict[str, Any] | None:
        """Returns number and SHA-256 of the samples of a source, by all their files.

        What is declared of the sensor counts, too. None of a source that is no split
        of the class or of its neighbours.
        """
        names, split = [self.opened.category], source
        if source == "train_all":
            names, split = (
                layout.categories(self.opened.root, self.opened.name),
                "train",
            )
        if split not in SPLITS:
            return None
        prepared = [self.opened.prepared(name) for name in names]
        rows = [row for each in prepared for row in each.rows(split)]
        facts = [[row["defect"], row["stem"], row["sha256"]] for row in rows]
        declared = [each.manifest["sensor"] for each in prepared]
        whole = [facts, declared] if any(declared) else facts
        text = json.dumps(whole, sort_keys=True)
        return {
            "samples": len(rows),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }

    @property
    def manifest(self) -> dict[str, Any]:
        """Returns the manifest of the class, see `Prepared`."""
        return self.prepared.manifest


class Chained(Source):
    """Sources one after the other; their samples have the same fields."""

    def __init__(self, sources: Sequence[Source]):
        """Takes the sources, in order."""
        self._sources = sources
        self._ends = np.cumsum([source.size() for source in sources])

    def size(self) -> int:
        """Returns the number of samples."""
        return int(self._ends[-1])

    def facts(self, numbers: np.ndarray) -> Arrays:
        """Returns the facts of samples, see `Source.facts`."""
        return self._joined("facts", numbers)

    def read(self, numbers: np.ndarray) -> Arrays:
        """Returns the fields of samples, see `Source.read`."""
        return self._joined("read", numbers)

    def _joined(self, method: str, numbers: np.ndarray) -> Arrays:
        """Returns the rows of all sources that have any, put in the order asked for."""
        place = np.searchsorted(self._ends, numbers, side="right")
        order = np.argsort(place, kind="stable")
        parts = []
        for k in np.unique(place) if len(numbers) else [0]:
            first = self._ends[k] - self._sources[k].size()
            own = numbers[order][place[order] == k] - first
            parts.append(getattr(self._sources[k], method)(own))
        back = np.argsort(order, kind="stable")
        return {
            name: np.concatenate([part[name] for part in parts])[back]
            for name in parts[0]
        }


def split_of(opened: Class, split: str) -> Source:
    """Returns a split of the class."""
    return opened.openers(opened.category)[split]()


def train_of_all(opened: Class) -> Source:
    """Returns the training samples of all classes of the root, by name of the class.

    Each class is prepared with what its own samples taught the recipe.

    Raises:
        DatasetError: a class cannot be prepared, or has other fields than the first.
    """
    names = layout.categories(opened.root, opened.name)
    first, *others = (opened.prepared(name).manifest for name in names)
    for manifest in others:
        if manifest["fields"] != first["fields"]:
            raise DatasetError(
                f"train_all: expected one kind of samples in all classes, found "
                f"{sorted(first['fields'])} in {first['category']} and "
                f"{sorted(manifest['fields'])} in {manifest['category']}"
            )
    return Chained([opened.openers(name)["train"]() for name in names])


def natural_images(wanted: Images) -> Source:
    """Returns the images of a folder, or procedural ones where none is named."""
    if wanted.folder:
        return images.Folder(wanted.folder, wanted.size)
    return images.procedural(wanted.key, wanted.count, wanted.size)


# What a phase may read besides what its system brings; the test split is not there.
SOURCES: dict[str, Callable[[Class], Source]] = {
    "train": partial(split_of, split="train"),
    "validation": partial(split_of, split="validation"),
    CALIBRATION: partial(split_of, split=CALIBRATION),
    "train_all": train_of_all,
    "images": lambda opened: natural_images(opened.images),
}


def open_data(
    root: str | Path,
    category: str,
    recipe: str,
    *,
    name: str = MVTEC_3D,
    image_size: int | None = None,
    mask_size: int | None = None,
    parameters: Mapping[str, Any] = NOTHING,
    extras: Sequence[str] = (),
    cache: str | Path = "runs/cache",
    reader: str = "stream",
    on_missing: str = "error",
    natural: Images | None = None,
    own: Mapping[str, Opener] = NOTHING,
    learned: Mapping[str, Any] | None = None,
    points: bool = True,
    calibration: calibrations.Settings = calibrations.Settings(),  # noqa: B008
) -> Data:
    """Opens a class, which is preprocessed if need be; its sources are opened later.

    Of several processes the first preprocesses and the others wait.

    Args:
        root: folder of the classes; see `sample_set` for the generated ones.
        category: name of the class.
        recipe: a name of `recipes.RECIPES`.
        name: of the folder layout, one of `layout.LAYOUTS`.
        image_size: side of images, pixels, of recipes that make them; None = theirs.
        mask_size: side of masks; None = that of the images.
        parameters: further ones of the recipe that differ from its defaults.
        extras: names of `recipes.extras.MAKERS` that are made, too.
        cache: folder of preprocessed data.
        reader: `stream` (tf.data) or `resident` (in memory).
        on_missing: `error`, or `skip` for samples of which a file is missing.
        natural: the images of the source "images"; None = there is no such source.
        own: what opens sources that a system brings, by name.
        learned: what the recipe has learned elsewhere, see `preprocess.prepare`.
        points: whether they are wanted, see there.
        calibration: which good samples calibrate; those that are held out are in no
            source but "calibration".

    Returns:
        The class; its dataset has the sources of `SOURCES`, those of `own`, and "test".

    Raises:
        DatasetError: see `preprocess.prepare`; or there is no such reader.
    """
    if reader not in READERS:
        raise DatasetError(
            f"data.reader: expected {' or '.join(READERS)}, found {reader!r}"
        )
    if reader == "stream" and importlib.util.find_spec("tensorflow") is None:
        raise DatasetError(
            "data.reader: stream reads with TensorFlow, which is not installed; use "
            "data.reader=resident, or install TensorFlow"
        )
    sized = {"image_size": image_size, "mask_size": mask_size}
    known = RECIPES[recipe].defaults if recipe in RECIPES else sized
    sized = {n: x for n, x in sized.items() if x is not None and n in known}
    parameters = {**sized, **parameters, "extras": tuple(extras)}

    @cache_calls
    def prepared(category: str) -> Prepared:
        return _prepared_once(
            *(root, category, recipe, parameters, cache, on_missing),
            PREPARED_AS[reader],
            name=name,
            learned=learned,
            points=points,
        )

    chosen = calibrations.choose(calibration, prepared(category))

    def openers(name: str) -> Mapping[str, Opener]:
        found = _openers(prepared(name), reader)
        return _with_calibration(found, chosen) if name == category else found

    opened = Class(Path(root), name, category, prepared, openers, natural)
    splits = openers(category)  # which tells of a wrong reader at once
    sources = {name: partial(source, opened) for name, source in SOURCES.items()}
    if natural is None:
        del sources["images"]
    if chosen.source == calibrations.NONE:
        del sources[CALIBRATION]
    reader_of_all = Reader({**splits, **sources, **own})
    return Data(prepared(category), reader_of_all, opened, chosen)


def sample_set(
    cache: str | Path,
    category: str,
    size: int,
    counts: Mapping[str, int],
    whole: bool = False,
) -> Path:
    """Makes the generated sample set, if need be, and returns its root.

    Of several processes the first makes it and the others wait.

    Args:
        cache: where its folder goes.
        category: the class that is wanted.
        size: pixels, both sides.
        counts: further arguments of `synthetic.generate`.
        whole: whether all classes are made, as the source "train_all" needs them.

    Raises:
        DatasetError: there is no such class.
    """
    if category not in synthetic.CATEGORIES:
        raise DatasetError(
            f"data.category: the sample set has no {category!r}; it has "
            f"{', '.join(synthetic.CATEGORIES)}"
        )
    text = json.dumps({**counts, "size": size}, sort_keys=True)
    tag = hashlib.sha256(text.encode()).hexdigest()[:12]
    root = Path(cache).expanduser() / f"sample-set-{tag}"
    if processes.is_first():
        wanted = synthetic.CATEGORIES if whole else (category,)
        synthetic.generate(root, categories=wanted, size=size, **counts)
    processes.wait()
    return root


def _openers(prepared: Prepared, reader: str) -> Mapping[str, Opener]:
    """Returns what opens the splits of a class for one of `READERS`."""
    if reader == "resident":
        return resident.openers(prepared)
    from data_pipelines import stream  # loads TensorFlow

    return stream.openers(prepared)


def _with_calibration(
    openers: Mapping[str, Opener], chosen: calibrations.Split
) -> Mapping[str, Opener]:
    """Returns the openers of a class's splits with those that calibrate set apart."""

    def part(held: bool) -> Source:
        whole = openers["train"]()
        return Subset(whole, np.flatnonzero(chosen.reserves(whole.size()) == held))

    if chosen.source == calibrations.HELD_OUT:
        own = {"train": partial(part, False), CALIBRATION: partial(part, True)}
        return {**openers, **own}
    if chosen.source == calibrations.NONE:
        return openers
    return {**openers, CALIBRATION: openers[chosen.split]}


def _prepared_once(*arguments: Any, **named: Any) -> Prepared:
    """Returns what `preprocess.prepare` does, which the first process calls alone."""
    if not processes.is_first():
        folder = Path(processes.word_of_first(""))
        processes.wait_for(folder / MANIFEST)
        return open_prepared(folder)
    prepared = prepare(*arguments, **named)
    processes.word_of_first(str(prepared.folder))
    processes.wait_for(prepared.folder)
    return prepared
