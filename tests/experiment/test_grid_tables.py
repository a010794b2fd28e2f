"""Tables made of a grid's files."""

import csv
import json
import re

import pytest

from ad3d_jax.experiment import tables
from ad3d_jax.experiment.cells import cell_folder

METRICS = dict.fromkeys(tables.METRICS, 0.5)


def cell(folder, system, category, seed, mask_size=256, notes=None, **metrics):
    place = folder / cell_folder(system, category, seed)
    place.mkdir(parents=True)
    content = {**METRICS, **metrics, "mask_size": mask_size, "notes": notes or {}}
    (place / "metrics.json").write_text(json.dumps(content))
    return place


@pytest.fixture
def grid(tmp_path):
    """Two systems, two classes, two seeds; one cell failed, one was never run."""
    folder = tmp_path / "table"
    folder.mkdir()
    content = {
        "systems": ["draem:cpu", "padim"],
        "categories": ["cable_gland", "rope"],
        "seeds": [0, 1],
        "dataset": "mvtec_3d",
        "mask_size": 256,
        "overrides": [],
    }
    (folder / "grid.json").write_text(json.dumps(content))
    for category, values in {"cable_gland": (0.8, 0.9), "rope": (0.6, 0.8)}.items():
        for seed, value in enumerate(values):
            cell(folder, "draem:cpu", category, seed, i_auroc=value)
    cell(folder, "padim", "cable_gland", 0, i_auroc=0.75)
    failed = folder / cell_folder("padim", "cable_gland", 1)
    failed.mkdir()
    (failed / "failed.json").write_text('{"code": 1, "reason": "error: <no> memory"}')
    why = {"i_auroc": "no anomalous image"}
    cell(folder, "padim", "rope", 0, i_auroc=None, notes=why)
    return folder


def test_means_and_spreads_by_hand(grid):
    draem, padim = tables.table(grid, "i_auroc")
    cable = draem.ours["cable_gland"]
    assert (round(cable.mean, 6), round(cable.spread, 6)) == (0.85, 0.070711)
    # By seed .7 and .85 over the classes.
    mean = draem.ours["mean"]
    assert (round(mean.mean, 6), round(mean.spread, 6)) == (0.775, 0.106066)
    assert padim.ours["cable_gland"][:3] == (0.75, None, 1)
    assert padim.ours["rope"].mean is None and padim.ours["mean"].mean is None


def test_published_figures_stand_apart(grid):
    draem, padim = tables.table(grid, "i_auroc")
    assert draem.published["cable_gland"][0] == 0.952  # of the full setting
    assert padim.published["rope"][0] != draem.published["rope"][0]
    text = (tables.write_tables(grid)[0]).read_text()
    head = next(line for line in text.splitlines() if "| system" in line)
    assert "| cable_gland | cable_gland (published) | rope | rope (published)" in head
    assert head.endswith("| mean | mean of all classes (published) |")
    row = next(line for line in text.splitlines() if line.startswith("| draem:cpu"))
    assert row.startswith("| draem:cpu | 0.850 ± 0.071 | 0.952 | 0.700 ± 0.141 | 0.994")


def test_one_class_has_no_mean(grid):
    content = json.loads((grid / "grid.json").read_text())
    content["categories"] = ["cable_gland"]
    (grid / "grid.json").write_text(json.dumps(content))
    text = tables.write_tables(grid)[0].read_text()
    assert "| system | cable_gland | cable_gland (published) |\n" in text


def test_no_published_figure_stands_beside_other_data(grid):
    content = json.loads((grid / "grid.json").read_text())
    (grid / "grid.json").write_text(json.dumps({**content, "dataset": "sample_set"}))
    assert not any(row.published for row in tables.table(grid, "i_auroc"))
    assert "published" not in tables.write_tables(grid)[0].read_text()


def test_gaps_are_shown_with_their_reasons(grid):
    markdown, table, page = tables.write_tables(grid)
    text = markdown.read_text()
    assert "padim, cable_gland: seed 1: failed: error: \\<no\\> memory" in text
    assert "padim, rope: seed 0: no anomalous image; seed 1: not run" in text
    assert "&lt;no&gt; memory" in page.read_text() and "<no>" not in page.read_text()
    with table.open(newline="") as file:
        rows = {
            (r["system"], r["metric"], r["category"]): r for r in csv.DictReader(file)
        }
    assert rows["padim", "i_auroc", "rope"]["ours"] == ""
    assert rows["padim", "i_auroc", "rope"]["published"] == "0.832"
    assert rows["draem:cpu", "i_auroc", "mean"]["seeds"] == "2"


def test_names_are_text_in_every_table(tmp_path):
    odd = "<img src=x>|*[a](b)\n=1\udcff"
    content = {
        "systems": ["=cmd|'/c calc'!A1"],
        "categories": [odd, "@sum"],
        "seeds": [0],
        "dataset": "<b>data</b>",
        "mask_size": 64,
        "overrides": ["data.root=`x`"],
    }
    (tmp_path / "grid.json").write_text(json.dumps(content))
    place = tmp_path / cell_folder(content["systems"][0], odd, 0)
    assert not place.exists()
    markdown, table, page = (p.read_text() for p in tables.write_tables(tmp_path))
    named = r"\<img src=x\>\|\*\[a\](b) =1?"
    head = next(line for line in markdown.splitlines() if line.startswith("| system"))
    assert head == rf"| system | {named} | @sum | mean |"
    assert r"Data: \<b\>data" in markdown and r"\`x\`" in markdown
    bare = re.sub(r"\\.", "", markdown)
    assert "<" not in bare and "`" not in bare
    rows = list(csv.reader(table.splitlines()))
    assert {row[0] for row in rows[1:]} == {"'=cmd|'/c calc'!A1"}
    assert rows[1][2] == r"<img src=x>|*[a](b)\u000a=1\udcff" and rows[2][2] == "'@sum"
    assert "<img" not in page and "<b>" not in page and "&lt;img src=x&gt;" in page


def test_maps_of_another_size_do_not_count(grid):
    cell(grid, "padim", "rope", 1, mask_size=128, i_auroc=0.9)
    _, padim = tables.table(grid, "i_auroc")
    assert "maps of 128 pixels, not 256" in padim.ours["rope"].note


def test_the_readme_is_filled_between_its_marks(grid, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- results of table -->\nold\n<!-- end of results -->\nafter\n"
    )
    for content in ("new", "newer \\1"):
        tables.put_into(readme, "table", content)
        assert readme.read_text() == (
            f"before\n<!-- results of table -->\n{content}\n\n"
            "<!-- end of results -->\nafter\n"
        )
    with pytest.raises(ValueError, match="results of other"):
        tables.put_into(readme, "other", "new")


def test_a_folder_without_a_grid_is_refused(tmp_path):
    with pytest.raises(ValueError, match="grid.json: there is no such file; name the"):
        tables.write_tables(tmp_path)


def test_published_figures_name_known_systems_and_sources():
    from ad3d_jax.systems import SYSTEMS

    with tables.PUBLISHED.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) > 400
    for line in lines:
        assert line["system"].partition(":")[0] in SYSTEMS, line
        assert line["metric"] in tables.METRICS and line["source"], line
        assert 0 < float(line["value"]) <= 1
    places = [tuple(line.values())[:4] for line in lines]
    assert len(set(places)) == len(places)
