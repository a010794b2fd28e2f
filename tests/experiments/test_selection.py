"""The selection experiment: its statistics on numbers made by hand, and resumption."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from ad3d_jax.evaluate import Scored
from ad3d_jax.metrics import exact
from experiments.benchmarks.selection import __main__ as command
from experiments.benchmarks.selection import agreement, grids, tables, values

ROOT = Path(__file__).resolve().parents[2]
PLANTED = {  # kind -> planted I-AUROC and AUPRO of four settings
    "cut": ((0.9, 0.8, 0.7, 0.6), (0.5, 0.6, 0.4, 0.3)),
    "bump": ((0.6, 0.7, 0.8, 0.5), (0.2, 0.3, 0.4, 0.1)),
}
REAL = {
    "aupro_30": (0.80, 0.85, 0.70, 0.60),
    "p_ap": (0.4, 0.3, 0.2, 0.1),
    "i_auroc": (0.7, 0.7, 0.7, 0.7),
}


@pytest.fixture
def cells():
    """Returns the cells of four settings, of which the first is the usual one."""
    return [cell(n) for n in range(4)]


def cell(number, category="gland", system="bank"):
    planted = {
        kind: {
            "i_auroc": image[number],
            "aupro_30": pixel[number],
            "aupro_05": pixel[number] / 2,
            "p_ap": pixel[number] / 3,
        }
        for kind, (image, pixel) in PLANTED.items()
    }
    real = {name: each[number] for name, each in REAL.items()}
    drawn = {name: [x, x, 1 - x] for name, x in real.items()}
    return {
        **{"category": category, "system": system, "name": f"setting {number}"},
        **{"usual": number == 0, "planted": planted, "real": real, "draws": drawn},
    }


def test_rankings_choices_and_distances_are_those_of_hand_made_numbers(cells):
    kinds = agreement.common_kinds(cells)
    # Ranks: cut 1 2 3 4 and 2 1 3 4; bump 3 2 1 4 and 3 2 1 4.
    merits = agreement.merits(cells, kinds)
    assert merits.tolist() == [-2.25, -1.75, -2.0, -4.0]
    found = agreement.correlation(cells, kinds, "aupro_30")
    expected = spearmanr(merits, REAL["aupro_30"]).statistic
    assert found.rho == pytest.approx(expected) == pytest.approx(0.8)
    # A third of the draws has the order reversed.
    spread = np.quantile([expected, expected, -expected], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(spread))
    assert agreement.chosen(cells, kinds) == 1
    choice = agreement.choice(cells, kinds, "p_ap")
    assert choice == pytest.approx((0.4, 0.3, 0.4, 0.25))
    means = np.array([0.35, 0.45, 0.4, 0.2])  # over kinds
    far = np.mean(np.abs(means - REAL["aupro_30"]))
    assert agreement.distance(cells, kinds, "aupro_30") == pytest.approx(far)


def test_a_kind_carries_the_ranking_by_what_is_lost_without_it(cells):
    kinds = agreement.common_kinds(cells)
    falls = agreement.without_each(cells, kinds, "aupro_30")
    real = REAL["aupro_30"]
    # Of ranks -1.5 -1.5 -3 -4 of cut alone, and -3 -2 -1 -4 of bump alone.
    cut = spearmanr([-1.5, -1.5, -3, -4], real).statistic
    bump = spearmanr([-3, -2, -1, -4], real).statistic
    assert falls == pytest.approx({"cut": 0.8 - bump, "bump": 0.8 - cut})
    assert falls["cut"] > 0 > falls["bump"]


def test_what_is_undefined_is_left_out_or_has_no_figure(cells):
    kinds = agreement.common_kinds(cells)
    assert agreement.correlation(cells, kinds, "i_auroc") == (None, None, None)
    cells[2]["planted"]["bump"]["aupro_30"] = None
    assert agreement.common_kinds(cells) == ["cut"]
    with pytest.raises(ValueError, match="metric"):
        agreement.real_of(cells, "f1")


def test_tables_have_a_line_for_each_group_and_for_all_systems(cells):
    other = [cell(n, system="flow") for n in range(4)]
    few = [cell(n, category="bun") for n in range(2)]
    page = tables.page([*cells, *other, *few])
    groups = list(dict(tables.grouped([*cells, *other, *few])))
    assert groups == [("gland", s) for s in ("bank", "flow", tables.ALL)]
    assert "| gland | bank | 4 | 0.800 (−0.720 to 0.800) |" in page
    assert "| setting 1 | 0.850 | 0.000 | 0.050 | 0.113 |" in page
    part = tables.rankings({("gland", "cfm"): [cell(n, system="cfm") for n in (0, 1)]})
    assert "| gland | cfm | 2 of 8 |" in part
    # Both grids are the same; ρ with I-AUROC is undefined, and so has no mean.
    assert "| gland | 2 | 0.800 | 0.800 | 0.400 | – | 0.000 | 0.000 | 0.050 |" in page
    assert "bun" not in page and tables.page(few).startswith("No class")


@pytest.fixture(scope="module")
def scored():
    """Returns 30 maps of which 18 have a defect, and their labels."""
    generator = np.random.default_rng(3)
    maps = generator.normal(size=(30, 24, 24)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    labels = np.repeat([0, 1], (12, 18))
    masks[12:, 4:9, 4:9], masks[20:, 15:18, 12:20] = True, True
    maps += masks
    image = maps.max((1, 2)) + labels.astype(np.float32) / 2
    return Scored(maps, masks, image, np.zeros(30), {}), labels


def test_a_draw_of_each_sample_once_has_the_exact_metrics(scored):
    found, labels = scored
    once = values.drawn_values(found, labels, np.ones((1, 30), int))
    expected = exact.evaluate(found.maps, found.masks, found.image, labels).values
    for name in values.METRICS:
        assert once[name] == pytest.approx([expected[name]], abs=2e-3), name


def test_a_draw_counts_samples_as_often_as_they_are_drawn(scored):
    found, labels = scored
    drawn = values.draws(labels, 3)
    assert (drawn[:, :12].sum(1) == 12).all() and (drawn[:, 12:].sum(1) == 18).all()
    assert (drawn != 1).any()
    several = values.drawn_values(found, labels, drawn)
    for number, times in enumerate(drawn):
        rows = np.repeat(np.arange(30), times)
        maps, masks = found.maps[rows], found.masks[rows]
        area = roc_auc_score(labels[rows], found.image[rows])
        assert several["i_auroc"][number] == pytest.approx(area, abs=1e-4)
        precision = average_precision_score(masks.ravel(), maps.ravel())
        assert several["p_ap"][number] == pytest.approx(precision, abs=2e-3)
        pro = exact.evaluate(maps, masks, found.image[rows], labels[rows]).values
        assert several["aupro_30"][number] == pytest.approx(pro["aupro_30"], abs=2e-3)


@pytest.mark.parametrize("name", grids.GRIDS)
def test_a_grid_has_eight_to_twelve_settings_and_the_usual_one_among_them(name):
    grid = grids.GRIDS[name]
    points = grids.points(grid)
    assert 8 <= len(points) <= 12
    assert sum(grids.is_usual(grid, point) for point in points) == 1
    assert len(set(grids.apart(points))) == len(points)
    for point in points:
        config = grids.configured(grid, point, "", {})
        assert config.data.image_size <= 224


def test_cells_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    made = []

    def instead(config, own, grounds, fitted, point):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(point)
        return {**cell(len(made) - 1, own.category, config.system)}

    monkeypatch.setattr(command, "cell", instead)
    own = command.class_of("biscuit", "", 20)
    with pytest.raises(KeyboardInterrupt):
        command.run(tmp_path, own, "simplenet", "", 60, [], None)
    assert len(command.cells_of(tmp_path)) == 3
    first, made[:] = list(made), []
    with pytest.raises(KeyboardInterrupt):
        command.run(tmp_path, own, "simplenet", "", 60, [], None)
    assert [x for x in made if x in first] == []
    assert len(command.cells_of(tmp_path)) == 6


def test_the_tables_of_the_docs_are_those_of_the_files():
    page = tables.page(command.cells_of(ROOT / "docs" / "results" / "selection"))
    assert page.strip() in (ROOT / "docs" / "selection.md").read_text()


def test_no_cell_begins_after_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "cell", lambda *_: pytest.fail("begun"))
    own = command.class_of("biscuit", "", 20)
    monkeypatch.setattr(command.time, "monotonic", iter([0.0, 60.0]).__next__)
    assert command.run(tmp_path, own, "padim", "", 1, [], None) == 0
