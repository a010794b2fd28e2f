"""The systems, one file each, and the literal table of them."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from ad3d_jax.base import System
from ad3d_jax.systems import (
    btf,
    cfm,
    cpmf,
    das3d,
    dbrn,
    draem,
    easynet,
    fields,
    padim,
    patchcore,
    simplenet,
)
from ad3d_jax.systems.dsr import dsr as dsr2d
from ad3d_jax.systems.dsr import dsr3d
from ad3d_jax.systems.entry import Entry, imported
from ad3d_jax.systems.m3dm import config as m3dm_config
from ad3d_jax.systems.m3dm import m3dm, m3dm_nr
from ad3d_jax.systems.shape_guided import shape_guided

SYSTEMS: dict[str, Entry] = {
    "btf": Entry(btf.Config, btf.btf, {}),
    "cfm": Entry(cfm.Config, cfm.cfm, cfm.HYPER),
    "cpmf": Entry(cpmf.Config, cpmf.cpmf, {}),
    "das3d": Entry(das3d.Config, das3d.das3d, das3d.HYPER),
    "dbrn": Entry(dbrn.Config, dbrn.dbrn, dbrn.HYPER),
    "draem": Entry(draem.Config, draem.draem, draem.HYPER),
    "dsr": Entry(dsr2d.Config, dsr2d.dsr, dsr2d.HYPER),
    "dsr3d": Entry(dsr3d.Config, dsr3d.dsr3d, dsr3d.HYPER),
    "easynet": Entry(easynet.Config, easynet.easynet, easynet.HYPER),
    "m3dm": Entry(m3dm_config.Config, m3dm.m3dm, m3dm_config.HYPER),
    "m3dm_nr": Entry(m3dm_nr.Config, m3dm_nr.m3dm_nr, m3dm_config.HYPER),
    "padim": Entry(padim.Config, padim.padim, {}),
    "patchcore": Entry(patchcore.Config, patchcore.patchcore, {}),
    "shape_guided": Entry(
        shape_guided.Config, shape_guided.shape_guided, shape_guided.HYPER
    ),
    "simplenet": Entry(simplenet.Config, simplenet.simplenet, simplenet.HYPER),
}


def entry_of(name: str) -> Entry:
    """Returns a row of SYSTEMS, or the system outside that `module:NAME` names.

    Raises:
        ValueError: there is none; the nearest name is given. See `entry.imported`.
    """
    if ":" in name:
        return imported(name)
    if name not in SYSTEMS:
        raise ValueError(f"system: unknown name {name!r}{nearest(name, SYSTEMS)}")
    return SYSTEMS[name]


def build(name: str, model: Mapping[str, Any]) -> System:
    """Returns the named system with `model` as its configuration.

    Raises:
        ValueError: the system or a field is unknown (the nearest name is given), or a
            value is of another type than the field's default.
    """
    entry = entry_of(name)
    defaults = {f.name: f.default for f in dataclasses.fields(entry.config)}
    values = {}
    for field, value in model.items():
        if field not in defaults:
            raise ValueError(f"model.{field}: no such field{nearest(field, defaults)}")
        values[field] = tuple(value) if isinstance(value, list | tuple) else value
        expected = type(defaults[field])
        if not isinstance(values[field], expected):
            raise ValueError(
                f"model.{field}: expected {expected.__name__}, found {value!r}"
            )
    return entry.factory(entry.config(**values))


def check_field(system: str, name: str, value: Any) -> None:
    """Raises ValueError where one field of a system's structure may not hold a value.

    It is looked at alone: what fits together is told where the system is built.
    """
    known = _fields_of(system)
    if name in known:
        fields.check(known[name], value)


def field_words(system: str, name: str) -> str:
    """Returns what a field of a system's structure may hold, "" for anything."""
    known = _fields_of(system)
    return fields.words(known[name]) if name in known else ""


def _fields_of(system: str) -> dict[str, dataclasses.Field]:
    config = entry_of(system).config
    if not issubclass(config, fields.Fields):  # it says nothing of what it may hold
        return {}
    return {field.name: field for field in dataclasses.fields(config)}


def nearest(name: str, known) -> str:
    """Returns '; did you mean X?' for the known name closest to `name`, or ''."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {sorted(known)}"
