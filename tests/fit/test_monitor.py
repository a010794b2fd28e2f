"""What a training says of its steps."""

import types

import numpy as np

from ad3d_jax.fit.fit import Options
from ad3d_jax.fit.monitor import NOT_APPLIED, Account
from ad3d_jax.workdir.log import Log, read_log


def test_a_step_that_is_not_applied_is_an_event_of_the_log(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        account = Account("main", 4, 2, Options(batch_size=2, patience=3), log)
        for step, bad in ((1, 0), (2, 1), (3, 2), (4, 0)):
            report = types.SimpleNamespace(values={"loss": 0.5}, bad=bad)
            account.take(step, np.arange(2), report)
    events = [e for e in read_log(tmp_path / "log.jsonl") if e["kind"] == "event"]
    assert [(e["event"], e["phase"], e["step"]) for e in events] == [
        (NOT_APPLIED, "main", 2),
        (NOT_APPLIED, "main", 3),
    ]
