"""What several processes say to each other, as far as one process can show it."""

import json

import jax
import numpy as np
import pytest

from ad3d_jax.devices import engines, processes


def test_no_flags_are_one_process_and_three_are_one_of_several():
    assert processes.cluster(None, None, None, False) is None
    expected = processes.Cluster("host:1234", 4, 0)
    assert processes.cluster("host:1234", 4, 0, False) == expected
    assert processes.cluster(None, None, None, True) == processes.Cluster()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("host:1", None, None, False), "missing: --processes, --process"),
        ((None, 2, 1, False), "missing: --coordinator"),
        (("host:1", 2, None, False), "missing: --process"),
        (("host", 2, 1, False), "HOST:PORT, found 'host'"),
        (("host:1", 0, 0, False), "at least 1, found 0"),
        (("host:1", 2, 2, False), "expected 0 to 1 .*found 2"),
        (("host:1", 2, -1, False), "expected 0 to 1 .*found -1"),
        ((None, 2, None, True), "leave them away"),
    ],
)
def test_flags_that_are_half_given_or_wrong_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        processes.cluster(*given)


def test_alone_nothing_is_asked(monkeypatch):
    def never(*_):
        raise AssertionError("asked")

    monkeypatch.setattr(processes, "_digest", never)
    data = object()
    assert processes.is_first() and processes.shared(data) is data
    assert processes.word_of_first("a") == "a" and processes.lowest([3, 4]) == [3, 4]
    tree = {"x": np.arange(3)}
    assert processes.arrays_of_first(tree) is tree
    processes.check_same("state", tree)
    assert [processes.Agreement()(own) for own in (False, True)] == [False, True]


def test_alone_the_command_runs_here():
    assert processes.call(None, lambda: 7, agreed=(0,)) == 7


class Others:
    """Stands for the other processes: what each of them says at every exchange."""

    def __init__(self, monkeypatch, *replies):
        self.said, self._replies = [], iter(replies)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(processes, "exchange", self._exchange)

    def _exchange(self, text):
        self.said.append(text)
        return [text, next(self._replies)]


def test_all_learn_at_the_same_turn_that_one_was_asked_to_stop(monkeypatch):
    slow = processes.SECONDS_BETWEEN_QUESTIONS / 4.5
    replies = [[False, slow]] * 4 + [[True, slow]]
    others = Others(monkeypatch, *map(json.dumps, replies))
    agreement, asked = processes.Agreement(), []
    stopped_at = None
    for turn in range(1, 40):
        before = len(others.said)
        stopped = agreement(False)
        if len(others.said) > before:
            asked.append(turn)
        if stopped:
            stopped_at = turn
            break
    # Twice as long each time, up to what the slower one does in two seconds.
    assert asked == [1, 3, 7, 11, 15] and stopped_at == 15
    assert not any(json.loads(text)[0] for text in others.said)


def test_ones_own_wish_is_told_and_not_acted_on_before(monkeypatch):
    others = Others(monkeypatch, *[json.dumps([False, 0.0])] * 2)
    agreement = processes.Agreement()
    assert [agreement(x) for x in (False, True, True)] == [False, False, True]
    assert [json.loads(text)[0] for text in others.said] == [False, True]


def test_the_poorest_process_decides(monkeypatch):
    Others(monkeypatch, "[5, 1]")
    assert processes.lowest([3, 4]) == [3, 1]


def test_processes_that_differ_are_told_apart(monkeypatch):
    Others(monkeypatch, "step 4", "0123456789abcdef")
    with pytest.raises(
        processes.MismatchError, match="first .* step 6, process 1 .* 4"
    ):
        processes.check_same("checkpoint", "step 6")
    with pytest.raises(ValueError, match="state: .* process 1 has 0123456789abcdef"):
        processes.check_same("state", {"x": np.arange(3), "key": jax.random.key(0)})


def test_a_digest_is_of_every_leaf():
    def digest(x):
        return processes._digest({"key": jax.random.key(0), "x": x})

    zeros = np.zeros(3, np.float32)
    assert digest(zeros) == digest(zeros.copy())
    others = [zeros + 1, zeros.astype(np.int32), zeros.reshape(3, 1)]
    assert len({digest(zeros), *map(digest, others)}) == 4


def test_the_devices_of_an_engine_are_this_process_s():
    engine = engines.make_engine("pmap", jax.devices()[:3])
    assert engine.own == range(3) and engine.alone
