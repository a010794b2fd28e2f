import json
import math
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import small_files

from ad3d_jax.workdir import log as log_module
from ad3d_jax.workdir.disk import DiskFullError
from ad3d_jax.workdir.log import Log, read_log
from ad3d_jax.workdir.unreadable import UnreadableError


def test_a_line_is_one_json_object_on_disk_at_once(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    with Log(path) as log:
        log.write("train", step=3, loss=jnp.float32(0.5), rows=np.int64(4), name="é\n")
        (line,) = path.read_text("utf-8").splitlines()  # before the file is closed
    found = json.loads(line)
    assert abs(found.pop("time") - path.stat().st_mtime) < 60
    assert found == {"kind": "train", "step": 3, "loss": 0.5, "rows": 4, "name": "é\n"}


def test_undefined_numbers_become_null_and_are_named(tmp_path):
    with Log(tmp_path / "log") as log:
        log.write(
            "train",
            nan=math.nan,
            inf=jnp.float32(-math.inf),
            many=[1.0, {"x": np.array([2.0, math.nan])}],
            fine=0.0,
        )
    (line,) = read_log(tmp_path / "log")
    assert line["nan"] is None and line["inf"] is None
    assert line["many"] == [1.0, {"x": [2.0, None]}]
    assert line["fine"] == 0
    assert line["non_finite"] == ["nan", "inf", "many"]
    assert "NaN" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("tail", ['{"kind": "tr', '{"kind": "train"}', "\x00\x00"])
def test_a_half_written_last_line_is_cut_off(tmp_path, caplog, tail):
    path = tmp_path / "log"
    path.write_text('{"kind": "a"}\n' + tail)
    assert read_log(path) == [{"kind": "a"}]  # a reader needs no repair
    with Log(path) as log:
        log.write("b")
    assert [line["kind"] for line in read_log(path)] == ["a", "b"]
    assert "half-written" in caplog.text


def test_a_run_that_goes_on_appends(tmp_path):
    for step in (1, 2):
        with Log(tmp_path / "log") as log:
            log.write("train", step=step)
    assert [line["step"] for line in read_log(tmp_path / "log")] == [1, 2]


@pytest.mark.parametrize("line", ["nonsense", "", "[1]", '{"step": 1}', "\x00"])
def test_a_line_that_is_no_record_is_named_or_left_out(tmp_path, line):
    path = tmp_path / "log"
    path.write_text(f'{{"kind": "a"}}\n{line}\n{{"kind": "b"}}\n')
    with pytest.raises(UnreadableError, match="log: line 2: (not JSON|expected)"):
        read_log(path)
    left_out = []
    assert read_log(path, left_out) == [{"kind": "a"}, {"kind": "b"}]
    (fault,) = left_out
    assert fault.startswith("line 2: ")


def test_a_half_written_last_line_is_told_to_who_asks(tmp_path):
    (tmp_path / "log").write_text('{"kind": "a"}\n{"kind": "b"}')
    left_out = []
    assert read_log(tmp_path / "log", left_out) == [{"kind": "a"}]
    assert left_out == ["line 2: half-written"]


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreadableError, match="log.jsonl: there is no such file"):
        read_log(tmp_path / "log.jsonl", [])


def test_names_and_values_without_a_place_are_refused(tmp_path):
    with Log(tmp_path / "log") as log:
        with pytest.raises(ValueError, match="time"):
            log.write("train", time=3)
        with pytest.raises(TypeError, match="object"):
            log.write("train", thing=object())
        log.write("train")
    assert len(read_log(tmp_path / "log")) == 1


class Board:
    def __init__(self, folder):
        self.folder, self.scalars = folder, []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def flush(self):
        pass

    close = flush


def test_numbers_with_a_step_go_to_tensorboard(tmp_path, monkeypatch):
    boards = []

    def writer(folder):
        boards.append(Board(folder))
        return boards[-1]

    package = types.ModuleType("tensorboard")
    summary = types.ModuleType("tensorboard.summary")
    summary.Writer = writer
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "tensorboard.summary", summary)
    monkeypatch.setattr(log_module.importlib.util, "find_spec", lambda name: name)
    with Log(tmp_path / "log", tensorboard=tmp_path / "board") as log:
        log.write(
            "train", step=2, loss=np.float32(0.5), bad=math.nan, phase="a", ok=True
        )
        log.write("phase", seconds=3.0)
    assert boards[0].folder == str(tmp_path / "board")
    assert boards[0].scalars == [("train/loss", 0.5, 2)]


def test_tensorboard_in_truth(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    with Log(tmp_path / "log", tensorboard=tmp_path / "board") as log:
        log.write("train", step=2, loss=0.5)
    events = event_accumulator.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Tags()["tensors"] == ["train/loss"]
    assert events.Tensors("train/loss")[0].step == 2


def test_a_missing_tensorboard_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'ad3d_jax\[tensorboard\]'"):
        Log(tmp_path / "log", tensorboard=tmp_path / "board")


def test_the_log_loads_no_large_package():
    code = (
        "import sys, ad3d_jax.workdir.log, ad3d_jax.workdir.folder; print(*sys.modules)"
    )
    names = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"tensorflow", "tensorboard", "open3d", "matplotlib"} & set(names)


def test_a_name_that_is_no_utf8_comes_back(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        log.write(kind="event", file="caf\udce9")
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["file"] == "caf\udce9"


def test_a_line_that_a_full_disk_cuts_is_none(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(DiskFullError, match=f"^{path}: no space is left"):
        with small_files(1000), Log(path) as log:
            log.write("event", number=1)
            log.write("event", text="x" * 2000)
    assert path.stat().st_size == 1000  # a part of the line is there
    with Log(path) as log:
        log.write("event", number=2)
    assert [line["number"] for line in read_log(path)] == [1, 2]
