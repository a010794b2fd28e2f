"""What can be wrong with a user's data; all are ValueErrors."""

from pathlib import Path


class DatasetError(ValueError):
    """A data set, a cache or a parameter that cannot be used as it is."""


class CorruptSampleError(DatasetError):
    """One file that cannot be read as what its place says it is."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason
