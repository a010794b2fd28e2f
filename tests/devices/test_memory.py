"""Plans against limits, by hand; memory that runs out, by a fake error."""

import resource

import jax
import numpy as np
import pytest
from absl import logging as absl_logging

from ad3d_jax.base import Plan, State
from ad3d_jax.devices import memory
from ad3d_jax.ops import knn

PLAN = Plan(
    rows=1000,
    kept=100,
    dimensions=10,
    bank_bytes=4000,
    split_bytes=4000,
    whole_bytes=500,
    host_bytes=9000,
    chunk=128,
)


@pytest.mark.parametrize(
    ("device", "devices", "parts", "peak"),
    [
        (13500, 4, 1, 4500),  # exactly a third of a device
        (13499, 4, 4, 1500),
        (13499, 3, 3, 1834),
        (13499, 1, 1, 4500),
    ],
)
def test_rows_are_split_above_a_third_of_a_device(device, devices, parts, peak):
    limits = memory.Limits(device, 10000, devices)
    assert memory.parts(PLAN, limits) == parts
    assert memory.device_peak(PLAN, limits) == peak


def test_what_fits_passes_and_what_does_not_is_refused_with_all_figures():
    memory.check("s.bank", PLAN, memory.Limits(1500, 9000, 4))
    with pytest.raises(ValueError, match="on the devices: s.bank") as caught:
        memory.check("s.bank", PLAN, memory.Limits(1499, 9000, 4))
    for figure in (
        "1,000 rows of 10 numbers, 100 kept",
        "bank 3.9 KiB",
        "128 rows compared",
        "needs 1.5 KiB on each device (split over 4 devices), 8.8 KiB on the host",
        "there are 1.5 KiB on each device and 8.8 KiB on the host",
    ):
        assert figure in str(caught.value)
    with pytest.raises(memory.MemoryLimitError, match="on the host"):
        memory.check("s.bank", PLAN, memory.Limits(1500, 8999, 4))
    with pytest.raises(memory.MemoryLimitError, match="on the devices and the host"):
        memory.check("s.bank", PLAN, memory.Limits(1499, 8999, 4))


def banked(rows=100, dimensions=7, chunk_bytes=2000):
    bank = knn.build(np.ones((rows, dimensions), np.float32), chunk_bytes)
    return State(params={"w": np.zeros(5, np.float32)}, memory={"bank": bank, "x": 1})


def test_the_plan_of_a_loaded_bank_counts_its_arrays():
    state = banked()._replace(memory={"bank": banked().memory["bank"]})
    found = memory.of_banks(("bank", "absent"), state)
    assert (found.rows, found.dimensions) == (100, 7)
    assert found.split_bytes == 4 * 100 * (7 + 2)
    assert found.whole_bytes == 4 * 7 + 4 * 5 + 2000
    assert (
        memory.of_banks((), state) is None and memory.of_banks(("b",), State()) is None
    )
    needed = found.split_bytes + found.whole_bytes
    for device, names in ((3 * needed, ()), (3 * needed - 1, ("bank",))):
        limits = memory.Limits(device, 0, 2)
        assert memory.banks_to_split("s", ("bank", "absent"), state, limits) == names
    limits = memory.Limits(found.split_bytes // 2 + found.whole_bytes - 1, 0, 2)
    with pytest.raises(memory.MemoryLimitError, match="100 rows of 7 numbers"):
        memory.banks_to_split("s", ("bank",), state, limits)


class Scarce:
    """A function that exhausts memory until every chunk is small enough."""

    def __init__(self, enough, error="RESOURCE_EXHAUSTED: Out of memory\nmore"):
        self.enough, self.error, self.seen = enough, error, []

    def __call__(self, state):
        self.seen.append(state.memory["bank"].chunk_bytes)
        if self.seen[-1] > self.enough:
            raise jax.errors.JaxRuntimeError(self.error)
        return "done"


def test_memory_that_runs_out_halves_the_chunk_three_times(monkeypatch):
    said = []
    monkeypatch.setattr(absl_logging, "warning", lambda *a: said.append(a[0] % a[1:]))
    state = banked(chunk_bytes=2000)
    scarce = Scarce(enough=250)
    result, smaller = memory.with_smaller_chunks(scarce, state, "the plan")
    assert result == "done" and scarce.seen == [2000, 1000, 500, 250]
    assert smaller.memory["bank"].chunk_bytes == 250 and smaller.memory["x"] == 1
    np.testing.assert_array_equal(
        smaller.memory["bank"].rows, state.memory["bank"].rows
    )
    assert len(said) == 3 and "half the chunk: the plan" in said[0]

    scarce = Scarce(enough=249)
    with pytest.raises(
        memory.MemoryLimitError, match=r"ran out \(RES.*memory\): the pl"
    ):
        memory.with_smaller_chunks(scarce, state, "the plan")
    assert scarce.seen == [2000, 1000, 500, 250] and len(said) == 6


def test_other_errors_pass_and_without_a_bank_nothing_is_tried_again():
    scarce = Scarce(enough=0, error="INTERNAL: broken")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory.with_smaller_chunks(scarce, banked(), "the plan")
    assert len(scarce.seen) == 1
    calls = []

    def fail(tree):
        calls.append(tree)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with pytest.raises(memory.MemoryLimitError):
        memory.with_smaller_chunks(fail, {"x": np.ones(3)}, "the plan")
    assert len(calls) == 1


def test_a_real_allocation_that_fails_is_recognised():
    def allocate(_):
        return jax.block_until_ready(jax.numpy.zeros(2**40, np.float32))

    with pytest.raises(memory.MemoryLimitError, match="ran out"):
        memory.with_smaller_chunks(allocate, {}, "the plan")


class Device:
    process_index = 0

    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


def test_limits_are_the_devices_own_or_shares_of_the_host():
    told = [Device({"bytes_limit": 70}), Device({"bytes_limit": 60})]
    assert memory.measure(told, host_bytes=90) == memory.Limits(60, 90, 2)
    silent = [Device(None)] * 3
    assert memory.measure(silent, host_bytes=90) == memory.Limits(30, 90, 3)
    assert memory.measure(told, 5, 6) == memory.Limits(5, 6, 2)
    real = memory.measure(jax.devices())
    assert 0 < real.device_bytes <= real.host_bytes // 4 + 1


def test_free_host_memory_is_what_linux_and_the_container_leave(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\n")
    assert memory.free_host_bytes(meminfo, tmp_path) == 5000 * 1024
    two = tmp_path / "two"
    two.mkdir()
    (two / "memory.max").write_text("max\n")
    (two / "memory.current").write_text("700\n")
    (two / "memory.stat").write_text("anon 3\ninactive_file 40\n")
    assert memory.free_host_bytes(meminfo, two) == 5000 * 1024
    (two / "memory.max").write_text("1000\n")
    assert memory.free_host_bytes(meminfo, two) == 340
    one = tmp_path / "one" / "memory"
    one.mkdir(parents=True)
    (one / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (one / "memory.usage_in_bytes").write_text("700\n")
    (one / "memory.stat").write_text("total_inactive_file 0\n")
    assert memory.free_host_bytes(meminfo, one.parent) == 5000 * 1024
    (one / "memory.limit_in_bytes").write_text("600\n")
    assert memory.free_host_bytes(meminfo, one.parent) == 0
    assert memory.free_host_bytes(tmp_path / "absent", tmp_path) > 2**20


def test_the_peak_of_the_host_is_what_linux_says_of_this_process(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t 9999 kB\nVmHWM:\t    1234 kB\n")
    assert memory.host_peak_bytes(status) == 1234 * 1024
    before = memory.host_peak_bytes()
    grown = np.ones(2**25)  # 256 MiB
    assert memory.host_peak_bytes() >= grown.nbytes
    assert memory.host_peak_bytes() >= before


@pytest.mark.parametrize("text", ["Name:\tpython\n", "", None, "VmHWM:\tmuch\n"])
def test_where_linux_says_nothing_the_usual_figure_counts(tmp_path, text):
    if text is not None:
        (tmp_path / "status").write_text(text)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert memory.host_peak_bytes(tmp_path / "status") >= used * 1024


def test_the_peak_is_the_device_s_where_it_tells(monkeypatch):
    class Device:
        def __init__(self, statistics):
            self.memory_stats = lambda: statistics

    for statistics in (None, {}, {"bytes_in_use": 7}):
        monkeypatch.setattr(jax, "local_devices", lambda x=statistics: [Device(x)])
        before, found = memory.host_peak_bytes(), memory.peak_bytes()
        assert before <= found <= memory.host_peak_bytes()
    monkeypatch.setattr(
        jax, "local_devices", lambda: [Device({"peak_bytes_in_use": 7})]
    )
    assert memory.peak_bytes() == 7
