# %% [markdown]
# # Quickstart
# A detector that has seen good parts alone learns to find defects in pairs of a
# picture and a scan. The data are made on the spot; nothing is downloaded.

# %%
import matplotlib.pyplot as plt
import numpy as np

from data_pipelines.synthetic import sample

good, bad = (sample("bun", kind, seed=3, size=128) for kind in ("good", "hole"))
figure, axes = plt.subplots(1, 5, figsize=(13, 2.8))
height = [
    np.where(s.xyz[..., 2] > 0, 600 - 1000 * s.xyz[..., 2], np.nan) for s in (good, bad)
]
shown = [good.rgb, height[0], bad.rgb, height[1], bad.mask]
titles = ["good", "height over the table, mm", "hole", "height, mm", "truth"]
for axis, picture, title in zip(axes, shown, titles, strict=True):
    axis.imshow(picture, cmap="gray" if title == "truth" else "viridis")
    axis.set_title(title, fontsize=9)
    axis.axis("off")

# %% [markdown]
# ## Train and evaluate
# The first run of any system: a configuration, a folder for all that the run says.
# PaDiM fits a distribution to each place of the training pictures, in seconds;
# replace `padim` by `dbrn`, `easynet`, `dsr3d` or `das3d` (minutes) to train a
# network that restores and judges colour and shape. Each `get_config` takes the name
# of a variant; `cpu` is light.

# %%
from experiments import main
from experiments.configs import padim

config = padim.get_config("cpu")
config.data.category = "bun"
config.data.cache = "runs/cache"
metrics = main.run(config, workdir="runs/quickstart", mode="fit_eval")

# %% [markdown]
# The backbone is random here, as no file of weights was named (the report says so,
# too); `config.backbone.weights` takes one. What is undefined is `None` with a
# reason.

# %%
for name in (
    "i_auroc",
    "p_auroc",
    "aupro_30",
    "i_ap",
    "seconds_fit",
    "images_per_second",
):
    print(f"{name:18} {metrics[name]:.3f}")

# %% [markdown]
# ## What lies in the workdir
# Every number said anywhere comes from these files; `report/index.html` shows them.

# %%
from pathlib import Path

for path in sorted(Path("runs/quickstart").iterdir()):
    print(path.name)

# %%
from ad3d_jax.report import heat_map

maps = np.load(sorted(Path("runs/quickstart/maps").glob("*hole*.npz"))[0])["map"]
plt.figure(figsize=(3, 3))
plt.imshow(heat_map(np.squeeze(maps), float(maps.min()), float(maps.max())))
plt.title("anomaly map of a hole", fontsize=9)
_ = plt.axis("off")
