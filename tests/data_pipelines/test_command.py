"""How the commands of the pipelines begin and end; their statuses are in the docs."""

import re
from pathlib import Path

import pytest
from absl import flags

from ad3d_jax.devices import processes
from ad3d_jax.experiment import status
from data_pipelines import command, preprocess, validate

DOCS = Path(__file__).resolve().parents[2] / "docs/commands.md"


@pytest.fixture
def values():
    own = flags.FlagValues()
    flags.DEFINE_string("name", "", "A name.", own, module_name="validate")
    return own


def test_flags_may_follow_words(values):
    assert command.parse(["validate", "root", "--name=x"], values) == [
        *("validate", "root")
    ]
    assert values.name == "x"


def test_a_wrong_flag_is_one_sentence(values, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(["validate", "--nmae=x"], values)
    said = capsys.readouterr().err
    assert ended.value.code == command.USAGE
    assert "nmae" in said and said.count("\n") == 1


def test_help_is_no_mistake(values, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(["validate", "--help"], values)
    assert ended.value.code == command.DONE
    assert "--name" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["a", "b"]])
def test_validate_takes_one_folder(words, capsys):
    assert command.status_of(lambda: validate.main(words)) == command.USAGE
    assert "expected one folder" in capsys.readouterr().err


def test_words_left_over_are_refused(capsys):
    assert command.status_of(lambda: preprocess.main(["x"])) == command.USAGE
    assert "no flag: 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1]", "{strip: 5}", "[" * 100_000])
def test_parameters_are_a_table(text):
    with pytest.raises(flags.Error, match="--parameters: expected a JSON table"):
        preprocess.read_table(text)


def test_a_list_of_numbers_is_one():
    assert command.whole_numbers(["0", "12"], "seeds") == [0, 12]
    with pytest.raises(
        flags.Error, match="--seeds: expected whole numbers, found '0,a'"
    ):
        command.whole_numbers(["0", "a"], "seeds")


def test_numbers_may_have_names():
    assert command.named_numbers(["cut=2", "blur=0.5"], "w") == {"cut": 2, "blur": 0.5}
    for wrong in ("cut", "cut=x", "cut=1=2"):
        with pytest.raises(flags.Error, match="--w: expected name=number,…, found 'cu"):
            command.named_numbers([wrong], "w")


def test_the_table_of_the_docs_has_every_status():
    rows = re.findall(r"^\| (\d+) \|", DOCS.read_text(), re.MULTILINE)
    codes = (command.DONE, command.MISTAKE, command.USAGE, command.DISK_FULL)
    codes += (status.PREEMPTED, processes.EXIT_LOST)
    assert [int(row) for row in rows] == sorted(codes)
