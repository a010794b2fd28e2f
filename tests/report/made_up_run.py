"""A small run's workdir, made of smooth blobs."""

import csv
import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

SIZE = 32
MARKUP = '<script>alert("1")</script> & $\\frac$ ü'
# P-value, verdict and boxes of every other sample.
DECIDED = ((0.5, "good", ""), (0.04, "defective", "2 3 9 11; 20 20 24 26"))
POINT = {
    **{"alpha": 0.05, "threshold": 1.25, "pixel_threshold": 1.25},
    **{"false_alarm_rate": 0.5, "detection_rate": None},
    "calibration": {
        **{"source": "held_out", "samples": 24, "smallest_alpha": 0.04},
        **{"bound": 0.05},
    },
}
DEFECTS = ("good", "dent", MARKUP)


def file_name(defect: str, stem: str) -> str:
    """Spells out how the evaluator names the files of these defects."""
    tag = "%3cscript%3ealert%28%221%22%29%3c%2fscript%3e"
    plain = f"{tag}%20%26%20%24%5cfrac%24%20ü" if defect == MARKUP else defect
    return f"{plain}_{stem}.npz"


def blob(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns a smooth map [H,W] float32 and a square mask."""
    noise = ndimage.gaussian_filter(random.normal(size=(SIZE, SIZE)), 3)
    row, column = random.integers(4, SIZE - 10, 2)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[row : row + 6, column : column + 6] = True
    return noise.astype(np.float32), mask


def sample_arrays(
    random: np.random.Generator, map: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns what the evaluator writes for a chosen sample."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) / SIZE
    z = 0.5 + 0.05 * (x - 0.5) ** 2
    xyz = np.stack([x * 0.1, y * 0.1, z], -1).astype(np.float32)
    valid = np.ones((SIZE, SIZE, 1), bool)
    valid[:4] = False
    return {
        "rgb": random.uniform(size=(SIZE, SIZE, 3)).astype(np.float32),
        "depth": z[..., None],
        "xyz": xyz,
        "valid": valid,
        "foreground": valid,
        "map": map,
        "mask": mask,
        "part/map_quarter": map[::4, ::4, None],
        "part/reconstruction_rgb_full": np.stack([x, y, x], -1),
        "part/reconstruction_depth_full": z[..., None] * 3 - 1,
        "part/importance": y[..., None],
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_metrics(workdir: Path, **changes: object) -> None:
    """Changes entries of metrics.json."""
    path = workdir / "metrics.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def make_run(folder: Path) -> None:
    """Fills the workdir of a made-up run: 4 good and 8 defective samples."""
    random = np.random.default_rng(3)
    (folder / "maps" / "samples").mkdir(parents=True)
    rows = []
    for defect in DEFECTS:
        for number in range(4):
            map, mask = blob(random)
            mask = mask & (defect != "good")
            map = map + 0.3 * ndimage.gaussian_filter(mask.astype(np.float32), 1)
            stem = f"{number:03d}"
            name = file_name(defect, stem)
            np.savez(folder / "maps" / name, map=map, mask=mask)
            if number in (0, 3):
                arrays = sample_arrays(random, map, mask)
                np.savez(folder / "maps" / "samples" / name, **arrays)
            score = float(np.float32(map.max()))
            row = ("part", defect, stem, 7, int(defect != "good"), score, 0.01)
            rows.append((*row, *DECIDED[number % 2]))
    with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heads = ("category", "defect", "stem", "id", "label", "score")
        writer.writerow((*heads, "p_value", "verdict", "boxes"))
        writer.writerows((*row[:6], *row[7:]) for row in rows)
    labels, scores = [row[4] for row in rows], [row[5] for row in rows]
    figures = {
        "i_auroc": roc_auc_score(labels, scores),
        "i_ap": average_precision_score(labels, scores),
        "p_auroc": 0.91234,
        "aupro_10": 0.54321,
        "aupro_05": 0.43219,
        "aupro_01": None,
        "aupro_30_compat": 0.65432,
        "p_ap": 0.32198,
        "i_f1max": 0.87651,
        "p_f1max": 0.21987,
        "notes": {
            "aupro_01": "undefined: <b>made up</b>",
            "detection_rate": "undefined: so it was <b>made up</b>",
        },
    }
    part = dict.fromkeys(figures, 0.12345) | {"i_ap": None, "notes": {"i_ap": "why"}}
    facts = {"system": "dbrn", "category": "part", "seed": 4711, "steps": 30}
    facts |= {"seconds_fit": 12.25, "weights": {"backbone": "random"}, "commit": None}
    write_json(
        folder / "metrics.json",
        figures | facts | POINT | {"parts": {"map_quarter": part}},
    )
    write_json(folder / "config.json", {"data": {"category": "part"}, "seed": 4711})
    records = [{"kind": "event", "event": "start"}] + [
        {"kind": "train", "phase": "fit", "step": s, "loss": 1 / (s + 1), "ssim": 0.5}
        for s in range(30)
    ]
    lines = "\n".join(json.dumps(record) for record in records)
    (folder / "log.jsonl").write_text(lines + "\n", encoding="utf-8")
