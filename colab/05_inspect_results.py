# %% [markdown]
# # Inspect results
# A finished run, looked at from its files: figures, the worst mistakes, and the point
# cloud with its anomaly scores, to be turned by hand.

# %%
import ad3d_jax as ad

fields = {"data.sample_set.train": 40, "data.sample_set.test_per_defect": 4}
run = ad.Experiment("btf:cpu", category="bun", workdir="runs/bun", set=fields)
run.fit()
metrics = run.evaluate()

# %% [markdown]
# ## Scores by defect
# This system looks at shape alone: a stain it cannot see.

# %%
import csv
from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np

workdir = run.workdir
with (workdir / "scores.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
by_defect = defaultdict(list)
for row in rows:
    by_defect[row["defect"]].append(float(row["score"]))
figure, axis = plt.subplots(figsize=(7, 2.6))
names = sorted(by_defect, key=lambda name: (name != "good", name))
axis.boxplot([by_defect[name] for name in names], orientation="horizontal")
axis.set_yticks(range(1, len(names) + 1), names)
_ = axis.set_xlabel("image score")
# %% [markdown]
# ## The scan in three dimensions
# Each point has the colour of its anomaly score. Drag to turn, scroll to come nearer.

# %%
import plotly.graph_objects as go

pictures = sorted((workdir / "maps" / "samples").glob("*hole*.npz"))
scan = np.load(pictures[0])
print(pictures[0].stem, sorted(scan.files))

# %%
xyz, measured = scan["xyz"], np.squeeze(scan["valid"])
map = np.squeeze(scan["map"])
x, y, z = 1000 * xyz[measured].T
cloud = go.Scatter3d(
    x=x,
    y=-y,
    z=-z,  # the camera looks down
    mode="markers",
    marker={
        "size": 2,
        "color": map[measured],
        "colorscale": "Inferno",
        "showscale": True,
    },
    hovertemplate="x %{x:.1f} mm<br>y %{y:.1f} mm<br>z %{z:.1f} mm<extra></extra>",
)
view = go.Figure(cloud)
view.update_layout(
    scene={"aspectmode": "data"}, margin={"l": 0, "r": 0, "t": 0, "b": 0}, height=480
)
view.show()

# %% [markdown]
# ## The report
# The same and more is in one self-contained page.

# %% tags=["report"]
from html import escape

from IPython.display import HTML

page = escape(run.report.read_text())
HTML(f'<div><iframe srcdoc="{page}" width="100%" height="700"></iframe></div>')
