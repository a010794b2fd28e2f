"""Where the weights are that a configuration names: a path, shipped or on the hub."""

from pathlib import Path

from ad3d_jax.features import hub, weights
from ad3d_jax.features.weights import REFUSED, WeightFile

SHIPPED = "shipped:"  # prefix of the names of files that come with the project
SUFFIXES = (".safetensors", ".npz", *REFUSED)


def bring(
    value: str, field: str = "weights", shipped: Path | None = None
) -> WeightFile | Path:
    """Returns the weights that a value names, read and hashed once, or a folder.

    What is returned stands for a path everywhere: `Pretrained.read`, `weights.load` and
    `provenance.describe` take it and read nothing again. A folder (of textures) is
    returned as its path.

    Args:
        value: as for `locate`.
        field: as for `locate`.
        shipped: as for `locate`.

    Raises:
        ValueError: it cannot be found (see `locate`), is refused (see `weights.read`),
            or is a known file of the hub with another digest.
    """
    path = _local(value, field, shipped)
    if path is not None:
        return path if path.is_dir() else weights.read(path)
    name = hub.parse(value)
    file = weights.read(hub.find(name, field))._replace(name=str(name))
    hub.check_digest(name, file, field)
    return file


def locate(value: str, field: str = "weights", shipped: Path | None = None) -> Path:
    """Returns the path of what a value names, downloaded where it must be.

    A path that exists wins; `shipped:NAME` is NAME.safetensors among the files that
    come with the project; OWNER/NAME, with `@REVISION` and `:FILE` or without, is a
    repository of the Hugging Face hub, unless it ends as files of weights do.

    Args:
        value: of a field of the configuration.
        field: its name, such as "weights.backbone"; for messages.
        shipped: folder of the files that come with the project; None = there are none.

    Raises:
        ValueError: it names nothing that can be had; one sentence says what was tried
            and what to do.
    """
    path = _local(value, field, shipped)
    return hub.find(hub.parse(value), field) if path is None else path


def _local(value: str, field: str, shipped: Path | None) -> Path | None:
    """Returns the path of a file or folder on this machine, None for a hub's name."""
    path = Path(value).expanduser()
    if value and path.exists():
        return path
    names = sorted(p.stem for p in shipped.glob("*.safetensors")) if shipped else []
    known = ", ".join(SHIPPED + name for name in names) or "none is there"
    if value.startswith(SHIPPED):
        if value.removeprefix(SHIPPED) not in names:
            raise ValueError(f"{field}: no {value!r} comes with the project ({known})")
        return shipped / f"{value.removeprefix(SHIPPED)}.safetensors"
    if hub.parse(value) and not (":" not in value and value.endswith(SUFFIXES)):
        return None
    raise ValueError(
        f"{field}: no such file: {value!r}; expected a path that exists, {SHIPPED}NAME"
        f" ({known}), or OWNER/NAME on the Hugging Face hub"
    )
