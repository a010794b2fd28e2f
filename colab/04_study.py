# %% [markdown]
# # A study
# Which numbers suit a system? A study tries them. Its objective never sees the test
# set: good parts, held out of train, get planted defects, and a trial is worth the mean
# of I-AUROC and AUPRO@0.3 over their kinds. Optuna proposes, an SQLite file remembers;
# several workers may share a study, and one that was stopped goes on with the same
# call.

# %% [markdown]
# ## The space
# A table of the configuration's fields that are tried: ranges and choices. A Python
# file that holds it does as well.

# %%
space = {
    "model.fraction": {"low": 0.02, "high": 0.2, "log": True},
    "model.cells": [8, 16],
}

# %% [markdown]
# ## Four trials
# BTF on FPFH: how many cells has a scan, and what part of the training cells does the
# bank keep? It looks at shape alone, so kinds of shape are planted. `workers=4` would
# share the trials between four processes.

# %%
import ad3d_jax as ad

light = {
    "data.category": "bun",
    "data.image_size": 64,
    "data.sample_set.train": 24,
    "data.sample_set.validation": 6,
}
config = ad.Experiment("btf:cpu", set=light).config
planting = {"planted_kinds": ["bump", "dent", "missing"], "planted_each": 4}
own = {"pruner": "none", "workdir": "runs/study"}
result = ad.study(config, space, trials=4, **own, **planting)
print(*result.summary, sep="\n")

# %% [markdown]
# ## What came out
# The page has the history, the importance of each number, parallel coordinates and
# slices; it is one file. Planted defects rank settings. How good the best one is, only
# the test set says, once.

# %%
print(result.report, result.best, result.value)
best = ad.Experiment("btf:cpu", set={**light, **result.best}, workdir="runs/best")
best.fit()
print(f"AUPRO on the test set: {best.evaluate()['aupro_30']:.3f}")
