"""One run of anomalib 2.7 in a process of its own, which loads nothing of ours.

    python -m experiments.benchmarks.anomalib.theirs SETTING

SETTING is the JSON text that `__main__.compare` makes. anomalib is used as its manual
says: `Folder`, `Engine`, and models with their own coreset, thresholds and pictures.
Three things are not its defaults. The validation set, of which thresholds and
normalisation are made, is the test set: by default half of the test set is taken away
for it, and with `val_split_mode="none"` a fit ends in an AttributeError. Images are
loaded in this process, so that its memory is all. AUPRO is among its metrics. Maps and
scores are taken where the network returns them: afterwards they are normalised, and
clipped to [0, 1].
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, Evaluator
from anomalib.models import Padim, Patchcore
from lightning import seed_everything
from safetensors.torch import load_file

from experiments.benchmarks.anomalib.timed import timed

# A batch norm of the identity, with timm's epsilon.
IDENTITY = {"weight": 1, "running_mean": 0, "running_var": 1 - 1e-5}


def run(setting: dict) -> None:
    """Fits and tests a model; writes `theirs.json` and `theirs.npz` to `output`."""
    seed_everything(setting["seed"])
    model = make_model(setting)
    data = make_data(Path(setting["data"]))
    engine = Engine(default_root_dir=setting["output"], accelerator="cpu")
    _, fit = timed(lambda: engine.fit(model, datamodule=data))
    scores = RawScores(model.model)
    (own,), evaluate = timed(lambda: engine.test(model, datamodule=data))
    output = Path(setting["output"])
    paths = data.test_data.samples.image_path.tolist()
    np.savez(output / "theirs.npz", paths=paths, **scores.arrays())
    found = {
        "fit": fit,
        "evaluate": evaluate,
        "seconds_score": scores.seconds,
        "own_metrics": {name: float(value) for name, value in own.items()},
    }
    (output / "theirs.json").write_text(json.dumps(found), encoding="utf-8")


def make_model(setting: dict) -> Patchcore | Padim:
    """Returns the model with the weights of the file; nothing is downloaded.

    PaDiM draws its channels by torch's generator unless the setting has `channels`.
    """
    maker = {"patchcore": Patchcore, "padim": Padim}[setting["model"]]
    side = (setting["image_size"],) * 2
    truths = {
        "image_": ("pred_score", "gt_label"),
        "pixel_": ("anomaly_map", "gt_mask"),
    }
    own = [AUROC(fields=fields, prefix=prefix) for prefix, fields in truths.items()]
    own.append(AUPRO(fields=truths["pixel_"], prefix="pixel_"))
    model = maker(
        backbone="resnet18",
        pre_trained=False,
        pre_processor=maker.configure_pre_processor(image_size=side),
        evaluator=Evaluator(test_metrics=own),
    )
    load_weights(model.model.feature_extractor.feature_extractor, setting["weights"])
    if setting["channels"] is not None:
        model.model.idx = torch.tensor(setting["channels"])
    return model


def load_weights(network: torch.nn.Module, file: str) -> None:
    """Loads public weights, or those with batch norms folded into the convolutions.

    Of the latter each batch norm becomes a shift by the convolution's bias.
    """
    given, state = load_file(file), {}
    for name, value in network.state_dict().items():
        layer, _, part = name.rpartition(".")
        convolution = layer.replace("bn", "conv").replace("sample.1", "sample.0")
        if name in given:
            state[name] = given[name]
        elif part == "bias":
            state[name] = given[f"{convolution}.bias"]
        else:
            state[name] = torch.full_like(value, IDENTITY.get(part, 0))
    network.load_state_dict(state)


def make_data(category: Path) -> Folder:
    """Returns the images and masks of a class in the layout of MVTec 3D-AD."""
    good, *defects = sorted(
        (category / "test").iterdir(), key=lambda place: (place.name != "good", place)
    )
    return Folder(
        name=category.name,
        normal_dir=category / "train" / "good" / "rgb",
        normal_test_dir=good / "rgb",
        abnormal_dir=[place / "rgb" for place in defects],
        mask_dir=[place / "gt" for place in defects],
        val_split_mode="same_as_test",
        num_workers=0,
    )


class RawScores:
    """Keeps what a network returns from now on, and the time that it takes."""

    def __init__(self, network: torch.nn.Module):
        self.seconds = 0.0
        self._maps: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns `map` [N,H,W] and `score` [N], float32, in the order of the data."""
        found = {"map": self._maps, "score": self._scores}
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _begin(self, network, inputs) -> None:
        self._start = time.perf_counter()

    def _end(self, network, inputs, output) -> None:
        self.seconds += time.perf_counter() - self._start
        self._maps.append(output.anomaly_map[:, 0].numpy().copy())
        self._scores.append(output.pred_score.reshape(-1).numpy().copy())


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
