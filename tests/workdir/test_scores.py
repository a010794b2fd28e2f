import math

import pytest

from ad3d_jax.base import MATCH
from ad3d_jax.workdir.csv_files import write_csv
from ad3d_jax.workdir.scores import Row, read_scores, write_scores
from ad3d_jax.workdir.unreadable import UnreadableError

ROWS = [
    Row("bun", "good", "000", 7, 0, 0.1234567891, 0.01234567, 0.5, "good"),
    Row(
        *("bun", "hole, deep", "0_1", 2**31 - 1, 1, -3e-12, 2.0, 0.04),
        *("defective", ((0, 1, 20, 33), (4, 4, 5, 5))),
    ),
]


def test_a_row_is_written_as_it_always_was(tmp_path):
    path = tmp_path / "scores.csv"
    write_scores(path, ROWS)
    assert path.read_bytes() == (
        b"category,defect,stem,id,label,score,seconds,p_value,verdict,boxes\r\n"
        b"bun,good,000,7,0,0.123456789,0.0123457,0.5,good,\r\n"
        b'bun,"hole, deep",0_1,2147483647,1,-3e-12,2,0.04,defective,'
        b"0 1 20 33; 4 4 5 5\r\n"
    )


def test_what_was_matched_stands_in_columns_of_its_own(tmp_path):
    path = tmp_path / "scores.csv"
    rows = [row._replace(match=(1, 2, 3, 4, i)) for i, row in enumerate(ROWS)]
    write_scores(path, rows)
    head, first, _ = path.read_text().splitlines()
    assert head.endswith(",boxes," + ",".join(MATCH))
    assert first.endswith(",1,2,3,4,0")
    assert [row.match for row in read_scores(path)] == [row.match for row in rows]


def test_rows_come_back(tmp_path):
    path = tmp_path / "scores.csv"
    rows = [row._replace(score=0.25, seconds=0.5) for row in ROWS]
    write_scores(path, rows)
    assert read_scores(path) == rows
    write_scores(path, [])
    assert read_scores(path) == []


def test_what_was_not_measured_is_nan(tmp_path):
    path = tmp_path / "scores.csv"
    write_scores(path, [Row("bun", "good", "000", 7, 0)])
    (row,) = read_scores(path)
    assert math.isnan(row.score) and math.isnan(row.seconds)
    assert math.isnan(row.p_value) and row.verdict == "" and row.boxes == ()
    write_csv(path, Row._fields[:6], [("bun", "good", "000", 7, 0, " ")])
    (row,) = read_scores(path)
    assert math.isnan(row.score) and math.isnan(row.seconds)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("bun,good,000,7,2,0.5,1,,,", "line 3: expected label 0 or 1, found '2'"),
        ("bun,good,000,x,1,0.5,1,,,", "line 3: invalid literal"),
        ("bun,good,000,7,1,high,1,,,", "line 3: could not convert"),
        ("bun,good,000,7,1,0.5,1,.1,bad,", "line 3: expected verdict good or"),
        ("bun,good,000,7,1,0.5,1,.1,good,1 2 3", "line 3: expected boxes of four"),
        ("bun,good,000,7", "line 3: the line is cut short"),
    ],
)
def test_a_damaged_line_is_named_or_left_out(tmp_path, line, fault):
    path = tmp_path / "scores.csv"
    write_scores(path, ROWS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join((*lines[:2], line, lines[2])))
    with pytest.raises(UnreadableError, match=f"scores.csv: {fault}"):
        read_scores(path)
    left_out = []
    assert [row.id for row in read_scores(path, left_out)] == [7, 2**31 - 1]
    assert len(left_out) == 1 and left_out[0].startswith(fault)


def test_a_column_that_is_missing_is_named(tmp_path):
    write_csv(tmp_path / "a.csv", ("category", "label"), [("bun", 1)])
    with pytest.raises(UnreadableError, match="line 2: there is no 'defect' in it"):
        read_scores(tmp_path / "a.csv")
    with pytest.raises(UnreadableError, match="there is no such file"):
        read_scores(tmp_path / "b.csv", [])
