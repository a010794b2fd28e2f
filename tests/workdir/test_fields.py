from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from ad3d_jax.workdir import fields

CONFIG = {"seed": 0, "fit": {"steps": 5, "rates": (1, 2), "deep": {"x": None}}, "e": {}}


def test_values_have_dotted_names():
    expected = {"seed": 0, "fit.steps": 5, "fit.rates": (1, 2), "fit.deep.x": None}
    assert fields.values(CONFIG) == {**expected, "e": {}}
    assert fields.values({}) == {}


def test_names_are_of_groups_too():
    expected = ["seed", "fit", "fit.steps", "fit.rates", "fit.deep", "fit.deep.x", "e"]
    assert fields.names(CONFIG) == expected


def test_a_configuration_object_is_read_as_its_dict():
    size = FieldReference(7)
    config = ConfigDict({**CONFIG, "a": size, "b": {"c": size}})
    plain = config.to_dict()
    assert fields.names(config) == fields.names(plain)
    assert fields.values(config)["b.c"] == fields.values(plain)["b.c"] == 7


def test_a_field_is_within_itself_and_its_groups():
    assert fields.within("fit.steps", "fit.steps") and fields.within("fit.steps", "fit")
    assert not fields.within("fitness", "fit") and not fields.within("fit", "fit.steps")
