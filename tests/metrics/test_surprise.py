"""Surprises: cases by hand, the bound between them, false alarms of a combination."""

import ast
import inspect

import numpy as np
import pytest

from ad3d_jax.metrics import conformal, surprise
from ad3d_jax.metrics.surprise import combined, least, out_of

GOOD = np.arange(1.0, 10)[:, None]  # nine samples of one value


def at(tail, *values):
    return surprise.surprise(tail, np.array(values))


def test_between_good_values_it_is_interpolated_and_above_them_it_is_linear():
    """Of 1 … 8 the three largest exceed 5 by 2 in the mean."""
    tail = out_of(GOOD, 8)
    # Of the others one is 8 or more, so that its p-value is 2/9; four are 5 or more.
    expected = [np.log(9 / 2), np.log(9 / 5), np.log(9 / 5 * 9 / 6) / 2, 0.0, 0.0]
    np.testing.assert_allclose(at(tail, 8, 5, 4.5, 1, -3), expected)
    np.testing.assert_allclose(at(tail, 9, 12), np.log(9 / 2) + np.array([0.5, 2]))


def test_the_least_has_the_slowest_tail_of_all():
    """Without 6 the largest three, 9, 8 and 7, exceed 5 by 3 in the mean."""
    tail = least(GOOD)
    assert tail.scale == pytest.approx(3)
    expected = [np.log(9 / 2), np.log(9 / 6), 0.0, 0.0, np.log(9 / 2) + 1]
    np.testing.assert_allclose(at(tail, 9, 5, 2, 0, 12), expected)


def test_of_equal_good_values_the_least_surprise_holds():
    tail = least(np.array([[1.0], [1], [1], [2]]))
    middle = (np.log(4 / 3) + np.log(4 / 2)) / 2
    np.testing.assert_allclose(at(tail, 1, 1.5, 2), [0, middle, np.log(4 / 2)])
    alike = least(np.ones((4, 3)))
    assert at(alike, 1.0)[0] == 0 and np.isfinite(at(alike, 1.1)[0])


@pytest.mark.parametrize(("samples", "values"), [(12, 1), (7, 5), (3, 2)])
@pytest.mark.parametrize("digits", [0, 6])  # with ties and without
def test_the_least_is_nowhere_above_what_all_but_one_give(samples, values, digits):
    random = np.random.default_rng(samples)
    good = np.round(2 * random.normal(size=(samples, values)), digits)
    places = np.sort(np.concatenate([good.ravel(), np.linspace(-6, 12, 2000)]))
    lowest = at(least(good), *places)
    assert (np.diff(lowest) >= 0).all() and lowest[-1] > lowest[0]
    for number in range(samples):
        assert (lowest <= at(out_of(good, number), *places) + 1e-9).all()


def test_the_combination_is_the_harmonic_mean_of_p_values():
    found = combined(np.log([[2.0, 1e300], [4.0, 1.0]]))
    np.testing.assert_allclose(found, [np.log(3), np.log(5e299)], rtol=1e-6)
    assert combined(np.array([[1e6], [0.0]]))[0] == pytest.approx(1e6)  # no overflow


def false_alarms(alpha, own):
    """Returns rates of false alarms of three detectors that nearly agree.

    `own(values, i)` is what surprises at the i-th good sample.
    """
    random = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        drawn = random.normal(size=(69, 1)) + 0.3 * random.normal(size=(69, 3))
        scores = [np.exp(drawn[:, 0]), drawn[:, 1] ** 3, 5 + drawn[:, 2]]
        good, new = zip(*((x[:19, None], x[19:]) for x in scores), strict=True)
        kept = [
            combined(np.stack([at(own(x, i), x[i, 0]) for x in good]))[0]
            for i in range(19)
        ]
        tails = zip(map(least, good), new, strict=True)
        found = combined(np.stack([surprise.surprise(*pair) for pair in tails]))
        p_values = conformal.p_values(np.array(kept), np.zeros(19), found[None])
        rates.append(conformal.rejected(p_values, 19, alpha).mean())
    return np.mean(rates), np.std(rates) / np.sqrt(len(rates))


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_good_samples_among_themselves_keep_the_promise(alpha):
    rate, error = false_alarms(alpha, out_of)
    assert alpha / 4 < rate < alpha + 2 * error


def test_good_samples_that_judge_themselves_would_break_it():
    rate, error = false_alarms(0.05, lambda values, _: least(values))
    assert rate > 0.05 + 2 * error


def test_an_export_can_hold_a_copy():
    tree = ast.parse(inspect.getsource(surprise))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in found}
    assert names == {"numpy", "typing"}
