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
# ## Fit and evaluate
# A run is a system by its name, a class, and a folder for all that it leaves. PaDiM
# fits a distribution to each place of the training images, in seconds; replace `padim`
# by `dbrn`, `easynet`, `dsr3d` or `das3d` (minutes) to train a network that restores
# and judges colour and shape. What stands after the colon is a variant; `cpu` is light.

# %%
import ad3d_jax as ad

run = ad.Experiment("padim:cpu", category="bun", workdir="runs/quickstart")
detector = run.fit()
metrics = run.evaluate()

# %% [markdown]
# The backbone is random here, as no file of weights was named (the report says so,
# too); `weights={"backbone": "resnet18.safetensors"}` brings one. What is undefined is
# `None` with a reason.

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
# ## Score arrays
# The detector takes what a sensor measured, one sample or a batch.

# %%
for part, title in ((good, "good"), (bad, "hole")):
    print(f"{title:5} {detector.score(rgb=part.rgb, xyz=part.xyz).image:.3f}")

# %%
from ad3d_jax.report import heat_map

scores = detector.score(rgb=bad.rgb, xyz=bad.xyz)
plt.figure(figsize=(3, 3))
plt.imshow(heat_map(scores.map[..., 0], scores.map.min(), scores.map.max()))
plt.title("anomaly map of the hole", fontsize=9)
_ = plt.axis("off")

# %% [markdown]
# ## What lies in the workdir
# Every number said anywhere comes from these files; `report/index.html` shows them, and
# `ad.load("runs/quickstart")` opens the detector again.

# %%
for path in sorted(run.workdir.iterdir()):
    print(path.name)

# %% [markdown]
# ## The report
# One page with figures, curves and pictures, shown here as it stands in the file.

# %% tags=["report"]
from html import escape

from IPython.display import HTML

page = escape(run.report.read_text())
HTML(f'<div><iframe srcdoc="{page}" width="100%" height="700"></iframe></div>')
