"""Makes an ensemble of fitted detectors, calibrated on good samples that none saw."""

import os
from collections.abc import Mapping, Sequence
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.experiment import calibrate
from ad3d_jax.experiment import detector as detectors
from ad3d_jax.experiment.config import config_hash, plain
from ad3d_jax.experiment.data import category_of
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.ensemble import files
from ad3d_jax.experiment.ensemble.detector import Ensemble
from ad3d_jax.experiment.ensemble.evaluation import LATER, opened, with_fields
from ad3d_jax.experiment.ensemble.members import Member, Size, at_size
from ad3d_jax.metrics.surprise import FEWEST, Tail, combined, least, out_of, surprise
from ad3d_jax.workdir import names
from ad3d_jax.workdir.folder import open_workdir
from ad3d_jax.workdir.places import local
from data_pipelines.recipes.base import sizes
from data_pipelines.resize import resized_size
from data_pipelines.sources import CALIBRATION, Data

PIXELS = 256  # values of each good map, evenly among its sorted ones
ALIKE = 0.01  # of shares of a picture that two members see
Source = str | os.PathLike | Detector


class Said(NamedTuple):
    """What a member says of the good samples that calibrate."""

    image: np.ndarray  # [n] float32
    maps: np.ndarray  # [n,H,W] float32, at the ensemble's size


def ensemble(
    members: Sequence[Source],
    workdir: str | os.PathLike,
    set: Mapping[str, Any] | None = None,
) -> Ensemble:
    """Combines fitted detectors of one class into one, which lies in a workdir.

    The good samples that calibrate the members are scored by each, which needs the
    class's data; the workdir then holds all. One that is there already is opened.

    Args:
        members: workdirs of finished runs, or detectors; two or more.
        workdir: folder of the ensemble.
        set: fields of `data` and `eval` that differ from the members', by dotted names,
            such as {"data.root": FOLDER, "eval.alpha": 0.01}.

    Raises:
        ValueError: members differ in class or in the samples that calibrate them, have
            none, too few, or folds, or see other parts of pictures; or the data are
            not what they were fitted on. Named before any work.
        DiskFullError: no space is left.
    """
    found = [_opened(member) for member in members]
    called = _called(found)
    _check(called, found)
    configs = [with_fields(own, set or {}) for own in found]
    config = _config(called, found, configs[0])
    folder = local(workdir, "workdir")
    with open_workdir(folder, plain(config), LATER) as folder:
        if files.is_ensemble(folder):
            _, *rest = files.read(folder)
            return Ensemble(config, *rest)
        data = opened(called, found, configs)
        size = sizes(found[0].recipe["params"])[0]
        said = [
            _scored(*each, config.eval.batch_size, size)
            for each in zip(found, data, strict=True)
        ]
        made = _made(config, called, found, data[0], said, size)
        made.write(folder)
    return made


def _made(
    config: ConfigDict,
    called: Sequence[str],
    found: Sequence[Detector],
    data: Data,
    said: Sequence[Said],
    size: Size,
) -> Ensemble:
    """Returns the ensemble by what its members say of good samples."""
    image = [each.image[:, None] for each in said]
    pixels = [_some(each.maps) for each in said]
    tails = zip(map(least, image), map(least, pixels), strict=True)
    members = [
        Member(name, own, *pair)
        for name, own, pair in zip(called, found, tails, strict=True)
    ]
    samples = len(said[0].image)
    scores = np.zeros(samples, np.float32)
    maps = np.zeros((samples, *size), np.float32)
    for i in range(samples):  # each as if it were new: by the others alone
        scores[i] = _others(image, i, [each.image[i] for each in said])
        maps[i] = _others(pixels, i, [each.maps[i] for each in said])
    drawn = maps.ravel()[:: calibrate.STRIDE]
    good = calibrate.Good(np.arange(samples), scores, maps.max(axis=(1, 2)), drawn)
    kept = calibrate.calibration_of(data, [good])
    return Ensemble(config, members, size, kept)


def _others(
    values: Sequence[np.ndarray], number: int, own: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns the combined surprise at what members say of a sample, by the others."""
    tails: list[Tail] = [out_of(each, number) for each in values]
    pairs = zip(tails, own, strict=True)
    return combined(np.stack([surprise(tail, x) for tail, x in pairs]))


def _some(maps: np.ndarray) -> np.ndarray:
    """Returns [n,P] of the sorted values of each map, the largest first among them."""
    falling = np.sort(maps.reshape(len(maps), -1), axis=1)[:, ::-1]
    return falling[:, :: -(-falling.shape[1] // PIXELS)]


def _scored(own: Detector, data: Data, batch_size: int, size: Size) -> Said:
    """Scores the good samples that calibrate."""
    image, maps = [], []
    for batch in data.dataset.ordered(CALIBRATION, batch_size, 0):
        real = np.asarray(batch.weight) > 0
        scores = own.score_batch(batch._replace(mask=None, label=None))
        image.append(np.asarray(scores.image)[real])
        maps.append(at_size(np.asarray(scores.map)[real][..., 0], size))
    return Said(np.concatenate(image), np.concatenate(maps))


def _opened(member: Source) -> Detector:
    if isinstance(member, Detector):
        return member
    folder = local(member, "members")
    if files.is_ensemble(folder):
        raise ValueError(f"members: {folder} is an ensemble; name its members")
    return detectors.load(folder)


def _called(found: Sequence[Detector]) -> list[str]:
    """Returns a name for each detector, its configuration's and a number if need be."""
    called: list[str] = []
    for own in found:
        name = names.configuration_name(f"{own.config.system}:{own.config.variant}")
        numbered = (f"{name}-{number}" for number in count(2))
        called.append(next(n for n in chain([name], numbered) if n not in called))
    return called


def _config(
    called: Sequence[str], found: Sequence[Detector], first: ConfigDict
) -> ConfigDict:
    """Returns the configuration of an ensemble: data and evaluation of the first."""
    pairs = zip(called, found, strict=True)
    return ConfigDict(
        {
            "system": "ensemble",
            "variant": "+".join(called),
            "seed": first.seed,
            "data": {**first.data.to_dict(), "category": category_of(first)},
            "eval": first.eval.to_dict(),
            "members": [f"{n} {config_hash(own.origin.config)}" for n, own in pairs],
        }
    )


def _check(called: Sequence[str], found: Sequence[Detector]) -> None:
    """Raises ValueError where detectors cannot be members of one ensemble."""
    if len(found) < 2:
        raise ValueError(f"members: expected two or more, found {len(found)}")
    for name, own in zip(called, found, strict=True):
        _check_one(name, own)
    first = found[0]
    for name, own in zip(called[1:], found[1:], strict=True):
        for what, mine, other in (
            ("class", category_of(own.config), category_of(first.config)),
            ("calibration.source", own.calibration.source, first.calibration.source),
            ("sizes of samples", own.sizes, first.sizes),
        ):
            if mine != other:
                raise ValueError(
                    f"member {name}: {what}: expected {other} as {called[0]} has, "
                    f"found {mine}"
                )
        mine, other = (frozenset(each.calibration.names) for each in (own, first))
        if mine != other:
            raise ValueError(
                f"member {name}: expected the samples that calibrate {called[0]}, "
                f"found others, such as {min(mine ^ other)}; fit both with the same "
                "calibration.source, share and seed"
            )
        if not np.allclose(_seen(own), _seen(first), atol=ALIKE):
            raise ValueError(
                f"member {name}: expected the part of pictures that {called[0]} sees, "
                "found another crop; give both the same resize_size / image_size"
            )


def _check_one(name: str, own: Detector) -> None:
    kept = own.calibration
    if kept is None:
        raise ValueError(f"member {name}: expected a calibrated detector, found none")
    if kept.folds > 1:
        raise ValueError(
            f"member {name}: calibration.source=folds: {kept.folds} models decide "
            "together, which cannot be combined; use validation or held_out"
        )
    if len(kept.names) < FEWEST:
        raise ValueError(
            f"member {name}: expected {FEWEST} or more good samples that calibrate, "
            f"found {len(kept.names)}"
        )
    if "image_size" not in own.recipe["params"]:
        raise ValueError(
            f"member {name}: expected maps of pictures, found recipe "
            f"{own.recipe['recipe']}, which makes lists of points"
        )


def _seen(own: Detector) -> list[list[float]]:
    """Returns what share of rows and columns is seen of pictures of each size."""
    params = own.recipe["params"]
    image, _ = sizes(params)
    whole = [resized_size(tuple(n), image, params["resize_size"]) for n in own.sizes]
    return [[a / b for a, b in zip(image, size, strict=True)] for size in whole]
