"""Scores samples with an exported ensemble; needs jax and NumPy alone.

    python score.py SAMPLE [SAMPLE …] [--maps=FOLDER]

Samples, what is printed and the status are those of the members' own scripts, see
member.py. Each member gets those arrays of a sample that its manifest has under
"inputs"; fields that were prepared for one member alone are called NAME/FIELD.

    from score import Scorer
    Scorer(folder).score(rgb=rgb, xyz=xyz)
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

TAILS = "surprise.npz"  # how scores of each member surprise, see surprise.py
SINGLE, SURPRISE, RESIZING = "member.py", "surprise.py", "resizing.py"
MEMBERS = "members"  # their exports, a folder each


class Scorer:
    """An exported ensemble, its files checked; the first score compiles it."""

    def __init__(self, folder=None):
        """Opens a folder, by default that of this file.

        Raises:
            ValueError: a file is missing, damaged, or of another version.
        """
        self.folder = Path(__file__).parent if folder is None else Path(folder)
        modules = (SINGLE, SURPRISE, RESIZING)
        single, self._law, self._resizing = (load(self.folder / n) for n in modules)
        self._single = single
        self.manifest = single.read_manifest(self.folder)
        self.members = {
            name: single.Scorer(self.folder / MEMBERS / name)
            for name in self.manifest["members"]
        }
        with np.load(self.folder / TAILS, allow_pickle=False) as arrays:
            self._tails = [self._tails_of(arrays, i) for i in range(len(self.members))]

    def score(self, id=None, **arrays):
        """Returns the Result of one sample; arguments and errors as of a member."""
        names = {name: self._names(name) for name in self.members}
        strange = arrays.keys() - {n for own in names.values() for n in own}
        if strange:
            raise ValueError(f"expected what a member takes, found {sorted(strange)}")
        said = []
        for name, member in self.members.items():
            own = {field: arrays[n] for n, field in names[name].items() if n in arrays}
            said.append(member.score(id=id, **own))
        law, size = self._law, tuple(self.manifest["size"])
        pairs = [*zip(self._tails, said, strict=True)]
        image = np.stack([law.surprise(tail[0], x.score) for tail, x in pairs])
        maps = np.stack(
            [
                law.surprise(tail[1], self._resizing.linear(x.map, size))
                for tail, x in pairs
            ]
        )
        decision = self.manifest["decision"]
        parts = {
            f"parts/map_{name}": own[..., None].astype(np.float32)
            for name, own in zip(self.members, maps, strict=True)
        }
        score, map = law.combined(image), law.combined(maps)
        return self._single.decided(decision, score, map, parts)

    def _names(self, name):
        """Returns which of a member's arrays those of a sample are, by their names."""
        manifest = self.members[name].manifest
        inputs = [*manifest["inputs"]]
        if manifest["takes"] == "prepared":
            return {f"{name}/{field}": field for field in inputs}
        more = ["depth", "intrinsics"] if "xyz" in inputs else []
        return {field: field for field in inputs + more}

    def _tails_of(self, arrays, number):
        """Returns how image scores and values of the map of a member surprise."""
        names = self._law.Tail._fields
        return [
            self._law.Tail(*(arrays[f"{number}/{of}/{name}"] for name in names))
            for of in ("image", "pixel")
        ]


def load(path):
    """Returns a module by its file."""
    spec = importlib.util.spec_from_file_location(f"ensemble_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    try:
        single = load(Path(__file__).parent / SINGLE)
        sys.exit(single.main(sys.argv[1:], Scorer))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
