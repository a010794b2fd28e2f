"""Scores samples with an exported detector; needs jax and NumPy alone.

    python score.py SAMPLE [SAMPLE …] [--maps=FOLDER]

A SAMPLE is an .npz file, or a folder of .npy files, of the arrays that manifest.json
has under "inputs". Each gets a line of JSON: name, score, p_value, verdict and boxes
(top, left, bottom, right in pixels of the map, the ends exclusive, and the largest
value inside), or name and error. The status is 1 where there was an error.

    from score import Scorer
    Scorer(folder).score(rgb=rgb, xyz=xyz)
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

MANIFEST, PROGRAM, STATE = "manifest.json", "score.stablehlo", "state.safetensors"
MODULES = ("recipe.py", "resizing.py")  # that prepare what was measured
FORMAT = 1  # of the folder
BROKEN = (OSError, ValueError, TypeError, EOFError, BadZipFile)  # of a sample


class Result(NamedTuple):
    """What is said of a sample; what is undefined is None."""

    score: float
    p_value: float | None  # share of good samples that look as bad
    verdict: str | None  # good | defective
    boxes: tuple | None  # of (top, left, bottom, right, peak), pixels of the map
    map: np.ndarray  # [H,W] float32
    parts: dict  # further arrays by name

    def line(self):
        """Returns what the command prints, as a table for JSON."""
        return dict(zip(self._fields[:4], self[:4], strict=True))


class Scorer:
    """An exported detector, its files checked; the first score compiles it."""

    def __init__(self, folder=None):
        """Opens a folder, by default that of this file.

        Raises:
            ValueError: a file is missing, damaged, or of another version.
        """
        self.folder = Path(__file__).parent if folder is None else Path(folder)
        self.manifest = read_manifest(self.folder)
        arrays = read_arrays(self.folder / STATE)
        self._run = jax.jit(program_of(self.folder, self.manifest, arrays))
        self._state = jax.device_put(arrays)
        measured = self.manifest["takes"] == "measured"
        self._modules = [load(self.folder / n) for n in MODULES if measured]

    def score(self, id=None, **arrays):
        """Returns the Result of one sample.

        Args:
            id: 0 to 2**31 - 1, seeds what is drawn; None = from the arrays' bytes.
            arrays: as the manifest has them under "inputs". Of a detector that takes
                what was measured, `depth` [h,w] metres with `intrinsics` [fx,fy,cx,cy]
                pixels may stand in place of xyz.

        Raises:
            ValueError: an array is missing, unknown or not as it should be.
        """
        arrays = {name: np.asarray(x) for name, x in arrays.items()}
        if self._modules:
            recipe, resizing = self._modules
            arrays = recipe.measurement(self.manifest, arrays)
        check(self.manifest["inputs"], arrays)
        id = identity(arrays) if id is None else int(id)
        if not 0 <= id < 2**31:
            raise ValueError(f"id: expected 0 to 2**31 - 1, found {id}")
        if self._modules:
            arrays = recipe.prepared(self.manifest["recipe"], resizing, **arrays)
        return self._decided(jax.device_get(self._run(self._arguments(id, arrays))))

    def _arguments(self, id, fields):
        """Returns what the program takes: the state and a batch of one sample."""
        fields = {**fields, "weight": np.float32(1), "category": np.int32(0)}
        fields["id"] = np.int32(id)
        batch = {
            f"batch/{name}": fields[name.removeprefix("extras/")][None]
            for name in self.manifest["program"]["fields"]
        }
        return {**self._state, **batch}

    def _decided(self, found):
        """Returns the Result of what the program gave."""
        score, pixels = found.pop("image")[0], found.pop("map")[0, ..., 0]
        decision = self.manifest["decision"]
        p_value = verdict = boxes = None
        if decision["good"] is not None:
            good = np.array(decision["good"], np.float32)
            p_value = float((1 + np.sum(good >= score)) / (len(good) + 1))
        if decision["threshold"] is not None:
            verdict = "defective" if score > decision["threshold"] else "good"
        if decision["pixel_threshold"] is not None:
            boxes = boxes_of(pixels, pixels > decision["pixel_threshold"])
        parts = {name: x[0] for name, x in found.items()}
        return Result(float(score), p_value, verdict, boxes, pixels, parts)


def read_manifest(folder):
    """Returns the manifest of an export, after a check of each of its files.

    Raises:
        ValueError: a file is missing or not as it was written; it is named.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        digest, files = manifest.pop("digest"), manifest["files"]
        if manifest["format"] != FORMAT or digest != digest_of(manifest):
            raise ValueError(f"another digest, or no export of format {FORMAT}")
        for name, told in files.items():
            path = folder / name
            if sha256(path) != told["sha256"]:
                raise ValueError("another SHA-256 than when it was written")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: missing or damaged: {error}") from None
    return manifest


def sha256(path):
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(manifest):
    """Returns the SHA-256 of a manifest without its digest."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_arrays(path):
    """Returns the arrays of a safetensors file by name; their pages are read later."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(length))
    kinds = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2"}
    kinds |= {"U32": "<u4", "I32": "<i4", "F16": "<f2", "F32": "<f4"}
    data, found = np.memmap(path, np.uint8, "r", 8 + length), {}
    for name, told in table.items():
        if name != "__metadata__":
            first, last = told["data_offsets"]
            kind = jnp.bfloat16 if told["dtype"] == "BF16" else kinds[told["dtype"]]
            found[name] = data[first:last].view(kind).reshape(told["shape"])
    return found


def program_of(folder, manifest, state):
    """Returns the score as a function of a dict of arrays.

    The file is StableHLO, without jax's container around it: that is read by
    flatbuffers, which jax does not bring. Its signature is made anew.

    Raises:
        ValueError: it was written by a version of jax that this one does not read.
    """
    told = manifest["program"]
    version = told["calling_convention_version"]
    least = export.minimum_supported_calling_convention_version
    most = export.maximum_supported_calling_convention_version
    if not least <= version <= most:
        raise ValueError(
            f"{PROGRAM}: has calling convention {version} of jax "
            f"{manifest['versions']['jax']}; jax {jax.__version__} reads {least} to "
            f"{most}"
        )
    fields = {f"batch/{n}": x for n, x in shapes_of(told["fields"]).items()}
    outputs = shapes_of(told["outputs"])
    signature = export.export(
        jax.jit(
            lambda arrays: {n: jnp.zeros(x.shape, x.dtype) for n, x in outputs.items()}
        ),
        platforms=told["platforms"],
    )({**state, **fields})
    return dataclasses.replace(
        signature,
        mlir_module_serialized=(folder / PROGRAM).read_bytes(),
        calling_convention_version=version,
        module_kept_var_idx=tuple(range(len(state) + len(fields))),
    ).call


def shapes_of(table):
    """Returns shapes and dtypes of arrays by name."""
    return {
        name: jax.ShapeDtypeStruct(told["shape"], told["dtype"])
        for name, told in table.items()
    }


def load(path):
    """Returns a module by its file."""
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(inputs, arrays):
    """Raises ValueError unless arrays have names, dtypes and shapes of the inputs."""
    if sorted(inputs) != sorted(arrays):
        raise ValueError(f"expected {sorted(inputs)}, found {sorted(arrays)}")
    for name, told in inputs.items():
        array, shape = arrays[name], told["shape"]
        fits = array.dtype == told["dtype"] and array.ndim == len(shape)
        pairs = zip(shape, array.shape, strict=False)
        if not fits or any(n not in (None, m) for n, m in pairs):
            raise ValueError(
                f"{name}: expected {told['dtype']} {shape} (null = any), found "
                f"{array.dtype} {list(array.shape)}"
            )


def identity(arrays):
    """Returns the id of a sample, from the bytes of its arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]))
    return int(digest.hexdigest()[:8], 16) & 0x7FFFFFFF


def boxes_of(values, above):
    """Returns (top, left, bottom, right, peak) of 8-connected regions, worst first."""
    boxes, todo = [], above.copy()
    for start in map(tuple, np.argwhere(above)):
        if not todo[start]:
            continue
        todo[start], waiting, region = False, [start], []
        while waiting:
            row, column = waiting.pop()
            region.append((row, column))
            top, left = max(row - 1, 0), max(column - 1, 0)
            window = todo[top : row + 2, left : column + 2]
            waiting += [(top + r, left + c) for r, c in np.argwhere(window)]
            window[:] = False
        rows, columns = np.array(region).T
        ends = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        boxes.append((*map(int, ends), float(values[rows, columns].max())))
    return tuple(sorted(boxes, key=lambda box: (-box[4], box)))


def read_sample(path):
    """Returns the arrays of an .npz file, or of the .npy files of a folder, by name."""
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        return {file.stem: np.load(file, allow_pickle=False) for file in files}
    if path.suffix != ".npz":
        raise ValueError(f"expected an .npz file or a folder, found {path}")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def main(words):
    """Runs the command and returns its status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("samples", nargs="+", type=Path, metavar="SAMPLE")
    parser.add_argument("--maps", type=Path, help="folder to write maps to, NAME.npy")
    given = parser.parse_args(words)
    if given.maps and len({path.name for path in given.samples}) < len(given.samples):
        parser.error("--maps: expected samples of different names")
    scorer, failed = Scorer(), False
    for path in given.samples:
        try:
            result = scorer.score(**read_sample(path))
            line = {"name": path.name, **result.line()}
            if given.maps:
                given.maps.mkdir(parents=True, exist_ok=True)
                np.save(given.maps / f"{path.name}.npy", result.map)
        except BROKEN as error:
            line, failed = {"name": path.name, "error": str(error)}, True
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
