"""What a value names: a path that exists, a shipped file, or a file of the hub."""

import numpy as np
import pytest

from ad3d_jax.features import hub, weights
from ad3d_jax.features.locate import bring, locate

FIELD = "weights.backbone"


@pytest.fixture
def shipped(tmp_path):
    """A folder of files that come with a project."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    weights.save(folder / "one.safetensors", {"w": np.ones(2)})
    (folder / "README.md").write_text("about them")
    return folder


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The names that the hub is asked for; it has none of them."""
    names = []

    def find(name, field):
        names.append((*name, field))
        raise ValueError(f"{field}: the hub was asked")

    monkeypatch.setattr(hub, "find", find)
    monkeypatch.chdir(tmp_path)
    return names


def test_a_path_that_exists_wins(asked, shipped, tmp_path):
    (tmp_path / "timm").mkdir()
    for value in ("timm/net", "timm/net.safetensors", "shipped:one"):
        weights.save(tmp_path / "x.safetensors", {"w": np.zeros(2)})
        (tmp_path / "x.safetensors").rename(tmp_path / value)
        assert locate(value, FIELD, shipped).resolve() == tmp_path / value
    assert (
        bring("timm/net.safetensors").sha256
        == weights.read(tmp_path / "timm/net.safetensors").sha256
    )
    assert bring("timm", FIELD).is_dir() and asked == []


def test_home_is_expanded(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights.save(tmp_path / "w.safetensors", {"w": np.ones(2)})
    assert locate("~/w.safetensors") == tmp_path / "w.safetensors"


def test_shipped_files_are_found_by_name(asked, shipped):
    assert locate("shipped:one", FIELD, shipped) == shipped / "one.safetensors"
    np.testing.assert_array_equal(bring("shipped:one", FIELD, shipped).arrays["w"], 1)
    for value in (
        "shipped:two",
        "shipped:",
        "shipped:../shipped/one",
        "shipped:README",
    ):
        with pytest.raises(
            ValueError, match=f"{FIELD}: no '{value}'.*[(]shipped:one[)]"
        ):
            locate(value, FIELD, shipped)
    with pytest.raises(ValueError, match="no 'shipped:one' comes.*none is there"):
        locate("shipped:one", FIELD)
    assert asked == []


@pytest.mark.parametrize(
    "value", ["timm/net.tv_in1k", "a/b@v1:c.safetensors", "a/b:c.npz"]
)
def test_owner_and_name_are_the_hubs(asked, value):
    for find in (locate, bring):
        with pytest.raises(ValueError, match=f"{FIELD}: the hub was asked"):
            find(value, FIELD)
    assert asked == [(*hub.parse(value), FIELD)] * 2


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "net",
            "runs/w.safetensors",
            "runs/w.npz",
            "runs/w.pth",
            "/none/w",
            "./a/b",
        ),
        *("a/b/c", "w.safetensors"),
    ],
)
def test_a_missing_path_is_told_with_what_was_tried(asked, shipped, value):
    with pytest.raises(ValueError) as caught:
        locate(value, FIELD, shipped)
    text = str(caught.value)
    assert text.startswith(f"{FIELD}: no such file: {value!r}") and "\n" not in text
    assert "shipped:NAME (shipped:one)" in text and "OWNER/NAME" in text
    assert asked == []
