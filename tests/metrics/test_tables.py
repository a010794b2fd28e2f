"""Means over classes and the form for files."""

import json
import math

import pytest

from ad3d_jax.metrics.exact import Metrics
from ad3d_jax.metrics.tables import mean_over_classes, to_json

NAN = math.nan


def test_mean_tells_how_many_counted():
    mean = mean_over_classes(
        {
            "bagel": Metrics({"i_auroc": 0.5, "aupro_30": 0.25}, {}),
            "rope": Metrics({"i_auroc": 1.0, "aupro_30": NAN}, {"aupro_30": "no mask"}),
            "foam": Metrics({"i_auroc": NAN}, {"i_auroc": "one class"}),
        }
    )
    assert mean.values == {"i_auroc": 0.75, "aupro_30": 0.25}
    assert mean.counted == {"i_auroc": 2, "aupro_30": 1}
    assert mean.notes["i_auroc"] == "mean of 2 of 3 classes; left out: foam (one class)"
    assert "rope (no mask), foam (not measured)" in mean.notes["aupro_30"]


def test_mean_of_nothing_is_undefined():
    mean = mean_over_classes({"rope": Metrics({"i_ap": NAN}, {"i_ap": "one class"})})
    assert math.isnan(mean.values["i_ap"])
    assert to_json(mean)["i_ap"] is None
    assert to_json(mean)["counted"] == {"i_ap": 0}


def test_undefined_is_null_in_files():
    metrics = Metrics({"i_auroc": NAN, "p_auroc": 0.75}, {"i_auroc": "one class"})
    text = json.dumps(to_json(metrics), allow_nan=False)
    assert json.loads(text) == {
        "i_auroc": None,
        "p_auroc": 0.75,
        "notes": {"i_auroc": "one class"},
    }


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3], [1.0], [0.0, 1.0]])
def test_plain_mean(values):
    classes = {str(k): Metrics({"p_ap": v}, {}) for k, v in enumerate(values)}
    mean = mean_over_classes(classes)
    assert mean.values["p_ap"] == pytest.approx(sum(values) / len(values), abs=1e-15)
    assert mean.notes == {}
