"""Configurations by name and by path, their fields as values and as text."""

import ast

import pytest

from ad3d_jax.experiment.config import (
    changed,
    config_hash,
    fields_of,
    find,
    flags_of,
    from_plain,
    load,
    plain,
    read_texts,
    written,
)
from experiments.configs import btf


@pytest.fixture
def config():
    return load("patchcore:cpu")


def test_a_name_a_path_and_a_configuration_are_the_same(config):
    by_path = load(f"{find('patchcore')}:cpu")
    assert plain(by_path) == plain(config) == plain(load(config))
    assert plain(load("btf")) == plain(btf.get_config())
    load(config).seed = 7
    assert config.seed == 0


def test_a_file_of_the_users_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments.configs import btf\n"
        "def get_config():\n"
        "    config = btf.get_config('cpu')\n"
        "    config.variant, config.seed = 'mine', 3\n"
        "    return config\n"
    )
    config = load(file)
    flags = flags_of(config)
    assert flags[0] == "--config=btf" and "--config.seed=3" in flags
    texts = [flag.removeprefix("--config.") for flag in flags[1:]]
    again = changed(load("btf"), read_texts(load("btf"), texts))
    again.variant = "mine"
    assert plain(again) == plain(config)
    file.write_text("x = 1")
    with pytest.raises(ValueError, match="defines no get_config"):
        load(file)


@pytest.mark.parametrize("text", ["root:x:0:0\n", "x = y\n", "import nothing_of_it\n"])
def test_a_file_that_fails_is_named(tmp_path, text):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(ValueError, match=r"^configuration: .*a\.py: \w+Error: "):
        load(tmp_path / "a.py")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed=3", 3),
        ("model.fraction=1", 1.0),
        ("model.modalities=('rgb','depth')", ("rgb", "depth")),
        ("model.modalities=['rgb']", ("rgb",)),
        ("model.modalities=depth", ("depth",)),
        ("model.modalities='depth'", ("depth",)),
        ("model.modalities=rgb,depth", ("rgb", "depth")),
        (
            "data.recipe_parameters.extras=normals,depth_normalised",
            ["normals", "depth_normalised"],
        ),
        ("fit.tensorboard=True", True),
        ("fit.tensorboard=no", False),
        ("fit.max_grad_norm=None", None),
        ("data.mask_size=64", 64),
        ("data.root=a=b", "a=b"),
        ('data.root=/my data/it\'s (new) & "odd"', '/my data/it\'s (new) & "odd"'),
        ("data.category=None", "None"),
        ("data.recipe_parameters.interpolation=lanczos", "lanczos"),
        ("data.recipe_parameters={'resize_size': 256}", {"resize_size": 256}),
    ],
)
def test_a_text_is_a_value_of_the_fields_type(config, text, value):
    (found,) = read_texts(config, [text]).values()
    assert found == value and type(found) is type(value)
    name = text.partition("=")[0]
    assert read_texts(config, [f"{name}={written(value)}"]) == {name: value}
    after = fields_of(changed(config, {name: value}))
    assert any(key.startswith(name) for key in after)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed=1.5", "seed: expected int such as 0, found '1.5'"),
        ("seed", "seed: expected seed=VALUE"),
        ("fit.tensorboard=maybe", "fit.tensorboard: expected bool"),
        ("model.modalities=rgb depth", "model.modalities: expected tuple such as"),
        ("model.modalities=(rgb", "model.modalities: expected tuple such as"),
        ("model.fractoin=1", "did you mean 'model.fraction'"),
        ("model=1", "model: a group of fields"),
    ],
)
def test_a_text_that_is_none_is_refused(config, text, words):
    with pytest.raises(ValueError, match=words):
        read_texts(config, [text])


@pytest.mark.parametrize(
    "value", [("a b", "c"), ("it's",), (), {"name": "a b", "sizes": (1, 2)}]
)
def test_what_is_written_keeps_blanks_and_quotes(value):
    assert ast.literal_eval(written(value)) == value
    assert " " not in written(value).replace("a b", "")


def test_json_keeps_a_configuration_and_its_hash(config):
    config.model.modalities = ("rgb", "depth")
    again = from_plain(plain(config))
    assert again.model.modalities == ("rgb", "depth")
    assert config_hash(plain(again)) == config_hash(plain(config))
    changed(again, {"model.modalities": ("depth",)})


def test_the_flags_of_a_configuration_give_it_again(config):
    config = changed(config, {"seed": 3, "model.modalities": ("depth",)})
    assert flags_of(config) == [
        "--config=patchcore:cpu",
        "--config.model.modalities=('depth',)",
        "--config.seed=3",
    ]
    quickstart = load("quickstart")
    name, *flags = flags_of(quickstart)
    texts = [flag.removeprefix("--config.") for flag in flags]
    start = load(name.removeprefix("--config="))
    assert plain(changed(start, read_texts(start, texts))) == plain(quickstart)
