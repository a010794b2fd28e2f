"""Parts of the reconstruction line: images, codes, the gate, health of codebooks."""

import json

import numpy as np
import pytest
from made_up_run import file_name
from PIL import Image
from test_report_page import made

from ad3d_jax.report import charts, codebooks, gallery
from ad3d_jax.report.files import Sample
from ad3d_jax.report.markup import PANEL
from ad3d_jax.report.panels import checked, gate_taken, part_panels, part_scales

SIDE = 96  # more than a quarter of a panel: images are interpolated


def shown(**parts) -> dict[str, np.ndarray]:
    """Returns the panels of a sample's parts by title."""
    arrays = {f"part/{name}": array for name, array in parts.items()}
    sample, gaps = checked(Sample("hole_000", arrays))
    assert not gaps
    panels = part_panels(sample, part_scales([sample]))
    return {panel.title: panel.image for panel in panels}


def test_codes_keep_their_colours_and_images_are_interpolated():
    colours = np.random.default_rng(0).uniform(size=(5, 3))
    index = np.random.default_rng(1).integers(0, 5, (SIDE // 4, SIDE // 4))
    codes = colours[index.repeat(4, 0).repeat(4, 1)].astype(np.float32)
    images = shown(codes_lo=codes, reconstruction_rgb=codes)
    found = np.unique(images["codes_lo"].reshape(-1, 3), axis=0)
    expected = np.unique(np.rint(colours * 255).astype(np.uint8), axis=0)
    np.testing.assert_array_equal(found, expected)
    assert images["codes_lo"].shape == (PANEL, PANEL, 3)
    assert len(np.unique(images["reconstruction_rgb"].reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("taken", [0, 1])
def test_a_gate_is_words_and_no_image(taken):
    gate = np.full((8, 8, 1), taken, np.float32)
    sample, _ = checked(Sample("a", {"part/gate": gate}))
    assert gate_taken(sample) is bool(taken)
    assert set(shown(gate=gate, map_rgb=gate * 0)) == {"map_rgb"}


def test_a_gate_that_differs_over_the_image_is_drawn():
    gate = np.zeros((8, 8, 1), np.float32)
    gate[2] = 1
    assert set(shown(gate=gate)) == {"gate"}


def test_the_page_says_what_the_gate_took_and_what_parts_show(workdir):
    for number, stem in enumerate(("000", "003")):
        path = workdir / "maps" / "samples" / file_name("dent", stem)
        gate = np.full((32, 32, 1), number, np.float32)
        np.savez(path, **{**np.load(path), "part/gate": gate})
    words = made(workdir).words
    assert words.count("gate: RGB only") == words.count("gate: fusion") == 1
    assert "How the system thinks that the part would look" in words


def write_log(workdir, codes=512, **values):
    (workdir / "config.json").write_text(json.dumps({"model": {"codes": codes}}))
    steps = [{"kind": "train", "phase": "dada", "step": s, **values} for s in (0, 20)]
    lines = "\n".join(json.dumps(step) for step in steps)
    (workdir / "log.jsonl").write_text(lines + "\n")


def test_a_collapse_is_said(workdir):
    write_log(workdir, perplexity_lo=7.4, dead_lo=500, perplexity_hi=300, dead_hi=12)
    words = made(workdir).words
    assert "Codebook lo, at the last record: as varied as 7 codes in even use" in words
    assert "500 of 512 codes dead." in words and "12 of 512 codes dead." in words
    assert "Codebook lo has collapsed." in words
    assert "Codebook hi has collapsed." not in words
    assert "Low values mean that few codes do all the work." in words


def test_the_codes_of_one_class_need_not_be_all():
    words = codebooks.sentences({"class_perplexity_lo": 7, "class_dead_lo": 500}, 512)
    assert "Codebook lo on this class" in words and "500 of 512 codes unused" in words
    assert "collapsed" not in words


def test_what_is_not_known_of_codebooks_is_not_said(workdir):
    assert codebooks.size({"model": {}}) is None and codebooks.size({}) is None
    record = {"perplexity_lo": 7.0, "dead_lo": 500.0}
    assert "collapsed" not in codebooks.sentences(record, None)
    assert codebooks.sentences({"perplexity_lo": float("nan"), "dead_lo": 1}, 4) == ""
    assert codebooks.sentences({"perplexity_lo": 7.0}, 4) == ""
    assert codebooks.sentences({"loss": 1.0}, 4) == ""


def test_half_of_the_codes_may_be_dead():
    for dead, said in ((256, False), (257, True)):
        words = codebooks.sentences({"perplexity_a": 9.0, "dead_a": dead}, 512)
        assert ("has collapsed" in words) is said


def draw(title, mask, depth):
    rgb = np.full((8, 8, 3), 0.5, np.float32)
    images = {
        "clean_rgb": rgb,
        "altered_rgb": np.where(mask, np.float32([1, 0, 0]), rgb),
        "clean_depth": depth,
        "altered_depth": np.where(mask, np.float32(0.9), depth),
        "mask": mask.astype(np.float32),
    }
    return gallery.Draw(title, images, depth > 0)


def test_a_gallery_shows_each_draw_and_counts_them(tmp_path):
    mask = np.zeros((8, 8, 1), bool)
    mask[2:4, 2:6] = True
    depth = np.zeros((8, 8, 1), np.float32)
    depth[1:7, 1:7] = np.linspace(0.2, 0.5, 6)[:, None, None]
    draws = [draw("a & b", mask, depth), draw("c", mask & False, depth)]
    page = gallery.write_gallery(tmp_path / "g", "T", draws, {"hyper.x": "0.5"})
    words = page.read_text(encoding="utf-8")
    assert "1 of 2 draws are anomalous (50 %)." in words
    assert "cover 12.5 % of the image on average, 12.5 % in the median" in words
    assert "a &amp; b" in words and "hyper.x" in words
    assert words.count("<img") == 10 and words.count("data:image/") == 10
    with Image.open(page.parent / "sheet.png") as image:
        width, height = image.size
    assert width > 5 * gallery.TILE and height > 2 * gallery.TILE


def test_clean_and_altered_depth_share_their_colours():
    mask = np.zeros((8, 8, 1), bool)
    mask[2, 2] = True
    depth = np.zeros((8, 8, 1), np.float32)
    depth[1:7, 1:7] = np.linspace(0.2, 0.5, 6)[:, None, None]
    (row,) = gallery.tiles([draw("a", mask, depth)])
    assert list(row) == [
        *("clean_rgb", "clean_depth", "altered_rgb", "altered_depth", "mask")
    ]
    same = (row["clean_depth"] == row["altered_depth"]).all(-1)
    np.testing.assert_array_equal(same, ~mask[..., 0])
    assert (row["clean_depth"][0, 0] == gallery.colors.UNMEASURED).all()
    np.testing.assert_array_equal(row["mask"][..., 0] == 255, mask[..., 0])


def test_a_name_in_a_chart_is_no_formula():
    assert charts.short("a$b$") == r"a\$b\$"
    assert "\n" not in charts.short("a\nb") and charts.short("caf\udce9").encode()
