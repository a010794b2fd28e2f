# %% [markdown]
# # Your own data
# What a folder must look like, how its faults are found, how a detector is trained on
# it and used. Here the "own" data are written by a few lines of NumPy.

# %%
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from data_pipelines.synthetic import sample

ROOT = Path("my_scans")


def write(split: str, defect: str, number: int, seed: int) -> None:
    """Writes one scan: a PNG, a float32 TIFF of points in metres, and a mask."""
    scan = sample("bun", defect, seed=seed, size=96)
    place = ROOT / "bread" / split / defect
    for name in ("rgb", "xyz", "gt"):
        (place / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(scan.rgb).save(place / "rgb" / f"{number:03}.png")
    tifffile.imwrite(place / "xyz" / f"{number:03}.tiff", scan.xyz)
    mask = np.uint8(255) * scan.mask
    Image.fromarray(mask).save(place / "gt" / f"{number:03}.png")


for number in range(24):
    write("train", "good", number, seed=number)
for number in range(6):
    write("validation", "good", number, seed=100 + number)
    write("test", "good", number, seed=200 + number)
    write("test", "hole", number, seed=300 + number)
    write("test", "dent", number, seed=400 + number)
print(*sorted(p.relative_to(ROOT) for p in ROOT.glob("*/*/*/*")), sep="\n")

# %% [markdown]
# ## Faults are found before work begins
# One scan is cut off in the middle, as after a copy that broke.

# %%
import subprocess
import sys

broken = ROOT / "bread/train/good/xyz/005.tiff"
whole = broken.read_bytes()
broken.write_bytes(whole[: len(whole) // 2])
command = [sys.executable, "-m", "data_pipelines.validate", str(ROOT)]
print(subprocess.run(command, capture_output=True, text=True).stdout)
_ = broken.write_bytes(whole)

# %% [markdown]
# ## Train, evaluate, inspect
# BTF keeps what the surface looks like around each point of the training scans (FPFH,
# a histogram of angles between normals) and asks of a new point how far the most
# similar one is. It needs no weights; systems with a backbone take a file of weights
# by `config.backbone.weights`.

# %%
from experiments import main
from experiments.configs import btf

config = btf.get_config("cpu")
config.data.root, config.data.category = str(ROOT), "bread"
config.data.cache = "runs/cache"
metrics = main.run(config, workdir="runs/bread", mode="fit_eval")

# %% [markdown]
# ## New parts, without labels
# `predict` takes RGB with xyz, RGB with 16-bit depth and intrinsics, or pictures
# alone for a system that needs no more.

# %%
from experiments import predict

inbox = Path("inbox")
for name in ("rgb", "xyz"):
    (inbox / name).mkdir(parents=True, exist_ok=True)
for kind in ("good", "hole"):
    scan = sample("bun", kind, seed=999, size=96)
    Image.fromarray(scan.rgb).save(inbox / "rgb" / f"{kind}.png")
    tifffile.imwrite(inbox / "xyz" / f"{kind}.tiff", scan.xyz)
scores = predict.run(Path("runs/bread"), inbox, Path("inspected"))
print(scores.read_text())

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(6, 3))
for axis, kind in zip(axes, ("good", "hole"), strict=True):
    axis.imshow(Image.open(f"inspected/overlays/{kind}.png"))
    axis.set_title(kind, fontsize=9)
    axis.axis("off")
