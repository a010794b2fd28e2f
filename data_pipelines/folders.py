"""What lies in a folder, without the rubbish of file managers and without ways out."""

import os
from pathlib import Path

# In lower case; names that begin with a dot are passed over, too.
RUBBISH = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "icon\r"),
    *("__macosx", "@eadir"),
}


def entries(folder: Path) -> list[Path]:
    """Returns what lies in a folder, by name; nothing where there is no folder."""
    if not folder.is_dir():
        return []
    paths = (path for path in folder.iterdir() if not _passed_over(path.name))
    return sorted(paths, key=lambda path: path.name)


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in RUBBISH


def way_out(path: Path, root: Path) -> Path | None:
    """Returns what a symbolic link leads to, None if that lies in `root`."""
    if not path.is_symlink():
        return None
    target = Path(os.path.realpath(path))  # which takes links in a circle, too
    return None if target.is_relative_to(os.path.realpath(root)) else target
