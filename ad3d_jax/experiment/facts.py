"""What a result says of the run that it comes from, so that it can be repeated."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import config_hash, plain
from ad3d_jax.experiment.data import category_of, mask_size


def facts(config: ConfigDict, steps: int | None, weights: Mapping[str, Any]) -> dict:
    """Returns what metrics.json says of a run besides its metrics.

    Args:
        config: of the run.
        steps: training steps of all phases, None where nothing is trained.
        weights: what is known of each file that brought a pretrained part, by its name.
    """
    device = jax.local_devices()[0]
    return {
        "system": config.system,
        "variant": config.variant,
        "recipe": config.data.recipe,
        "resolution": config.data.image_size,
        "mask_size": mask_size(config),
        "weights": dict(weights),
        "category": category_of(config),
        "seed": config.seed,
        "steps": steps,
        "config_hash": config_hash(plain(config)),
        "commit": commit(),
        "jax": jax.__version__,
        "device": f"{jax.device_count()} x {device.device_kind}",
    }


def commit() -> str | None:
    """Returns the commit of the checkout that runs, marked where it was changed.

    None where the library was installed: a folder around it may be another checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ("git", *arguments), cwd=root, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    try:
        changed = "-changed" if git("status", "--porcelain", "-uno") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return None
