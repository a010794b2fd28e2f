# %% [markdown]
# ## Installation
# Where the library is missing it is installed with what it needs, less jax and
# TensorFlow: Colab's own builds of both, made for its accelerator, stay as they are.

# %%
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys

SOURCE = ".."  # folder of a clone, or git+https://… of one
OURS = {"jax", "jaxlib", "tensorflow", "tensorflow-cpu"}  # never installed here


def is_installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


if importlib.util.find_spec("ad3d_jax") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", SOURCE], check=True)
    wanted = importlib.metadata.requires("ad3d_jax")
    wanted = [line.split(";")[0] for line in wanted if "extra ==" not in line]
    names = {line: re.match(r"[\w.-]+", line)[0] for line in wanted}
    missing = [line for line, n in names.items() if not is_installed(n)]
    missing = [line for line in missing if names[line] not in OURS]
    if missing:
        subprocess.run([*pip, *missing], check=True)

import jax  # noqa: E402

tpu = "TPU_NAME" in os.environ or "COLAB_TPU_ADDR" in os.environ
backend = "tpu" if tpu else "gpu" if shutil.which("nvidia-smi") else "cpu"
assert jax.default_backend() == backend, (
    f"this machine has a {backend}, but jax runs on {jax.default_backend()}: "
    "restart the runtime, or install the build of jax for it"
)
print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")
