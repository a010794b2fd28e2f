import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.workdir.json_files import is_finite, read_json, to_json, write_json
from ad3d_jax.workdir.unreadable import UnreadableError


def test_json_has_no_nan(tmp_path):
    value = {"a": math.nan, "b": np.array([1.0, math.inf]), "c": "ü", "d": Path("x")}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text("utf-8")
    assert json.loads(text) == {"a": None, "b": [1.0, None], "c": "ü", "d": "x"}
    assert "ü" in text
    assert read_json(tmp_path / "value.json") == json.loads(text)


def test_plain_values():
    value = {1: (Path("a/b"), np.bool_(True), None), "x": jnp.ones(2, jnp.bfloat16)}
    assert to_json(value) == {"1": ["a/b", True, None], "x": [1.0, 1.0]}
    assert is_finite(value)
    assert not is_finite({"x": (np.float16("inf"),)})


def test_what_has_no_form_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="no JSON form for a object"):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "expected a JSON object, found a list"),
        (b"\xff", "can't decode byte 0xff"),
        (b"", "Expecting value"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=reason) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(UnreadableError) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value) == f"{tmp_path / 'a.json'}: there is no such file"
    with pytest.raises(UnreadableError, match="no such file; name a finished run$"):
        read_json(tmp_path / "a.json", hint="name a finished run")


def test_a_name_that_is_no_utf8_comes_back(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"root": "caf\udce9", "own": "é"})
    assert read_json(path) == {"root": "caf\udce9", "own": "é"}
    assert "é" in path.read_bytes().decode("utf-8")


def test_what_a_file_needs_is_named(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"data": {"root": ""}, "seed": 0})
    assert read_json(path, needs=("seed", "data.root"))["seed"] == 0
    for name in ("data.name", "seed.name", "fit"):
        with pytest.raises(UnreadableError, match=f"there is no '{name}' in it"):
            read_json(path, needs=(name,))
