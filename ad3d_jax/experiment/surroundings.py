"""What a run needs of the machine that it runs on, checked before any work."""

from ml_collections import ConfigDict

from ad3d_jax.workdir.log import check_tensorboard
from ad3d_jax.workdir.places import local, writable


def check(config: ConfigDict) -> None:
    """Checks folders and packages that the configuration asks for.

    Raises:
        ValueError: a folder is missing, or cannot be written to.
        ImportError: a package is missing.
    """
    images = config.data.get("images", "")
    if images and not local(images, "data.images").is_dir():
        raise ValueError(f"data.images: there is no folder {images!r}")
    for name, file in config.save_weights.items():
        if file:
            writable(local(file, f"save_weights.{name}").parent, f"save_weights.{name}")
    if config.fit.tensorboard:
        check_tensorboard()
