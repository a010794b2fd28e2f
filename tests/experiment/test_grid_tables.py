"""Tables made of a grid's files."""

import csv
import json
import re

import pytest

from ad3d_jax.experiment import table_files, tables
from ad3d_jax.experiment.cells import cell_folder
from ad3d_jax.report import markup

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
    text = (table_files.write_tables(grid)[0]).read_text()
    head = next(line for line in text.splitlines() if "| system" in line)
    assert "| cable_gland | cable_gland (published) | rope | rope (published)" in head
    assert head.endswith("| mean | mean of all classes (published) |")
    row = next(line for line in text.splitlines() if line.startswith("| draem:cpu"))
    assert row.startswith("| draem:cpu | 0.850 ± 0.071 | 0.952 | 0.700 ± 0.141 | 0.994")


def test_one_class_has_no_mean(grid):
    content = json.loads((grid / "grid.json").read_text())
    content["categories"] = ["cable_gland"]
    (grid / "grid.json").write_text(json.dumps(content))
    text = table_files.write_tables(grid)[0].read_text()
    assert "| system | cable_gland | cable_gland (published) |\n" in text


def test_no_published_figure_stands_beside_other_data(grid):
    content = json.loads((grid / "grid.json").read_text())
    (grid / "grid.json").write_text(json.dumps({**content, "dataset": "sample_set"}))
    assert not any(row.published for row in tables.table(grid, "i_auroc"))
    assert "published" not in table_files.write_tables(grid)[0].read_text()


def test_gaps_are_shown_with_their_reasons(grid):
    markdown, table, page, _ = table_files.write_tables(grid)
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
    texts = [path.read_text() for path in table_files.write_tables(tmp_path)]
    markdown, table, page, latex = texts
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
    command = r"\textless{}img src=x\textgreater{}\textbar{}{*}{[}a](b) =1?"
    assert f"system & {command} & @sum & mean" in latex
    assert r"=cmd\textbar{}\textquotesingle{}/c calc" in latex


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
        table_files.put_into(readme, "table", content)
        assert readme.read_text() == (
            f"before\n<!-- results of table -->\n{content}\n\n"
            "<!-- end of results -->\nafter\n"
        )
    with pytest.raises(ValueError, match="results of other"):
        table_files.put_into(readme, "other", "new")


def test_a_folder_without_a_grid_is_refused(tmp_path):
    with pytest.raises(ValueError, match="grid.json: there is no such file; name the"):
        table_files.write_tables(tmp_path)


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


@pytest.fixture
def controlled(grid):
    """The grid, whose `padim` was run with random weights, too."""
    content = json.loads((grid / "grid.json").read_text())
    content["controls"] = {"padim": ["backbone"]}
    content["settings"] = {"padim": ["weights.backbone=my_file.npz"]}
    (grid / "grid.json").write_text(json.dumps(content))
    for category, value in {"cable_gland": 0.95, "rope": 0.3}.items():
        place = grid / cell_folder("padim", category, 0, control=True)
        place.mkdir(parents=True)
        values = {**METRICS, "i_auroc": value, "mask_size": 256, "notes": {}}
        (place / "metrics.json").write_text(json.dumps(values))
    return grid


def test_a_control_stands_below_its_system_and_beside_no_paper(controlled):
    draem, padim, random = tables.table(controlled, "i_auroc")
    assert random.system == "padim (random weights)" and random.published == {}
    assert padim.ours["cable_gland"].mean == 0.75 and padim.published
    assert random.ours["cable_gland"].mean == 0.95
    assert random.ours["mean"].mean == 0.625
    markdown, table, page, _ = (
        path.read_text() for path in table_files.write_tables(controlled)
    )
    assert "\n| padim (random weights) | 0.950 | – | 0.300 | – | 0.625 | –" in markdown
    assert "padim (random weights),i_auroc,rope,0.3,,1," in table
    assert "<th>padim (random weights)</th>" in page
    assert "padim with weights.backbone=my_file.npz" in markdown


def test_latex_is_as_booktabs_has_it(controlled):
    """Read by eye once; ties as they are shown are all bold, published ones never."""
    text = table_files.write_tables(controlled)[3].read_text()
    table = text.split("\n\n")[1].splitlines()
    assert table[:2] == [r"\begin{table}", r"\centering"]
    caption = r"padim with weights.backbone=my\_file.npz.}"
    assert table[2].startswith(r"\caption{I-AUROC. Data: mvtec\_3d; maps of 256")
    assert table[2].endswith(caption)
    assert table[4:6] == [r"\begin{tabular}{lrrrrrr}", r"\toprule"]
    assert table[7:11] == [
        r"\midrule",
        r"draem:cpu & 0.850 $\pm$ 0.071 & 0.952 & \textbf{0.700 $\pm$ 0.141} & 0.994 "
        r"& \textbf{0.775 $\pm$ 0.106} & 0.876 \\",
        r"padim & 0.750 & 0.775 & \textendash{} & 0.832 & \textendash{} & 0.764 \\",
        r"padim (random weights) & \textbf{0.950} & \textendash{} & 0.300 "
        r"& \textendash{} & 0.625 & \textendash{} \\",
    ]
    assert table[11:13] == [r"\bottomrule", r"\end{tabular}"]
    assert r"\par\footnotesize padim, rope: seed 0: no anomalous image" in text
    assert table[-1] == r"\end{table}"
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 6
    ties = text.split(r"\label{tab:p_ap}")[1]
    assert ties.count(r"\textbf{0.500") == 9


@pytest.mark.parametrize(
    ("name", "latex"),
    [
        ("a_b & 5 % #1 $x$ {y}", r"a\_b \& 5 \% \#1 \$x\$ \{y\}"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a~b^c", r"a\textasciitilde{}b\textasciicircum{}c"),
        ("x--y---z", r"x-{}-y-{}-{}-z"),
        ("two\nlines\x00", "two lines"),
        ("ä 表", "ä 表"),
        ("[2mm]", "{[}2mm]"),
        ("*", "{*}"),
        ("?`", r"?\textasciigrave{}"),
    ],
)
def test_names_are_text_in_latex(name, latex):
    assert markup.latex(name) == latex
