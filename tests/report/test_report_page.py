"""The page is well formed, self-contained, complete, escaped, and shows its gaps."""

import csv
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from made_up_run import DEFECTS, MARKUP, edit_metrics, file_name, make_run
from sklearn.metrics import precision_recall_curve, roc_auc_score

from ad3d_jax.report import charts, decisions, write_report
from ad3d_jax.workdir import scores

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks the nesting of a page; collects its words, tags and links."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.tags, self.sources, self.links = [], [], [], []
        self.words, self.ids = "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.append(tag)
        self.sources += [named["src"]] if "src" in named else []
        self.links += [named["href"]] if "href" in named else []
        self.ids += [named["id"]] if "id" in named else []
        assert not any(name.startswith("on") for name in named)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def made(workdir: Path) -> Page:
    return Page(write_report(workdir))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Page]:
    """Returns workdir and page of a run that lacks nothing; not to be changed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    make_run(workdir)
    return workdir, made(workdir)


def rows_of(workdir: Path) -> list[dict]:
    with open(workdir / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(workdir: Path, rows: list[dict]) -> None:
    with open(workdir / "scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_page_is_self_contained(whole):
    workdir, page = whole
    assert page.sources and all(s.startswith("data:image/") for s in page.sources)
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert link.startswith("clouds/")
            assert (workdir / "report" / unquote(link)).is_file()
    assert sum(link.startswith("clouds/") for link in page.links) == 6
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in page.words and "url(" not in page.words


def test_every_number_of_the_metrics_is_shown(whole):
    workdir, page = whole
    metrics = json.loads((workdir / "metrics.json").read_text())
    parts = metrics.pop("parts")
    for name, value in metrics.items():
        if isinstance(value, float):
            shown = f"{value:.6g}" if name == "seconds_fit" else f"{value:.4f}"
            assert shown in page.words, name
    assert "4711" in page.words and "random" in page.words
    # Ten metrics of the part hold one value, and one is null.
    assert parts["map_quarter"]["i_ap"] is None
    assert page.words.count("0.1235") + page.words.count("0.1234") == 9
    assert "map_quarter, I-AP: why." in page.words


def test_headline_says_how_well_and_with_what_weights(whole):
    workdir, page = whole
    rows = rows_of(workdir)
    auroc = roc_auc_score(
        [int(r["label"]) for r in rows], [float(r["score"]) for r in rows]
    )
    assert "inspected 12 test images of part: 4 good and 8 defective" in page.words
    assert f"{100 * auroc:.1f} % of all pairs" in page.words
    assert "Weights: random." in page.words


def test_a_weights_file_is_named_with_its_digest_and_source(workdir):
    weights = {"file": "w.npz", "sha256": "0123456789abcdef" * 4, "source": None}
    edit_metrics(workdir, weights={"backbone": weights})
    words = made(workdir).words
    named = "file: w.npz, sha256: 0123456789ab, source: unknown"
    assert f"backbone: ({named})" in words
    assert "Weights: random." not in words


def test_markup_in_names_is_escaped(workdir):
    edit_metrics(workdir, system="<img src=x onerror=alert(1)>", extra_fact="<marquee>")
    page = made(workdir)
    assert not {"script", "marquee"} & set(page.tags)
    assert all(source.startswith("data:") for source in page.sources)
    assert MARKUP in page.words and "<b>made up</b>" in page.words
    raw = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in raw.lower() and "<img src=x" not in raw


def test_scores_that_are_one_rounding_apart_are_drawn():
    scores = np.nextafter(np.float32(0.5), np.float32([0, 1]))
    found = charts.score_chart({"good": scores, "hole": scores}, ["good"], None)
    assert len(found) > 1000  # bytes of an image


def test_defect_table_agrees_with_sklearn(whole):
    workdir, page = whole
    rows = rows_of(workdir)
    labels = np.array([int(r["label"]) for r in rows])
    scores = np.array([np.float32(r["score"]) for r in rows])
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    threshold = thresholds[np.argmax(f1[:-1])]
    assert f"The threshold {threshold:.5g} is" in page.words
    for defect in DEFECTS[1:]:
        mine = np.array([r["defect"] == defect for r in rows])
        against = mine | (labels == 0)
        area = roc_auc_score(labels[against], scores[against])
        found = int((scores[mine] >= threshold).sum())
        mean = scores[mine].astype(np.float64).mean()
        row = f"{defect}4{mean:.4f}{found} ({100 * found / 4:.0f} %){area:.4f}"
        assert row in page.words


def test_null_metric_is_a_dash_with_its_reason(workdir):
    notes = {"i_auroc": "no good image"}
    edit_metrics(workdir, i_auroc=None, notes=notes, weights={})
    page = made(workdir)
    assert "Weights: random." not in page.words and "weightsnone" in page.words
    assert "I-AUROC–" in page.words and "Note: no good image." in page.words
    assert "AUPRO @ 1 %–" in page.words
    assert "undefined, no reason was recorded" in page.words
    assert "How well it tells good from defective parts is not known." in page.words


def test_bounds_of_a_metric_are_said(workdir):
    edit_metrics(workdir, bounds={"p_auroc": [0.91, 0.93]})
    page = made(workdir)
    assert "The exact value lies in 0.9100 to 0.9300." in page.words
    assert "bounds" not in page.words


def test_missing_map_leaves_no_pixel_curve(workdir):
    (workdir / "maps" / file_name("dent", "001")).unlink()
    (workdir / "maps" / file_name("dent", "002")).write_bytes(b"PK\x03\x04 nonsense")
    page = made(workdir)
    assert "2 of 12 anomaly maps are missing or cannot be read" in page.words
    assert "No PRO curve: 2 of 12 anomaly maps are missing." in page.words
    assert "ROC over images." in page.words


def test_missing_score_leaves_no_image_curve_and_no_mean(workdir):
    rows = rows_of(workdir)
    rows[5]["score"] = "nan"
    write_rows(workdir, rows)
    page = made(workdir)
    assert "scores.csv has no score for dent_001." in page.words
    assert "No ROC and precision-recall curve: 1 of 12 samples have no score" in (
        page.words
    )
    assert "dent4–––" in page.words
    assert "PRO over pixels" in page.words


def test_one_kind_of_sample_leaves_a_gap(workdir):
    write_rows(workdir, [r for r in rows_of(workdir) if r["label"] == "1"])
    page = made(workdir)
    assert "curve: there is no good sample." in page.words
    assert "No threshold: there is no good sample." in page.words
    assert "scores.csv has no such sample." in page.words


def test_absent_category_is_named(workdir):
    config = {"data": {"category": ["part", "bolt"]}}
    (workdir / "config.json").write_text(json.dumps(config))
    assert "The category bolt was asked for and has no score." in made(workdir).words


def test_categories_are_not_pooled(workdir):
    rows = rows_of(workdir)
    rows[0]["category"] = "bolt"
    write_rows(workdir, rows)
    page = made(workdir)
    assert "scores of 2 categories cannot be ranked together" in page.words
    assert "No PRO curve: maps of several categories" in page.words


def test_broken_and_incomplete_samples_are_told(workdir):
    folder = workdir / "maps" / "samples"
    (folder / file_name("dent", "000")).write_bytes(b"no archive")
    path = folder / file_name("good", "000")
    arrays = dict(np.load(path))
    kept = {"map", "mask", "depth", "valid", "part/importance"}
    odd = {"part/seven": np.zeros((8, 8, 7), np.float32), "rgb": np.array(["text"])}
    np.savez(path, **{k: v for k, v in arrays.items() if k in kept}, **odd)
    page = made(workdir)
    assert f"The sample {file_name('dent', '000')} cannot be read" in page.words
    assert "part/seven is not drawn: it is float32 [8, 8, 7]" in page.words
    assert "rgb is not drawn" in page.words
    assert "No point cloud: xyz was not recorded." in page.words
    assert "No RGB image was recorded." in page.words
    assert sum(link.startswith("clouds/") for link in page.links) == 4


def test_unorganised_clouds_have_clouds_alone(workdir):
    for path in (workdir / "maps").rglob("*.npz"):
        arrays = {k: v for k, v in np.load(path).items() if not k.startswith("part/")}
        arrays.pop("rgb", None)
        flat = {k: v.reshape(1024, 1, *v.shape[2:]) for k, v in arrays.items()}
        np.savez(path, **flat)
    page = made(workdir)
    assert "No PRO curve: an unorganised cloud has no regions." in page.words
    assert page.words.count("An unorganised cloud has no images.") == 6
    assert sum(link.startswith("clouds/") for link in page.links) == 6


def test_empty_workdir_is_a_page_of_gaps(tmp_path):
    page = made(tmp_path)
    for name in ("config.json", "metrics.json", "log.jsonl", "scores.csv"):
        assert f"{name} cannot be read: there is no such file." in page.words
    assert "No training step was logged." in page.words
    assert "No sample was chosen for images." in page.words
    assert page.sources == []


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        write_report(tmp_path / "nowhere")


def test_files_of_two_runs_are_noticed(workdir):
    edit_metrics(workdir, i_auroc=0.111)
    assert "metrics.json says I-AUROC 0.1110, but scores.csv gives" in (
        made(workdir).words
    )


def test_log_of_a_resumed_run(workdir):
    lines = [
        {"kind": "train", "phase": "fit", "step": 28, "loss": float("nan")},
        {"kind": "train", "phase": "more", "step": 3, "loss": 2.0},
        {"kind": "start", "mode": "fit_eval"},
    ]
    with open(workdir / "log.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.write('{"kind": "tra')
    page = made(workdir)
    assert "fit: 30 records up to step 29." in page.words
    assert "loss is no number in 1 of 30 records." in page.words
    assert '{"kind": "start", "mode": "fit_eval"}' in page.words
    assert "more: 1 records up to step 3." in page.words
    assert "Lines of log.jsonl that are no records, left out: 1." in page.words


def test_report_is_repeatable_and_drops_old_clouds(workdir):
    first = write_report(workdir).read_bytes()
    stray = workdir / "report" / "clouds" / "stray.ply"
    stray.write_bytes(b"")
    assert write_report(workdir).read_bytes() == first
    assert not stray.exists()


def test_import_loads_no_matplotlib():
    code = (
        "import sys, ad3d_jax.report\n"
        "found = {'matplotlib', 'tensorflow', 'open3d'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_decisions_are_counted_by_type_and_nothing_stands_for_a_missing_rate(whole):
    words = " ".join(whole[1].words.split())
    compact = words.replace(" ", "")
    assert "24 good samples that were held out of train set the threshold" in words
    assert "thresholdofthemap1.25" in compact
    assert "(undefined: so it was <b>made up</b>)" in words
    assert "good42220.27" in compact  # images, called good, defective, with boxes
    assert "called defective, p = 0.04" in words


def test_without_a_calibration_the_page_says_why(workdir):
    edit_metrics(workdir, calibration=None, notes={"calibration": "it was left out"})
    assert "No decision was made: it was left out." in made(workdir).words


def test_boxes_are_drawn_where_the_map_is_flagged(workdir):
    with_boxes = decisions.box_mask(
        scores.read_scores(workdir / "scores.csv")[1], (32, 32)
    )
    expected = np.zeros((32, 32), bool)
    expected[2:9, 3:11] = expected[20:24, 20:26] = True
    np.testing.assert_array_equal(with_boxes, expected)
    before = made(workdir).sources
    rows = rows_of(workdir)
    write_rows(workdir, [row | {"boxes": ""} for row in rows])
    after = made(workdir).sources
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 3  # overlays
