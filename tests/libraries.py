"""Libraries that a machine may lack, for tests that compare with them."""

from types import ModuleType

import pytest

from data_pipelines import geometry
from data_pipelines.errors import DatasetError


def open3d() -> ModuleType:
    """Returns Open3D, or skips with the sentence that a user would read."""
    try:
        return geometry.open3d()
    except DatasetError as absent:
        pytest.skip(str(absent))
