# %% [markdown]
# ## Installation
# Where the library is missing it is installed with what it lacks here. What a runtime
# brings for its accelerator (jax, NumPy, TensorFlow) stays as it is. `SOURCE` says
# where the library comes from: the address of a repository (`git+https://…`), a wheel,
# or the folder of a clone. Without it, it is a wheel beside the notebook, which may be
# uploaded there, or the clone in which the notebook lies.

# %%
import glob
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys

from packaging.requirements import Requirement

SOURCE = os.environ.get("AD3D_SOURCE", "")
KEPT = ("jax", "jaxlib", "flax", "numpy")  # what is there stays

tpu = "TPU_NAME" in os.environ or "COLAB_TPU_ADDR" in os.environ
backend = "tpu" if tpu else "gpu" if shutil.which("nvidia-smi") else "cpu"
BUILD = {"tpu": "[tpu]", "gpu": "[cuda12]", "cpu": ""}[backend]  # of jax


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def fits(need: Requirement) -> bool:
    if need.name == "tensorflow-cpu" and version("tensorflow"):
        return True  # the runtime's own reads data as well
    found = version(need.name)
    return bool(found) and need.specifier.contains(found, prereleases=True)


def line(need: Requirement) -> str:
    return f"{need.name}{BUILD if need.name == 'jax' else ''}{need.specifier}"


def where_from() -> str:
    wheels = sorted(glob.glob("ad3d_jax-*.whl"))
    clone = [".."] if os.path.isfile("../ad3d_jax/__init__.py") else []
    for place in (SOURCE, *wheels[-1:], *clone):
        if place:
            return place
    raise SystemExit("set SOURCE above, or upload a wheel ad3d_jax-….whl beside this")


pip = [sys.executable, "-m", "pip", "install", "--quiet"]
if importlib.util.find_spec("ad3d_jax") is None:
    subprocess.run([*pip, "--no-deps", where_from()], check=True)
needs = map(Requirement, importlib.metadata.requires("ad3d_jax"))
needs = [n for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
missing = [need for need in needs if not fits(need)]
wrong = [need for need in missing if need.name in KEPT and version(need.name)]
if wrong:
    has = ", ".join(f"{need.name} {version(need.name)}" for need in wrong)
    change = " ".join(f"'{line(need)}'" for need in wrong)
    raise SystemExit(
        f"this runtime has {has}: run !pip install -U {change}, restart the runtime, "
        "and go on here"
    )
if missing:
    kept = [f"{name}=={version(name)}" for name in KEPT if version(name)]
    subprocess.run([*pip, *map(line, missing), *kept], check=True)
importlib.invalidate_caches()

import jax  # noqa: E402

if jax.default_backend() != backend:
    raise SystemExit(
        f"this machine has a {backend}, but jax runs on {jax.default_backend()}: "
        f"run !pip install -U 'jax{BUILD}', and restart the runtime"
    )
print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
