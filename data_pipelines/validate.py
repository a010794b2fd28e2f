"""Says what a data set holds and what is wrong with it.

    python -m data_pipelines.validate ROOT [--name=LAYOUT] [--write_sensor]

Every file is decoded. Of each class it prints how its files are read, a table by split
and defect, and each fault and warning with its path. Ends with 1 where anything is
wrong; warnings alone end with 0.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from ad3d_jax.workdir.places import local
from data_pipelines import command, layout, sensor_file
from data_pipelines.arrangements import MVTEC_3D, MVTEC_AD
from data_pipelines.errors import DatasetError
from data_pipelines.examine import Examined, examine
from data_pipelines.guess import guess
from data_pipelines.pairing import Fault
from data_pipelines.sensor import PLAIN, describe

HEADS = ("split", "defect", "samples", "files", "size", "measured", "distance, m")
COUNTS = ("masks", "faults", "warnings")
SHOWN = 3  # warnings of a kind


def validate(root: str | Path, category: str, name: str = MVTEC_3D) -> list[Fault]:
    """Decodes every file of a class and returns all faults and warnings.

    Args:
        root: folder that holds the classes.
        category: name of a class.
        name: of the folder layout, one of `layout.LAYOUTS`.

    Raises:
        DatasetError: there is no such class.
    """
    return list(examine(root, category, name).faults)


def main(words: list[str]) -> int:
    """Reports on the classes of the root that the command line names."""
    if len(words) != 1:
        raise flags.Error("expected one folder, the root of the classes")
    values, root = flags.FLAGS, str(local(words[0], "root"))
    if values.write_sensor and values.name == MVTEC_AD:
        raise flags.Error(f"--write_sensor: {MVTEC_AD} has images alone")
    names = values.category or layout.categories(root, values.name)
    if not names:
        raise DatasetError(
            f"{root}: no class of the layout {values.name} in it"
            f"{layout.itself_a_class(Path(root))}; expected\n{layout.EXPECTED}"
        )
    for fault in () if values.category else layout.strangers(root, values.name):
        _say(f"warning {fault}")
    wrong = [_report(root, name, values.name, values.write_sensor) for name in names]
    return command.MISTAKE if any(wrong) else command.DONE


def _report(root: str, category: str, name: str, write: bool) -> bool:
    """Reports on a class, whose sensor is declared first where that is asked for."""
    try:
        if write:
            _write(layout.category_folder(root, category, name))
        found = examine(root, category, name)
    except DatasetError as error:
        _say(f"fault {error}")  # other classes are looked at
        return True
    sensor = found.layout.sensor
    read = "images alone"
    if any("xyz" in row.files or "depth" in row.files for row in found.rows):
        declared = "nothing is declared" if sensor is None else "as declared"
        read = f"{describe(sensor or PLAIN)}; {declared}"
    _say(f"{category} ({name}): {read}")
    for line in table(found):
        _say(line)
    for line in listed(found.faults):
        _say(line)
    faults = sum(not fault.warning for fault in found.faults)
    odd = faults or any(fault.kind == "not_read" for fault in found.faults)
    if odd and sensor is None and name != MVTEC_AD:
        _advise(Path(root) / category)
    _say(f"{category}: {faults} faults, {len(found.faults) - faults} warnings")
    return bool(faults)


def table(found: Examined) -> list[str]:
    """Returns the lines of a table of what a class holds, by split and defect."""
    lines = [(*HEADS, *COUNTS)]
    for row in found.rows:
        lines.append(
            (
                *(row.split, row.defect, str(row.samples), " ".join(row.files)),
                " ".join(f"{h}x{w}" for h, w in row.sizes) or "-",
                _range(row.measured, "{:.0%}"),
                _range(row.distances, "{:.3g}"),
                *(str(row.masks), str(row.faults), str(row.warnings)),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def listed(faults: Sequence[Fault]) -> list[str]:
    """Returns a line for each fault, and for the first SHOWN warnings of a kind."""
    lines = [f"fault {fault}" for fault in faults if not fault.warning]
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        if fault.warning:
            kinds.setdefault(fault.kind, []).append(fault)
    for kind, found in kinds.items():
        lines += [f"warning {fault}" for fault in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"warning {kind}: {len(found) - SHOWN} more of this kind")
    return lines


def _range(values: tuple[float, float] | None, form: str) -> str:
    if values is None:
        return "-"
    low, high = (form.format(value) for value in values)
    return low if low == high else f"{low} to {high}"


def _write(folder: Path) -> None:
    """Writes what is guessed of a class's sensor beside its data, and says why."""
    path = folder / sensor_file.SENSOR
    if path.exists():
        raise DatasetError(f"{path}: is there already; remove it to have it guessed")
    found = guess(folder)
    for reason in found.reasons:
        _say(f"guess {folder}: {reason}")
    if found.sensor is None:
        raise DatasetError(f"{path}: is not written: {found.reasons[-1]}")
    sensor_file.write_sensor(path, found.sensor)
    _say(f"guess {path}: written; check it")


def _advise(folder: Path) -> None:
    """Says what could be declared of a class with faults, where that is not usual."""
    try:
        found = guess(folder)
    except (ValueError, OSError) as error:
        logging.info("%s: nothing is guessed: %s", folder, error)
        return
    if found.sensor is not None and found.sensor != PLAIN._replace(unit=1.0):
        told = f"{folder / sensor_file.SENSOR}: {describe(found.sensor)}"
        _say(f"guess {told}; --write_sensor writes it")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    flags.DEFINE_enum("name", MVTEC_3D, layout.LAYOUTS, "Layout of the root.")
    flags.DEFINE_list("category", [], "Classes; all of them where none is named.")
    flags.DEFINE_bool(
        "write_sensor", False, "Guess sensor.json of each class and write it."
    )
    command.run(main)
