"""Every parameter of every recipe can be set on the command line, and is checked."""

import pytest

from ad3d_jax.experiment import data
from ad3d_jax.experiment.config import changed, fields_of, load, read_texts, written
from ad3d_jax.experiment.recipes import GROUP
from ad3d_jax.experiment.state import build_system
from data_pipelines.recipes import RECIPES


def test_a_batch_that_shows_shapes_can_be_made_for_every_recipe():
    class Needs:
        needs_fit = needs_score = ("xyz",)

    for name, recipe in RECIPES.items():
        config = configured(f"data.recipe={name}")
        rows, columns = data.example(config, Needs).xyz.shape[1:3]
        sized = config.data.image_size, config.data.image_size
        assert (rows, columns) == (
            sized if "image_size" in recipe.defaults else (recipe.defaults["points"], 1)
        )


# A text that differs from the default, and what it means.
TEXTS = {
    "all_foreground": ("0.5", 0.5),
    "centre": ("true", True),
    "closing": ("4", 4),
    "cluster_points": ("5", 5),
    "cluster_radius": ("0.01", 0.01),
    "colour": ("kept", "kept"),
    "depth_interpolation": ("linear", "linear"),
    "distance": ("0.01", 0.01),
    "extras": ("['normals']", ["normals"]),
    "hypotheses": ("10", 10),
    "image_size": ("48", 48),
    "inlier_distance": ("0.001", 0.001),
    "interpolation": ("lanczos", "lanczos"),
    "mask_size": ("24", 24),
    "normalisation": ("image", "image"),
    "pad_to": ("1", 1),
    "passes": ("1", 1),
    "points": ("64", 64),
    "points_per_hypothesis": ("4", 4),
    "removal_distance": ("0.01", 0.01),
    "resize_size": ("96", 96),
    "seed": ("3", 3),
    "strip": ("5", 5),
    "tau": ("0.004", 0.004),
    "tau_least": ("0.001", 0.001),
    "tau_most": ("0.008", 0.008),
    "tau_share": ("0.1", 0.1),
    "unit": ("0.001", 0.001),
}
EVERY = [(recipe, name) for recipe in RECIPES for name in RECIPES[recipe].defaults]


def configured(*texts, name="btf:cpu"):
    config = load(name)
    config.data.image_size = 64
    config.data.recipe_parameters = {}
    return changed(config, read_texts(config, texts))


@pytest.mark.parametrize(("recipe", "name"), EVERY)
def test_each_is_set_by_its_flag_and_reaches_the_recipe(recipe, name, monkeypatch):
    text, value = TEXTS[name]
    if (recipe, name) == ("points", "extras"):
        text, value = "[]", []  # it can make none
    # The recipe may be named after its parameter.
    config = configured(f"{GROUP}.{name}={text}", f"data.recipe={recipe}")
    found = config.data.recipe_parameters[name]
    assert found == value and type(found) is type(value)
    again = configured(f"data.recipe={recipe}", f"{GROUP}.{name}={written(value)}")
    assert fields_of(again) == fields_of(config)
    given = {}
    monkeypatch.setattr(data, "data_folder", lambda *_: ("root", "class"))
    monkeypatch.setattr(
        data.sources, "open_data", lambda *_, **more: given.update(more)
    )
    data.open_data(config, build_system(config))
    assert given["parameters"][name] == value
    assert name != "extras" or set(value) <= set(given["extras"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"{GROUP}.centre=false", False),
        (f"{GROUP}.centre=no", False),
        (f"{GROUP}.centre", True),
        (f"{GROUP}.unit=1", 1.0),
    ],
)
def test_a_text_has_the_type_of_the_recipes_default(text, value):
    config = configured(text, "data.recipe=points")
    (found,) = config.data.recipe_parameters.values()
    assert found == value and type(found) is type(value)


def test_sizes_may_be_rows_and_columns_and_are_those_of_the_metrics():
    config = configured(f"{GROUP}.image_size=(48,64)")
    assert config.data.recipe_parameters.image_size == (48, 64)
    assert data.mask_size(config) == (48, 64)
    assert data.mask_size(configured(f"{GROUP}.mask_size=24")) == 24
    assert data.mask_size(configured("data.mask_size=32")) == 32
    assert data.mask_size(configured()) == 64


def test_none_stands_for_none():
    config = configured(f"{GROUP}.resize_size=None", name="padim:cpu")
    assert config.data.recipe_parameters.resize_size is None


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["data.recipe=plane", f"{GROUP}.strpi=5"], "strpi.*did you mean 'strip'"),
        ([f"{GROUP}.strip=5"], "strip: raw has none of that name"),
        (["data.recipe=plaen"], "data.recipe: expected one of"),
        (
            ["data.recipe=plane", f"{GROUP}.strip=wide"],
            "strip: expected int such as 10",
        ),
        (["data.recipe=plane", f"{GROUP}.strip=0"], "strip: expected a whole number"),
        (["data.recipe=plane", f"{GROUP}.all_foreground=2"], "expected a share"),
        (["data.recipe=ast", f"{GROUP}.tau=-1.0"], "tau: expected metres"),
        (["data.recipe=ast", f"{GROUP}.tau=thick"], "tau: expected metres"),
        (["data.recipe=ast", f"{GROUP}.passes=-1"], "passes: expected a whole number"),
        (["data.recipe=points", f"{GROUP}.centre=perhaps"], "centre: expected bool"),
        ([f"{GROUP}.interpolation=cubic"], "interpolation: expected area or"),
        ([f"{GROUP}.resize_size=32"], "resize_size: expected None or at least"),
        ([f"{GROUP}.image_size=(0,8)"], "image_size: expected a whole number of 1"),
        ([f"{GROUP}.mask_size=0"], "mask_size: expected a whole number of 1"),
        ([f"{GROUP}.extras=['fphf']"], "extras: recipe raw cannot make fphf"),
    ],
)
def test_a_wrong_one_is_named_before_any_work(texts, words):
    with pytest.raises(ValueError, match=words):
        configured(*texts)


def test_a_wrong_type_is_named_from_python_too():
    with pytest.raises(ValueError, match="strip: expected int such as 10, found '5'"):
        changed(load("btf"), {"data.recipe": "plane", f"{GROUP}.strip": "5"})
