"""The rules of the house, read from the source: who imports whom, what nobody does.

Every rule is a function of a folder and returns its violations as "file:line: text"; it
is tried on a small folder that breaks it before it is held against the repository.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ad3d_jax.workdir import names

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ad3d_jax", "data_pipelines", "experiments")

# A module imports from its own entry and from those above it.
LAYERS = (
    ("ad3d_jax.base", "ad3d_jax.image_files"),
    ("ad3d_jax.ops",),
    ("ad3d_jax.losses", "ad3d_jax.schedules"),
    ("ad3d_jax.synthesis",),
    ("ad3d_jax.nn",),
    ("ad3d_jax.workdir",),
    ("ad3d_jax.features",),
    ("ad3d_jax.systems",),
    ("ad3d_jax.metrics",),
    ("ad3d_jax.devices",),
    ("ad3d_jax.fit",),
    ("ad3d_jax.decision",),
    ("ad3d_jax.evaluate", "ad3d_jax.report"),
    ("ad3d_jax.testing",),
    ("data_pipelines",),
    ("ad3d_jax.experiment",),
    ("experiments",),
)
# What only some files may import.
CONVERTER = "experiments/convert_torch.py"  # alone opens files that torch saved
HOMES = {
    "flax.linen": ("ad3d_jax/nn/",),
    "unittest": (),
    "orbax": ("ad3d_jax/workdir/checkpoint.py",),
    "jax._src": ("ad3d_jax/devices/processes.py",),
    "jax.distributed": ("ad3d_jax/devices/processes.py",),
    "jax.experimental.multihost_utils": ("ad3d_jax/devices/processes.py",),
    "huggingface_hub": ("ad3d_jax/features/hub.py",),
    "open3d": ("data_pipelines/geometry.py",),
    "tensorflow": ("data_pipelines/",),
    "tensorflow_datasets": ("data_pipelines/",),
    "matplotlib": ("ad3d_jax/report/",),
    "torch": (
        "experiments/benchmarks/baselines/",
        "experiments/benchmarks/anomalib/theirs.py",
        CONVERTER,
    ),
    "experiments.convert_torch": (),
    "anomalib": ("experiments/benchmarks/anomalib/theirs.py",),
    "faiss": ("experiments/benchmarks/baselines/",),
    "cv2": ("experiments/benchmarks/baselines/",),
    # Configurations and spaces are code of the user's own; the last runs our commands.
    "runpy": (
        "ad3d_jax/experiment/config.py",
        "ad3d_jax/experiment/study/space.py",
        "experiments/__main__.py",
    ),
}
LAZY = ("open3d", "matplotlib", "torch", "faiss", "cv2", "anomalib")
# Files that are nothing without such a library, and are imported in functions alone.
WHOLLY = (
    "experiments/benchmarks/baselines/torch_networks.py",
    "experiments/benchmarks/baselines/opencv_synthesis.py",
    "experiments/benchmarks/anomalib/theirs.py",
)
CODE_IN_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib"} | {
    *("marshal", "shelve"),
}
FORBIDDEN_CALLS = {
    *("torch.load", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *("pandas.read_pickle", "__import__", "shutil.unpack_archive"),
}
UNPACKING = {"extract", "extractall"}  # methods of archives
# The only files that name the test split: the scoring, what refuses it in a fit, and
# what compares with it: another library, and planted defects with real ones.
TEST_SPLIT = (
    "ad3d_jax/evaluate.py",
    "ad3d_jax/experiment/ensemble/evaluation.py",
    "ad3d_jax/experiment/evaluation.py",
    "ad3d_jax/fit/phases.py",
    "experiments/benchmarks/anomalib/__main__.py",
    "experiments/benchmarks/anomalib/theirs.py",
    "experiments/benchmarks/selection/cells.py",
)
OPTIONAL = ("tensorflow", "tensorflow_datasets", "open3d", "matplotlib", "tensorboard")


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yields the path below the root and the syntax tree of every packaged file."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            yield name, ast.parse(path.read_text(encoding="utf-8"), name)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(file: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of everything that a file imports, anywhere in it."""
    package = module_of(file) if file.endswith("/__init__.py") else ""
    package = package or module_of(file).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def below(name: str, entry: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")


def rank(module: str) -> int | None:
    """Returns the place of a module among the layers, or None."""
    for place, entries in enumerate(LAYERS):
        if any(below(module, entry) for entry in entries):
            return place
    return None


def dotted(node: ast.AST) -> str:
    """Returns "a.b.c" of names and attributes, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def upward_imports(root: Path) -> list[str]:
    """Returns imports of a layer below one's own, and files outside every layer."""
    found = []
    for file, tree in sources(root):
        own = rank(module_of(file))
        if own is None and file != "ad3d_jax/__init__.py":
            found.append(f"{file}:1: stands in none of the layers")
            continue
        for line, name in imports(file, tree):
            place = rank(name)
            if place is not None and place > (own or 0):
                found.append(f"{file}:{line}: imports {name}, which is not above it")
    return found


def strangers(root: Path) -> list[str]:
    """Returns imports of libraries outside the files where they are at home."""
    return [
        f"{file}:{line}: imports {name}; {library} only in {' '.join(homes) or 'tools'}"
        for file, tree in sources(root)
        for line, name in imports(file, tree)
        for library, homes in HOMES.items()
        if below(name, library) and not any(file.startswith(home) for home in homes)
    ]


def eager_imports(root: Path) -> list[str]:
    """Returns imports of what is optional, or slow to load, outside functions."""
    found = []
    for file, tree in sources(root):
        if file in WHOLLY:
            continue
        lazy = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or id(node) in lazy:
                continue
            for line, name in imports(file, node):
                wholly = any(below(name, module_of(file)) for file in WHOLLY)
                if wholly or any(below(name, library) for library in LAZY):
                    found.append(f"{file}:{line}: imports {name} outside a function")
    return found


def pmap_elsewhere(root: Path) -> list[str]:
    """Returns places that name pmap outside devices/engines.py."""
    found = []
    for file, tree in sources(root):
        if file == "ad3d_jax/devices/engines.py":
            continue
        for node in ast.walk(tree):
            names = {getattr(node, "id", ""), getattr(node, "attr", "")}
            if isinstance(node, ast.alias):
                names = {node.name.rpartition(".")[2]}
            if "pmap" in names:
                found.append(f"{file}:{node.lineno}: names pmap")
    return found


def names_of_files() -> set[str]:
    """Returns what the files and folders of a run are called, folder by folder."""
    constants = [value for name, value in vars(names).items() if name.isupper()]
    paths = [value for value in constants if isinstance(value, str)]
    return {part for path in paths for part in path.split("/")}


def files_of_runs_elsewhere(root: Path) -> list[str]:
    """Returns literal names of a run's files outside workdir/names.py.

    A name without an ending is a common word: it counts where a path is made of it.
    """
    known, found = names_of_files(), []
    for file, tree in sources(root):
        if file == "ad3d_jax/workdir/names.py":
            continue
        in_paths = {
            id(node.right)
            for node in ast.walk(tree)
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if not isinstance(text, str):
                continue
            parts = known & set(text.split("/"))
            if any("." in part or id(node) in in_paths for part in parts):
                found.append(f"{file}:{node.lineno}: spells {text!r}")
    return found


def unsafe_code(root: Path) -> list[str]:
    """Returns what could run code that came in as data."""
    found = []
    for file, tree in sources(root):
        if file == CONVERTER:
            continue
        for line, name in imports(file, tree):
            if name.split(".")[0] in CODE_IN_DATA or name in FORBIDDEN_CALLS:
                found.append(f"{file}:{line}: imports {name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found += [
                    f"{file}:{node.lineno}: {fault}" for fault in unsafe_call(node)
                ]
    return found


def unsafe_call(node: ast.Call) -> list[str]:
    name = dotted(node.func)
    last = name.removeprefix("builtins.")
    faults = [f"calls {name}"] if last in {"eval", "exec"} | FORBIDDEN_CALLS else []
    if getattr(node.func, "attr", "") in UNPACKING:
        faults.append("unpacks an archive")
    for keyword in node.keywords:
        value = getattr(keyword.value, "value", None)
        if keyword.arg in ("allow_pickle", "shell") and value is not False:
            faults.append(f"passes {keyword.arg} that is not plainly False")
    return faults


def names_the_test_split(root: Path) -> list[str]:
    """Returns places that name the test split where something could be chosen on it."""
    return [
        f"{file}:{node.lineno}: names the test split"
        for file, tree in sources(root)
        if file not in TEST_SPLIT and not file.startswith("data_pipelines/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "test"
    ]


def without_docstring(root: Path) -> list[str]:
    """Returns public modules, classes, functions and methods without a docstring."""
    found = []
    for file, tree in sources(root):
        if not ast.get_docstring(tree):
            found.append(f"{file}:1: the module has no docstring")
        for node in public(tree):
            if not ast.get_docstring(node):
                found.append(f"{file}:{node.lineno}: {node.name} has no docstring")
    return found


def public(owner: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    for node in owner.body:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def loose_habits(root: Path) -> list[str]:
    """Returns bare excepts, and prints in the libraries (experiments may print)."""
    found = []
    for file, tree in sources(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{file}:{node.lineno}: except without a type")
            if isinstance(node, ast.Call) and dotted(node.func) == "print":
                if not file.startswith("experiments/"):
                    found.append(f"{file}:{node.lineno}: prints")
    return found


def import_without_optional(modules: list[str], absent: tuple = OPTIONAL) -> str:
    """Returns what fails where libraries are absent, in a new process."""
    program = f"""
import importlib, importlib.abc, sys, traceback
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ImportError:  # anything else ends the process and is in its output
        print(name, traceback.format_exc(limit=-2), sep=": ")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout + (done.stderr if done.returncode else "")


RULES = (
    *(upward_imports, strangers, eager_imports, pmap_elsewhere),
    *(files_of_runs_elsewhere, unsafe_code, names_the_test_split),
    *(without_docstring, loose_habits),
)
BROKEN = [
    (upward_imports, "ad3d_jax/ops/a.py", "from ad3d_jax.nn import unet", 1),
    (upward_imports, "ad3d_jax/ops/a.py", "from ad3d_jax import nn", 1),
    (upward_imports, "ad3d_jax/ops/a.py", "from .. import nn", 1),
    (upward_imports, "ad3d_jax/ops/__init__.py", "from ..nn.unet import Unet", 1),
    (upward_imports, "ad3d_jax/base.py", "def f():\n    import experiments.main", 2),
    (upward_imports, "ad3d_jax/__init__.py", "import ad3d_jax.ops", 1),
    (upward_imports, "ad3d_jax/evaluate.py", "import data_pipelines.decode", 1),
    (upward_imports, "ad3d_jax/utils.py", "", 1),
    (strangers, "ad3d_jax/systems/a.py", "from flax import linen as nn", 1),
    (strangers, "ad3d_jax/fit/fit.py", "import orbax.checkpoint", 1),
    (strangers, "ad3d_jax/evaluate.py", "from jax import distributed", 1),
    (
        strangers,
        "ad3d_jax/fit/fit.py",
        "from jax.experimental import multihost_utils as m",
        1,
    ),
    (strangers, "data_pipelines/decode.py", "def f():\n    import open3d", 2),
    (strangers, "experiments/main.py", "import tensorflow_datasets as tfds", 1),
    (strangers, "ad3d_jax/evaluate.py", "from matplotlib import pyplot", 1),
    (strangers, "ad3d_jax/features/a.py", "import torch", 1),
    (eager_imports, "ad3d_jax/report/a.py", "\nimport matplotlib", 2),
    (strangers, "experiments/main.py", "def f():\n    import faiss", 2),
    (strangers, "ad3d_jax/workdir/a.py", "def f():\n    from unittest import mock", 2),
    (eager_imports, "experiments/benchmarks/baselines/knn.py", "import torch", 1),
    (
        eager_imports,
        "experiments/benchmarks/baselines/a.py",
        "from . import torch_networks",
        1,
    ),
    (strangers, "experiments/main.py", "def f():\n    import cv2", 2),
    (strangers, "experiments/main.py", "def f():\n    import anomalib.data", 2),
    (eager_imports, "data_pipelines/geometry.py", "if 1:\n    import open3d", 2),
    (pmap_elsewhere, "ad3d_jax/fit/fit.py", "import jax\njax.pmap(f)", 2),
    (pmap_elsewhere, "ad3d_jax/fit/fit.py", "from jax import pmap as p", 1),
    (files_of_runs_elsewhere, "experiments/a.py", "x = 'metrics.json'", 1),
    (files_of_runs_elsewhere, "ad3d_jax/report/a.py", "f(x,\n 'a/scores.csv')", 2),
    (files_of_runs_elsewhere, "data_pipelines/a.py", "x = folder / 'maps'", 1),
    (files_of_runs_elsewhere, "experiments/a.py", "x = f / 'checkpoints/3'", 1),
    (unsafe_code, "ad3d_jax/ops/a.py", "import pickle", 1),
    (unsafe_code, "ad3d_jax/ops/a.py", "from pickle import loads", 1),
    (unsafe_code, "ad3d_jax/ops/a.py", "x = 1\neval('x')", 2),
    (unsafe_code, "experiments/main.py", "exec(open('x').read())", 1),
    (unsafe_code, "ad3d_jax/features/a.py", "torch.load('x', weights_only=True)", 1),
    (unsafe_code, "ad3d_jax/features/a.py", "from torch import load", 1),
    (unsafe_code, "ad3d_jax/ops/a.py", "np.load(x,\n allow_pickle=True)", 1),
    (unsafe_code, "ad3d_jax/ops/a.py", "np.load(x, allow_pickle=flag)", 1),
    (unsafe_code, "experiments/main.py", "subprocess.run('ls', shell=True)", 1),
    (unsafe_code, "ad3d_jax/workdir/a.py", "yaml.load(text)", 1),
    (unsafe_code, "data_pipelines/a.py", "with open_(f) as a:\n  a.extractall(x)", 2),
    (unsafe_code, "data_pipelines/a.py", "from shutil import unpack_archive", 1),
    (strangers, "ad3d_jax/workdir/a.py", "def f():\n    import runpy", 2),
    (strangers, "experiments/main.py", "from runpy import run_path", 1),
    (strangers, "experiments/__main__.py", "from experiments import convert_torch", 1),
    (names_the_test_split, "ad3d_jax/fit/fit.py", "f(\n data.ordered('test', 1))", 2),
    (names_the_test_split, "experiments/spaces/a.py", "X = {'on': 'test'}", 1),
    (without_docstring, "ad3d_jax/ops/a.py", '"""Doc."""\ndef f(): pass', 2),
    (without_docstring, "ad3d_jax/ops/a.py", "x = 1", 1),
    (
        without_docstring,
        "ad3d_jax/ops/a.py",
        '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): pass',
        4,
    ),
    (loose_habits, "ad3d_jax/ops/a.py", "try:\n    f()\nexcept:\n    pass", 3),
    (loose_habits, "data_pipelines/a.py", "print(1)", 1),
]
SOUND = [
    ("ad3d_jax/nn/a.py", "from flax import linen as nn\nfrom ad3d_jax.ops import blur"),
    ("ad3d_jax/nn/b.py", "from ad3d_jax.nn import a\nfrom . import a\nimport jax"),
    ("ad3d_jax/devices/engines.py", "import jax\nrun = jax.pmap"),
    ("ad3d_jax/report/a.py", "def _f():\n    import matplotlib"),
    ("experiments/benchmarks/baselines/knn.py", "def _f():\n    import torch, faiss"),
    ("experiments/benchmarks/baselines/torch_networks.py", "import torch"),
    (
        "experiments/main.py",
        "import ad3d_jax.evaluate as e\ne.run(engine='pmap')",
    ),
    ("ad3d_jax/features/a.py", "np.load(x, allow_pickle=False)\nmodel.eval()"),
    ("data_pipelines/a.py", "import tensorflow as tf\nimport ad3d_jax"),
    ("ad3d_jax/workdir/names.py", "METRICS = 'metrics.json'"),
    ("ad3d_jax/evaluate.py", "split = 'test'"),
    ("ad3d_jax/experiment/config.py", "import runpy\nfound = runpy.run_path(file)"),
    (CONVERTER, "def _f():\n    import torch\n    torch.load(x, weights_only=True)"),
    ("ad3d_jax/report/b.py", "x = data['samples'], 'steps', 'metrics.json says so'"),
]


def write(root: Path, file: str, text: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert not (found := rule(ROOT)), "\n" + "\n".join(found)


@pytest.mark.parametrize(("rule", "file", "text", "line"), BROKEN)
def test_a_broken_rule_is_found(tmp_path, rule, file, text, line):
    write(tmp_path, file, text)
    assert [place.split(" ")[0] for place in rule(tmp_path)] == [f"{file}:{line}:"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_sound_code_passes(tmp_path, rule):
    for file, text in SOUND:
        write(tmp_path, file, f'"""A module."""\n{text}')
    assert rule(tmp_path) == []


def test_every_package_is_read():
    found = {file.split("/")[0] for file, _ in sources(ROOT)}
    assert found == set(PACKAGES)


def test_library_imports_without_optional_libraries():
    modules = [module_of(file) for file, _ in sources(ROOT) if file[:9] == "ad3d_jax/"]
    assert import_without_optional(modules) == ""


def test_numpy_pipelines_import_without_optional_libraries():
    names = tuple(f"data_pipelines.{n}" for n in ("planted", "sources", "synthetic"))
    modules = [
        module
        for file, _ in sources(ROOT)
        if any(below(module := module_of(file), name) for name in names)
    ]
    assert import_without_optional(modules) == ""


def test_commands_import_without_what_windows_does_not_have():
    absent = ("fcntl", "grp", "pwd", "resource", "termios")
    modules = [module_of(file) for file, _ in sources(ROOT) if file.count("/") == 1]
    assert import_without_optional(modules, absent) == ""
    assert import_without_optional(["fcntl"], absent)


def test_the_absence_is_real():
    found = import_without_optional([*OPTIONAL, "json"])
    assert found.count("ModuleNotFoundError") == len(OPTIONAL)
    assert "json:" not in found
