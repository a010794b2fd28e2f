"""Strict JAX settings and one compile cache for the whole test session."""

import json
import os
import tempfile
import time
from pathlib import Path

# Several host devices and cheap compilation; must be set before jax starts.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# In the environment, so that the commands that tests start share it.
_cache = Path(tempfile.gettempdir()) / f"ad3d_jax_compile_cache_{os.getuid()}"
_cache.mkdir(mode=0o700, exist_ok=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_cache)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402
import parity as records  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

CONTRACT = "test_system_protocol.py"
LONG = (  # files that take a worker minutes
    CONTRACT,
    "test_several_processes.py",
    "test_notebooks.py",
    "fit/test_population.py",
    "testing/test_contract.py",
    "systems/test_easynet.py",
    "experiment/test_export.py",
    "experiment/test_tune.py",
    "experiment/test_grid.py",
    "test_readme.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives a worker whole files: tests of one file share fixtures and programs.

    Of the contract it gives all clauses of one system, which share a trial. (Marks
    `xdist_group` would say the same, but pytest 9.2 passes them over.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            system = test.rpartition("[")[2].rstrip("]").partition("-")[0]
            return f"{file}[{system}]" if file.endswith(CONTRACT) else file

    return Files(config, log)


def pytest_collection_modifyitems(items):
    """Puts what is long first, so that no worker is left alone with it at the end."""

    def place(item):
        return next(
            (n for n, name in enumerate(LONG) if name in item.nodeid), len(LONG)
        )

    items.sort(key=place)


def pytest_runtest_setup(item):
    """Skips what would begin after a time, seconds since 1970, where one is given."""
    if time.time() > float(os.environ.get("TESTS_UNTIL", "inf")):
        pytest.skip("no time is left for it (TESTS_UNTIL)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Escapes names that are no UTF-8 in what is reported, which xdist cannot send."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


MAPPINGS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def few_mappings():
    """Frees compiled programs in time: Linux ends a process at 65,530 mappings.

    A network's training step takes some thousand, and a worker sees hundreds of them.
    """
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


def pytest_addoption(parser):
    parser.addoption("--parity", metavar="FILE", help="Appends the records of parity.")


@pytest.fixture
def parity(request):
    """Returns what records how near a result comes to that of public code.

    It takes (system, source, what, found, expected), see tests/parity.py; the source
    may be the module of a package that is at hand.
    """
    file = request.config.getoption("--parity")
    place = request.path.relative_to(records.ROOT).as_posix()
    test = f"{place}::{request.function.__name__}"

    def record(system, source, what, found, expected):
        if not file:
            return
        if not isinstance(source, str):
            source = records.package(source)
        difference = records.largest_difference(found, expected)
        line = records.Record(system, source, what, test, difference)
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(f"{json.dumps(line._asdict())}\n")

    return record


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_class() -> Path:
    """Returns the folder of a real MVTec 3D-AD class, or skips."""
    folder = SHARED / "mvtec3d_256" / "cable_gland"
    if not folder.is_dir():
        pytest.skip("the real MVTec 3D-AD samples are not on this machine")
    return folder


@pytest.fixture(scope="session")
def native_class() -> Path:
    """Returns a folder of full-size samples exactly as MVTec ships them, or skips."""
    folder = SHARED / "mvtec3d_native" / "cable_gland"
    if not folder.is_dir():
        pytest.skip("the full-size MVTec 3D-AD samples are not on this machine")
    return folder


@pytest.fixture(scope="session")
def resnet18_file() -> Path:
    """Returns a file of ImageNet weights of resnet18 through layer3, or skips."""
    file = SHARED / "resnet18_imagenet_bnfolded_conv1_to_layer3.safetensors"
    if not file.is_file():
        pytest.skip("the pretrained ResNet-18 is not on this machine")
    return file
