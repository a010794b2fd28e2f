import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from ad3d_jax.workdir import names
from ad3d_jax.workdir.folder import WorkdirError, open_workdir
from ad3d_jax.workdir.unreadable import UnreadableError

CONFIG = {"seed": 0, "fit": {"steps": 10, "rates": (1e-3, 1e-4)}, "data": {"root": ""}}

HOLD = """
import sys, time
from ad3d_jax.workdir.folder import open_workdir
with open_workdir(sys.argv[1], {}):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the workdir."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def enter(*arguments):
    with open_workdir(*arguments):
        pass


def test_a_new_folder_gets_the_configuration(tmp_path):
    with open_workdir(tmp_path / "a" / "b", CONFIG) as folder:
        found = json.loads((folder / "config.json").read_text())
    assert folder == tmp_path / "a" / "b"
    assert found == {**CONFIG, "fit": {"steps": 10, "rates": [1e-3, 1e-4]}}


def test_a_second_process_is_refused(tmp_path, holder):
    with pytest.raises(WorkdirError, match="is in use") as caught:
        enter(tmp_path, {})
    assert f"process {holder.pid} on " in str(caught.value)
    assert ", since 20" in str(caught.value)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, holder, caplog):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    enter(tmp_path, {})
    assert f"process {holder.pid} on " in caplog.text
    assert "taking over" in caplog.text
    caplog.clear()
    enter(tmp_path, {})
    assert not caplog.text


def test_the_lock_of_another_machine_is_explained(tmp_path):
    lock = tmp_path / "lock"
    holder = {"pid": 1, "host": "elsewhere", "machine": "0-0", "started": "2026-01-01"}
    lock.write_text(json.dumps(holder))
    with pytest.raises(WorkdirError, match="process 1 on elsewhere.*remove"):
        enter(tmp_path, {})
    lock.unlink()
    enter(tmp_path, {})


def test_a_container_takes_over_what_a_dead_one_of_its_machine_held(
    tmp_path, holder, caplog
):
    lock = tmp_path / "lock"
    told = json.loads(lock.read_text())
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock.write_text(json.dumps({**told, "host": "another-container"}))
    enter(tmp_path, {})
    assert "on another-container" in caplog.text and "taking over" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", '{"pid": 1}'])
def test_a_lock_cut_short_is_no_obstacle(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    enter(tmp_path, {})


def test_the_lock_is_let_go_after_an_error(tmp_path):
    with pytest.raises(KeyError):
        with open_workdir(tmp_path, {}):
            raise KeyError
    enter(tmp_path, {})


def ran(folder):
    """Leaves the trained state of a run in the folder, as far as its name tells."""
    (folder / names.FINAL / "0").mkdir(parents=True)


def test_a_resumed_run_with_the_same_configuration_goes_on(tmp_path):
    enter(tmp_path, CONFIG)
    ran(tmp_path)
    before = (tmp_path / "config.json").stat().st_mtime_ns
    enter(tmp_path, {"data": {"root": ""}, "fit": CONFIG["fit"], "seed": 0})
    assert (tmp_path / "config.json").stat().st_mtime_ns == before


def test_changed_fields_are_listed_and_refused(tmp_path):
    enter(tmp_path, CONFIG)
    ran(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    changed = {"seed": 0.0, "fit": {"steps": 20, "rates": [1e-3, 1e-4], "new": True}}
    with pytest.raises(WorkdirError) as caught:
        enter(tmp_path, changed, ["seed"])
    lines = str(caught.value).splitlines()
    assert lines[1:4] == [
        "  data.root: '' -> '(absent)'",
        "  fit.new: '(absent)' -> True",
        "  fit.steps: 10 -> 20",
    ]
    assert "--allow_config_change=FIELD" in lines[-1]
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_mistake_does_not_pin_a_folder_in_which_nothing_ran(tmp_path):
    enter(tmp_path, CONFIG)
    enter(tmp_path, {**CONFIG, "seed": 7})
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 7


@pytest.mark.parametrize("allowed", [["fit.steps"], ["fit"]])
def test_an_allowed_change_is_kept_and_logged(tmp_path, caplog, allowed):
    enter(tmp_path, CONFIG)
    ran(tmp_path)
    changed = {**CONFIG, "fit": {**CONFIG["fit"], "steps": 20}}
    enter(tmp_path, changed, allowed)
    assert "fit.steps: 10 -> 20" in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["fit"]["steps"] == 20
    enter(tmp_path, changed)


def test_an_unknown_allowed_field_names_the_nearest(tmp_path):
    enter(tmp_path, CONFIG)
    with pytest.raises(WorkdirError, match="'fit.step'; did you mean fit.steps?"):
        enter(tmp_path, CONFIG, ["fit.step"])


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_broken_configuration_is_named(tmp_path, text):
    ran(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin1")
    with pytest.raises(UnreadableError, match="config.json: "):
        enter(tmp_path, CONFIG)


def test_places_that_cannot_be_a_workdir_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(WorkdirError, match="can be written to"):
            enter(path, CONFIG)


def test_a_read_only_workdir_is_an_error_at_the_start():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:  # root may write everywhere
            os.seteuid(65534)
        try:
            with pytest.raises(WorkdirError, match="can be written to") as caught:
                enter(folder, CONFIG)
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)
    assert folder in str(caught.value)


def test_a_refusal_leaves_the_configuration_as_it_was(tmp_path):
    with open_workdir(tmp_path, {"steps": 1}):
        (tmp_path / "metrics.json").write_text("{}")
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(WorkdirError, match="other data"):
        with open_workdir(tmp_path, {"steps": 2}, ["steps"]):
            assert (tmp_path / "config.json").read_bytes() != before
            raise WorkdirError("fitted on other data")
    assert (tmp_path / "config.json").read_bytes() == before
    with open_workdir(tmp_path, {"steps": 1}):
        pass
