"""Keeps compiled programs on disk, so that the next command need not compile them."""

import hashlib
import os
import platform
import stat
from pathlib import Path

import jax
import jaxlib
from absl import logging

LEAST_SECONDS = 0.05  # of compilation; what is faster is not kept


def remember_programs(folder: Path | None = None) -> None:
    """Keeps what this process compiles, and takes what others kept.

    Does nothing where another place is set already, as by JAX_COMPILATION_CACHE_DIR.
    A folder that others could write to is not used, since programs are read from it: a
    warning says so.

    Args:
        folder: where; None = the user's own, for machines of this kind.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = _users_own() if folder is None else folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = _is_private(folder)
    except OSError as error:
        logging.warning("compiled programs are not kept: %s", error)
        return
    if not private:
        logging.warning("compiled programs are not kept: others may write %s", folder)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def _users_own() -> Path:
    """Returns a folder of this user for this jaxlib and this kind of processor."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    kind = hashlib.sha256(f"{jaxlib.__version__} {_processor()}".encode()).hexdigest()
    return base / "ad3d_jax" / "compiled" / kind[:16]


def _processor() -> str:
    """Returns what tells kinds of processors apart, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features")
    return " ".join(sorted({line for line in lines if line.startswith(wanted)}))


def _is_private(folder: Path) -> bool:
    """Returns whether the folder is this user's and nobody else may write to it."""
    if not hasattr(os, "getuid"):  # Windows keeps a user's folders by other means
        return True
    found = folder.stat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return found.st_uid == os.getuid() and not found.st_mode & others
