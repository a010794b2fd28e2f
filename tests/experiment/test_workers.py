"""Functions in processes of their own."""

import json
import signal

from ad3d_jax.experiment import workers
from data_pipelines.command import MISTAKE


def note(path, text, times):
    """Writes a text some times."""
    with open(path, "w") as file:
        file.write(text * times)


def refuse(what):
    """Raises what a user's mistake raises."""
    raise ValueError(f"{what}: wrong")


def test_a_worker_gets_its_arguments_as_json(tmp_path):
    arguments = {"path": str(tmp_path / "out"), "text": "a ä\n", "times": 2}
    assert json.loads(json.dumps(arguments)) == arguments
    process = workers.start("test_workers:note", arguments)
    assert process.wait(60) == 0
    assert (tmp_path / "out").read_text() == "a ä\na ä\n"


def test_a_mistake_is_one_sentence_in_its_output(tmp_path):
    with open(tmp_path / "said", "w") as file:
        process = workers.start("test_workers:refuse", {"what": "x"}, file)
        assert process.wait(60) == MISTAKE
    assert (tmp_path / "said").read_text() == "error: x: wrong\n"


def test_a_signal_goes_to_all_that_run():
    before = signal.getsignal(signal.SIGTERM)
    running = [workers.Process(["sleep", "60"]) for _ in range(2)]
    with workers.stopping(running) as asked:
        assert not asked()
        signal.raise_signal(signal.SIGTERM)
        assert asked()
    assert [process.wait(10) for process in running] == [-signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) == before
