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
from data_pipelines.validate import validate

broken = ROOT / "bread/train/good/xyz/005.tiff"
whole = broken.read_bytes()
broken.write_bytes(whole[: len(whole) // 2])
for fault in validate(ROOT, "bread"):
    print(fault.message)
_ = broken.write_bytes(whole)

# %% [markdown]
# ## Fit, evaluate, inspect
# BTF keeps what the surface looks like around each point of the training scans (FPFH,
# a histogram of angles between normals) and asks of a new point how far the most
# similar one is. It needs no weights; systems with a backbone take a file of them by
# `weights={"backbone": FILE}`.

# %%
import ad3d_jax as ad

run = ad.Experiment("btf:cpu", data=ROOT, category="bread", workdir="runs/bread")
detector = run.fit()
metrics = run.evaluate()
print(f"I-AUROC {metrics['i_auroc']:.3f}, AUPRO {metrics['aupro_30']:.3f}")

# %% [markdown]
# ## New parts, without labels
# The detector takes arrays: colour with points, or colour with depth and the camera's
# intrinsics, or colour alone for a system that needs no more.

# %%
for kind in ("good", "hole"):
    scan = sample("bun", kind, seed=999, size=96)
    print(f"{kind:5} {detector.score(rgb=scan.rgb, xyz=scan.xyz).image:.4f}")

# %% [markdown]
# A folder of new scans gets heat maps, overlays and a table of scores.

# %%
inbox = Path("inbox")
for name in ("rgb", "xyz"):
    (inbox / name).mkdir(parents=True, exist_ok=True)
for kind in ("good", "hole"):
    scan = sample("bun", kind, seed=999, size=96)
    Image.fromarray(scan.rgb).save(inbox / "rgb" / f"{kind}.png")
    tifffile.imwrite(inbox / "xyz" / f"{kind}.tiff", scan.xyz)
scores = ad.inspect("runs/bread", inbox, "inspected")
print(scores.read_text())

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(6, 3))
for axis, kind in zip(axes, ("good", "hole"), strict=True):
    axis.imshow(Image.open(f"inspected/overlays/{kind}.png"))
    axis.set_title(kind, fontsize=9)
    axis.axis("off")

# %% [markdown]
# ## Scans from Google Drive, or from your computer
# On Colab, name a folder of your Drive that holds classes, such as `MyDrive/scans`, or
# ask for an upload of a zip of such a folder. Their faults are listed; with
# `ad.Experiment(…, data=scans, category=…)` the cells above run on them. What is to
# outlast the runtime goes to Drive: `detector.save("/content/drive/MyDrive/detector")`.

# %%
import shutil

from data_pipelines.layout import categories

DRIVE = ""  # such as "MyDrive/scans"
UPLOAD = False

scans = None
if DRIVE:
    from google.colab import drive

    drive.mount("/content/drive")
    scans = Path("/content/drive") / DRIVE
elif UPLOAD:
    from google.colab import files

    for name in files.upload():
        shutil.unpack_archive(name, "uploaded")
    scans = Path("uploaded")
for category in categories(scans) if scans else ():
    faults = validate(scans, category)
    print(category, *(fault.message for fault in faults) or ["is sound"], sep="\n  ")
