"""Names that only a file system finds usual, through a whole run and a prediction."""

import csv
from html.parser import HTMLParser

import ad3d_jax as ad
from ad3d_jax.workdir import names
from ad3d_jax.workdir.csv_files import text_of
from ad3d_jax.workdir.scores import read_scores

CLASS = "größe\n\udce9"
STEMS = (
    *("\udcff\udcfe", "x" * 200, "a\nb", "=1+1", "-rf", "ü 部", 'a,"b'),
    "<img src=x onerror=y>",
)
FIELDS = {
    "data.image_size": 56,
    "eval.images_per_defect": 1,
    "fit.engine": "jit",
}


def tree(folder):
    """Returns what is known of everything in a folder without opening it."""
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (s.st_mode, s.st_size, s.st_mtime_ns) for path, s in found.items()}


class Tags(HTMLParser):
    """Keeps the names of attributes of a page."""

    def __init__(self):
        super().__init__()
        self.attributes = set()

    def handle_starttag(self, tag, attrs):
        self.attributes |= {name for name, _ in attrs}


def test_a_whole_run_and_a_prediction(write, tmp_path):
    """Nothing is written beside the data, whoever may write there."""
    folder = write.whole(tmp_path / "data", CLASS, train=2)
    for number, stem in enumerate(STEMS):
        write.sample(folder / "train/good", stem, 20 + number)
        write.sample(folder / "test/dent", stem, 40 + number, gt=255)
    for place in [folder, *folder.rglob("*")]:
        place.chmod(0o555 if place.is_dir() else 0o444)
    before = tree(folder.parent)
    run = ad.Experiment(
        "btf:raw",
        data=folder.parent,
        category=CLASS,
        workdir=tmp_path / "run",
        set={**FIELDS, "data.cache": str(tmp_path / "cache")},
    )
    run.fit()
    run.evaluate()
    rows = read_scores(run.workdir / names.SCORES)
    dents = {*STEMS, "000", "001"}
    assert {row.stem for row in rows if row.defect == "dent"} == dents
    tags = Tags()
    tags.feed(run.report.read_text(encoding="utf-8"))
    assert "src" in tags.attributes and "onerror" not in tags.attributes
    path = ad.inspect(run.workdir, folder / "test/dent", tmp_path / "out")
    with path.open(newline="", encoding="utf-8") as file:
        found = {text_of(row["name"]) for row in csv.DictReader(file)}
    assert found == dents
    for images in ("heat_maps", "overlays"):
        assert len(list((tmp_path / "out" / images).iterdir())) == len(dents)
    assert tree(folder.parent) == before
