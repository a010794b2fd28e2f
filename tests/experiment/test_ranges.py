"""Every number of a configuration has a range, which is checked before any work."""

import dataclasses
import math

import pytest
from ml_collections import ConfigDict

import ad3d_jax as ad
from ad3d_jax.experiment.config import changed, fields_of, known, load, variants
from ad3d_jax.experiment.config import read_texts as read
from ad3d_jax.experiment.ranges import RANGES, check
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study import space
from ad3d_jax.experiment.study.settings import settings_of
from ad3d_jax.systems import SYSTEMS
from ad3d_jax.systems.fields import HYPER, range_of


def checked(config: str, *texts: str) -> None:
    """Does what a command does before any work."""
    build_system(changed(load(config), read(load(config), texts)))


@pytest.mark.parametrize(
    ("config", "text", "words"),
    [
        ("dbrn", "data.image_size=0", r"expected in \[8, 4096\], found 0"),
        ("dbrn", "data.mask_size=1", r"expected None or in \[8, 4096\], found 1"),
        ("dbrn", "data.mask_size=wide", "expected a whole number, found 'wide'"),
        ("dbrn", "data.mask_size=64.5", "expected a whole number, found 64.5"),
        ("dbrn", "data.batch_size=0", "expected at least 1, found 0"),
        ("dbrn", "data.batch_size=-4", "expected at least 1, found -4"),
        ("dbrn", "data.reader=steam", "expected one of .*'stream'.*found 'steam'"),
        ("dbrn", "data.name=mvtec", "expected one of"),
        ("dbrn", "data.on_missing=ignore", "expected one of"),
        ("dbrn", "data.sample_set.train=0", "expected at least 1, found 0"),
        ("dbrn", "data.sample_set.test_good=-1", "expected at least 0, found -1"),
        ("dbrn", "data.sample_set.test_per_defect=-1", "expected at least 0"),
        ("dbrn", "data.sample_set.validation=-1", "expected at least 0"),
        ("dbrn", "data.sample_set.seed=-1", "expected .*found -1"),
        ("dbrn", "seed=-1", "expected .*found -1"),
        ("dbrn", f"seed={2**40}", "expected .*found 1099511627776"),
        ("dbrn", "fit.patience=0", "expected at least 1, found 0"),
        (
            "dbrn",
            "fit.max_grad_norm=nan",
            "expected None or a number above 0, found nan",
        ),
        ("dbrn", "fit.max_grad_norm=0", "expected None or a number above 0, found 0.0"),
        ("dbrn", "fit.max_grad_norm=inf", "expected .*found inf"),
        ("dbrn", "fit.keep=0", "expected at least 1"),
        ("dbrn", "fit.log_every=0", "expected at least 1"),
        ("dbrn", "fit.checkpoint_every=0", "expected None or at least 1"),
        ("dbrn", "fit.engine=fast", "expected one of"),
        ("dbrn", "fit.device_memory_bytes=-1", "expected None or at least 1"),
        ("dbrn", "eval.batch_size=0", "expected at least 1"),
        ("dbrn", "eval.images_per_defect=-1", "expected at least 0, found -1"),
        ("dsr", "data.procedural_images=0", "expected at least 1"),
        ("dbrn", "hyper.learning_rate_importance=-0.1", "expected at least 0"),
        ("dbrn", "hyper.probability_normal=1.5", r"expected in \[0, 1\], found 1.5"),
        ("dbrn", "hyper.beta_max=nan", r"expected in \[0, 1\], found nan"),
        ("dbrn", "hyper.loss_rgb=inf", "expected at least 0, found inf"),
        ("simplenet", "hyper.noise=-1", "expected at least 0, found -1.0"),
        ("easynet", "hyper.gate_threshold=nan", "expected a finite number, found nan"),
        ("dbrn", "model.steps=0", "expected at least 1, found 0"),
        ("dbrn", "model.passes=0", "expected at least 1, found 0"),
        ("dbrn", "model.drop_path=1.5", r"expected in \[0, 1\]"),
        ("dbrn", "model.skip_dropout=(0.5,2.0,0.1)", r"expected in \[0, 1\]"),
        ("dbrn", "model.rotation=nan", "expected at least 0, found nan"),
        ("draem", "model.epochs=0", "expected at least 1, found 0"),
        ("dsr", "model.dada_steps=0", "expected at least 1, found 0"),
        ("dsr3d", "model.patch_sides=(1,0)", "expected at least 1"),
        ("padim", "model.dimensions=0", "expected 1 to 1792 channels"),
        ("padim", "model.epsilon=0", "expected a number above 0, found 0.0"),
        ("patchcore", "model.sigma=-1", "expected at least 0, found -1.0"),
        ("patchcore", "model.fraction=0", r"expected in \(0, 1\], found 0.0"),
        ("btf", "model.blur_radius=0", "expected a number above 0, found 0.0"),
    ],
)
def test_what_is_out_of_range_is_named(config, text, words):
    with pytest.raises(ValueError, match=f"^{text.partition('=')[0]}: {words}"):
        checked(config, text)


@pytest.mark.parametrize(
    "text",
    [
        "data.image_size=8",
        "data.mask_size=None",
        "fit.max_grad_norm=None",
        "fit.checkpoint_every=None",
        "eval.images_per_defect=0",
        "data.sample_set.validation=0",
        "hyper.probability_normal=0",
        "hyper.probability_normal=1",
        "hyper.learning_rate_importance=0",
        "model.drop_path=0",
    ],
)
def test_the_ends_are_in_the_range(text):
    checked("dbrn", text)


@pytest.mark.parametrize("name", sorted(known()))
def test_all_configurations_and_variants_are_in_range(name):
    for variant in ["", *variants(name)]:
        config = load(f"{name}:{variant}" if variant else name)
        assert changed(config, {}) == config
        build_system(config)


def test_every_number_that_all_experiments_have_is_in_the_table():
    numbers = {
        name
        for name, value in fields_of(load("dsr")).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    own = {name for name in numbers if not name.startswith(("hyper.", "model."))}
    assert own <= set(RANGES)


def test_every_hyperparameter_has_a_range_of_its_name():
    for name, entry in SYSTEMS.items():
        for hyper, default in entry.hyper.items():
            assert any(f"{hyper}_".startswith(f"{known}_") for known in HYPER), hyper
            range_of(hyper).check(f"{name}: {hyper}", default)
            with pytest.raises(ValueError, match=hyper):
                range_of(hyper).check(hyper, math.nan)


def test_every_structure_says_what_its_numbers_may_be():
    """A whole number is never below 0, nothing is NaN or infinite, in any system."""
    for entry in SYSTEMS.values():
        for field in dataclasses.fields(entry.config):
            if isinstance(field.default, bool):
                continue
            wrong = ()
            if isinstance(field.default, int):
                wrong = (-1,)
            elif isinstance(field.default, float):
                wrong = (math.nan, math.inf, -1.0)
            for value in wrong:
                with pytest.raises(ValueError, match=f"model.{field.name}: expected"):
                    entry.factory(entry.config(**{field.name: value}))


@pytest.mark.parametrize("value", [True, "8", 8.5, None])
def test_a_value_of_another_kind_is_refused(value):
    with pytest.raises(ValueError, match="data.batch_size: expected a whole number"):
        check({"data.batch_size": value})


def test_python_is_checked_as_flags_are():
    with pytest.raises(ValueError, match=r"^data.image_size: expected in \[8, 4096\]"):
        ad.Experiment("btf:tiny", set={"data.image_size": 0})
    with pytest.raises(ValueError, match="^hyper.noise: expected at least 0"):
        ad.population("simplenet:tiny", {"hyper.noise": [0.01, -1.0]})
    words = r"^data.mask_size: expected None or in \[8, 4096\]"
    with pytest.raises(ValueError, match=words):
        ad.grid(["btf:tiny"], ["bun"], workdir="nowhere", mask_size=1)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"hyper.noise": {"low": -0.1, "high": 0.5}}, "hyper.noise: expected at least"),
        ({"hyper.noise": [0.1, math.nan]}, "hyper.noise: expected at least 0"),
        ({"model.epochs": {"low": 0, "high": 20}}, "model.epochs: expected at least 1"),
        ({"model.epochs": [20, 10, 0]}, "model.epochs: expected at least 1, found 0"),
        ({"data.batch_size": {"low": 0, "high": 8}}, "data.batch_size: expected at"),
    ],
)
def test_the_ends_of_a_space_are_checked_before_the_study(table, words):
    with pytest.raises(ValueError, match=words):
        space.check(space.read_space(table), load("simplenet:tiny"), "random")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", -1),
        ("hold_out", 1.5),
        ("hold_out", math.nan),
        ("stages", (0, 50)),
        ("stages", (150,)),
        ("together", 0),
        ("planted_each", 0),
        ("heartbeat", 0),
    ],
)
def test_settings_of_a_study_have_ranges(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        settings_of({name: value})


def test_other_tables_are_left_alone():
    config = ConfigDict({"rate": -1.0, "data": {"own": 0}})
    assert changed(config, {"rate": -2.0}).rate == -2.0
