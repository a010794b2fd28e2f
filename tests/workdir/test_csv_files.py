"""Names in CSV: no formula, no line break, nothing that is no UTF-8; all come back."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ad3d_jax.workdir.csv_files import as_csv, cell, text_of, write_csv
from ad3d_jax.workdir.scores import Row, read_scores, write_scores


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("000", "000"),
        ("hole, deep", "hole, deep"),
        ("=cmd|'/c calc'!A1", "'=cmd|'/c calc'!A1"),
        ("+1+1", "'+1+1"),
        ("-1-1", "'-1-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("'=1", "''=1"),
        ("it's", "it's"),
        ("a\nb\rc", r"a\u000ab\u000dc"),
        ("\t=1", r"\u0009=1"),
        ("caf\udce9", r"caf\udce9"),
        (r"a\u000ab", r"a\\u000ab"),
        ("-3e-12", "-3e-12"),  # a number
        ("-0.5", "-0.5"),
        ("nan", "nan"),
        ("é日本", "é日本"),
    ],
)
def test_a_name_is_written_and_comes_back(name, written):
    assert cell(name) == written
    assert text_of(written) == name


@pytest.mark.parametrize("value", [-1, -0.5, None, 3])
def test_numbers_stay_as_they_are(value):
    assert cell(value) is value


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_two_names_differ_and_come_back(first, second):
    assert text_of(cell(first)) == first
    assert (cell(first) == cell(second)) == (first == second)
    cell(first).encode()
    (line,) = csv.reader(io.StringIO(as_csv([first, second], [])))
    assert line == [cell(first), cell(second)]


def test_scores_of_odd_names_come_back(tmp_path):
    path = tmp_path / "scores.csv"
    stems = ("=cmd|x", "+1+1", "@a", "a\nb", "<img src=x>", "caf\udce9", "-5")
    rows = [Row("=b\udcff", "-d", stem, 1, 0, -1.5, 0.5, 1.0) for stem in stems]
    write_scores(path, rows)
    assert read_scores(path) == rows
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(stems)
    for line in csv.reader(lines[1:]):
        assert not [x for x in line if x and x[0] in "=+-@" and not _is_number(x)]


def _is_number(text):
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def test_a_table_is_written_whole(tmp_path):
    write_csv(tmp_path / "t.csv", ("name", "score"), [("=1", "-2"), ("b", 3)])
    assert (tmp_path / "t.csv").read_bytes() == b"name,score\r\n'=1,-2\r\nb,3\r\n"
