# %% [markdown]
# # Add a system
# A system is a named tuple of pure functions over explicit state. Here is a whole
# one: it learns the mean and the spread of each pixel's colour and depth, and scores
# by the distance to them. The drivers, metrics and reports know nothing of it. It is
# written to a module, `pixels.py`, so that commands find it, too.

# %%
# %%writefile pixels.py
import jax.numpy as jnp

from ad3d_jax.base import Gather, Scores, State, System
from ad3d_jax.ops.blur import mean_filter


def features(batch):
    """Returns colour and normalised depth of every pixel, [B,H,W,4]."""
    return jnp.concatenate([batch.rgb, batch.extras["height_normalised"]], axis=-1)


def init(key, batch):
    """Depends on the key and on shapes alone; a State holds arrays alone."""
    shape = (*batch.rgb.shape[1:3], 4)
    memory = {"mean": jnp.zeros(shape), "spread": jnp.ones(shape)}
    return State(memory=memory, hyper={"floor": jnp.float32(0.05)})


def emit(key, state, batch):
    """What each training sample contributes: a tree of [B,...] arrays."""
    return {"features": features(batch)}


def absorb(key, state, rows):
    """Builds the memory from what all training samples emitted, in their order."""
    values = jnp.asarray(rows["features"])
    memory = {"mean": jnp.mean(values, axis=0), "spread": jnp.std(values, axis=0)}
    return state._replace(memory=memory)


def score(key, state, batch):
    """Treats each row by itself; the map has the size of the input."""
    mean, spread = state.memory["mean"][None], state.memory["spread"][None]
    distance = jnp.abs(features(batch) - mean) / (spread + state.hyper["floor"])
    map = mean_filter(jnp.mean(distance, axis=-1, keepdims=True), 11)
    return Scores(map=map, image=jnp.max(map, axis=(1, 2, 3)))


def make() -> System:
    """Parameters with defaults would be fields of the configuration."""
    needs = ("rgb", "extras.height_normalised")
    return System(
        name="pixels",
        needs_fit=needs,
        needs_score=needs,
        init=init,
        phases=(Gather(name="statistics", emit=emit, absorb=absorb),),
        score=score,
    )


# %% [markdown]
# ## Fit it
# Data come from a class of the sample set, preprocessed once by a recipe.

# %%
from pathlib import Path

import jax
import pixels

from ad3d_jax.fit.fit import Options, fit
from data_pipelines import synthetic
from data_pipelines.preprocess import prepare
from data_pipelines.resident import load_resident

synthetic.generate("sample_set", categories=("flange",), size=96, train=40)
prepared = prepare(
    Path("sample_set"),
    "flange",
    "ast",
    {"image_size": 96, "mask_size": 96},
    cache_dir=Path("runs/cache"),
)
data = load_resident(prepared)
first = next(data.ordered("train", 8, 0))
system = pixels.make()
state = system.init(jax.random.key(0), first)
state = fit(system, state, jax.random.key(1), data, Options(batch_size=8))

# %% [markdown]
# ## Score and measure it

# %%
from ad3d_jax import evaluate as evaluation
from ad3d_jax.devices import engines
from ad3d_jax.experiment.data import rows_of

engine = engines.make_engine("jit")
compiled = evaluation.compile_score(system, engine, jax.random.key(2), state)
scored = evaluation.score_split(compiled, data, 8)
metrics = evaluation.measure(scored, rows_of(prepared.manifest, "test"))
for name in ("i_auroc", "p_auroc", "aupro_30"):
    print(f"{name:10} {metrics[name]:.3f}")

# %% [markdown]
# ## The contract
# Thirteen clauses hold for every system: padding changes nothing, a row's score does
# not depend on its neighbours, a changed number does not compile again, and more.
# `check_system` holds yours to them, and says in a sentence what it breaks.

# %%
from ad3d_jax.testing import check_system

check_system(pixels.make)
print("pixels keeps the contract")

# %% [markdown]
# ## In every command
# `pixels:make`, the module and the name in it, stands wherever a configuration is
# named: `--config=pixels:make`, `--systems=pixels:make,patchcore:cpu`, and here.

# %%
import ad3d_jax as ad

run = ad.Experiment(
    "pixels:make",
    data="sample_set",
    category="flange",
    set={"data.recipe": "ast", "data.image_size": 96},
)
detector = run.fit()
print(detector)
print(f"i_auroc {run.evaluate()['i_auroc']:.3f}")

# %% [markdown]
# In the library it would be four places: `ad3d_jax/systems/pixels.py` with a frozen
# `Config` and a row in `SYSTEMS`, `experiments/configs/pixels.py`, a row in
# `tests/systems_table.py`, and a card in `docs/systems`.
