"""Rows of a prediction: whole lines alone, one for each sample, whatever its name."""

import pytest

from ad3d_jax.workdir.predictions import Prediction, Predictions

ROWS = [
    Prediction("a", 1.5, 0.25, "good", "", 0.125, "", "d0"),
    Prediction("=1+1\n", 2.5, 0.05, "defective", "1 2 3 4; 5 6 7 8", 0.25, "", "d1"),
    Prediction('c,"d"', error="c.png: is no image", sha256="d2"),
]


def written(path, rows=ROWS):
    found = Predictions(path)
    for row in rows:
        found.add(row)
    return path.read_bytes()


def same(one, other):
    return str(list(one)) == str(list(other))  # NaN is not itself


def test_rows_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "scores.csv"
    heads = b"name,score,p_value,verdict,boxes,seconds,error,sha256\r\n"
    assert written(path, []) == heads
    assert written(path).startswith(heads + b"a,1.5,0.25,good,,0.125,,d0\r\n'=1+1")
    assert same(Predictions(path), ROWS)
    assert Predictions(path).has("a", "d0") and not Predictions(path).has("a", "d1")
    assert not Predictions(path).has("d", "d0")


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_line_that_was_cut_off_is_no_row(tmp_path, cut):
    path = tmp_path / "scores.csv"
    whole = written(path)
    path.write_bytes(whole[:-cut])
    found = Predictions(path)
    assert same(found, ROWS[:2])
    found.add(ROWS[2])
    assert path.read_bytes() == whole


def test_a_file_without_its_first_line_is_begun_anew(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_bytes(b"name,sco")
    assert written(path).count(b"\r\n") == 1 + len(ROWS)


def test_a_row_takes_the_place_of_an_older_one(tmp_path):
    path = tmp_path / "scores.csv"
    written(path)
    new = ROWS[0]._replace(score=3.0, sha256="d9")
    Predictions(path).add(new)
    assert same(Predictions(path), [new, *ROWS[1:]])


@pytest.mark.parametrize("text", ["name,score\r\na,1\r\n", "\xff\r\n", "a,b\r\n"])
def test_another_table_is_refused(tmp_path, text):
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"scores\.csv"):
        Predictions(path)


def test_a_line_with_too_few_cells_is_refused(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_bytes(written(path) + b"e,1,0.5\r\n")
    with pytest.raises(ValueError, match="expected 8 cells"):
        Predictions(path)
