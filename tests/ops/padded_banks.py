"""Banks with padding, as the driver shares one between devices."""

import dataclasses

import numpy as np


def pad(bank, multiple):
    """Fills a bank up as the driver does the last device's share."""
    more = -len(bank.number) % multiple
    return dataclasses.replace(
        bank,
        rows=np.pad(bank.rows, [(0, more), (0, 0)]),
        half_norms=np.pad(bank.half_norms, (0, more), constant_values=np.inf),
        number=np.pad(bank.number, (0, more), constant_values=-1),
    )
