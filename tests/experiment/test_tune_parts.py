"""Parts of a search: joint space, budget, halving, order, estimate, by hand."""

import contextlib
import datetime

import numpy as np
import optuna
import pytest
import study_worker
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from ad3d_jax import evaluate as evaluation
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.study import (
    joint,
    records,
    rungs,
    storage,
    strata,
    trials,
    worker,
)
from ad3d_jax.experiment.study.budget import Budget, seconds_of, spent
from ad3d_jax.experiment.study.grounds import Ground, part_of
from ad3d_jax.experiment.study.objective import Goal, Judged
from ad3d_jax.experiment.study.records import CAUSE, FIELDS, KINDS, SLOT, Outcome
from ad3d_jax.experiment.study.slots import Rules
from ad3d_jax.experiment.study.space import Space, read_space
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.experiment.tuning import candidates, choice, final, plan
from ad3d_jax.experiment.tuning.choice import Ranked
from ad3d_jax.experiment.tuning.estimate import bootstrap, estimate_of
from ad3d_jax.metrics import exact
from ad3d_jax.workdir.scores import Row
from data_pipelines.reader import Held, Reader

NAMES = ("btf:tiny+raw", "padim:tiny")
CONFIGS = {name: load(name) for name in NAMES}
OWN = {
    NAMES[0]: read_space({"model.fraction": [0.25, 0.5, 1.0]}),
    NAMES[1]: read_space({"model.epsilon": {"low": 0.01, "high": 0.1}}),
}


def study_of(space, seed=0):
    sampler = optuna.samplers.RandomSampler(seed)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    return study, [study.ask() for _ in range(20)]


def test_a_joint_space_chooses_a_configuration_and_then_of_its_own_space():
    both = joint.join(CONFIGS, OWN)
    _, asked = study_of(both)
    found = [(both.suggest(trial), trial) for trial in asked]
    seen = set()
    for fields, trial in found:
        name = fields["configuration"]
        seen.add(name)
        own = {NAMES[0]: "model.fraction", NAMES[1]: "model.epsilon"}[name]
        assert list(fields) == ["configuration", own]
        assert set(trial.params) == {"configuration", f"{name}/{own}"}
        kind = trial.distributions[f"{name}/{own}"]
        expected = {
            NAMES[0]: CategoricalDistribution([0.25, 0.5, 1.0]),
            NAMES[1]: FloatDistribution(0.01, 0.1),
        }
        assert kind == expected[name]
        config = joint.config_of(CONFIGS, fields)
        assert config.system == CONFIGS[name].system
        assert config.model[own.removeprefix("model.")] == fields[own]
    assert seen == set(NAMES)


def test_the_first_trials_are_the_configurations_as_they_are(tmp_path):
    both = joint.join(CONFIGS, OWN)
    database = storage.open_database(str(tmp_path / "s.db"))
    study = trials.open_study(database, "s", {})
    taken = [
        trials.claim(database, study, both, Rules(3, "random")).taken[0]
        for _ in range(3)
    ]
    usual = CONFIGS[NAMES[0]].model.fraction  # 0.5, which the space has
    assert taken[0].fields == {"configuration": NAMES[0], "model.fraction": usual}
    assert taken[0].trial.params[f"{NAMES[0]}/model.fraction"] == usual
    # Epsilon is 0.01 as it is.
    epsilon = CONFIGS[NAMES[1]].model.epsilon
    assert taken[1].fields == {"configuration": NAMES[1], "model.epsilon": epsilon}
    assert taken[2].fields["configuration"] in NAMES
    for each in taken[:2]:
        assert (
            joint.config_of(CONFIGS, each.fields)
            == CONFIGS[each.fields["configuration"]]
        )


def test_a_function_chooses_under_the_name_of_its_configuration():
    def own(trial):
        return {"model.fraction": trial.suggest_float("share", 0.1, 0.2)}

    both = joint.join({NAMES[0]: CONFIGS[NAMES[0]]}, {NAMES[0]: Space(own, None, "x")})
    _, (trial, *_) = study_of(both)
    assert 0.1 <= both.suggest(trial)["model.fraction"] <= 0.2
    assert f"{NAMES[0]}/share" in trial.params


def test_points_are_counted_and_a_wrong_space_is_told_of_by_its_configuration():
    assert joint.points({NAMES[0]: OWN[NAMES[0]], "x": joint.NOTHING}) == 4
    steps = read_space({"a": {"low": 1, "high": 7, "step": 3}, "b": [1, 2]})
    assert joint.points({"x": steps}) == 6
    assert joint.points(OWN) == float("inf")
    wrong = {**OWN, NAMES[1]: read_space({"model.fraction": [0.5]})}
    with pytest.raises(StudyError, match=r"padim:tiny: space: model.fraction"):
        joint.check(CONFIGS, wrong)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("2h", 7200), (" 5m ", 300)],
)
def test_a_budget_is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "0m", "30m1h", "-5m", "1.5h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(StudyError, match="expected a time such as 30m or 1h30m"):
        seconds_of(text)


START = datetime.datetime(2030, 1, 1)


def timed(begin, end=None, **attributes):
    """Returns a trial of some seconds; without an end it still runs."""
    complete = end is not None and not attributes
    trial = create_trial(
        state=TrialState.COMPLETE if complete else TrialState.FAIL,
        value=1.0 if complete else None,
        user_attrs=attributes,
    )
    if end is None:
        trial.state = TrialState.RUNNING
    trial.datetime_start = START + datetime.timedelta(seconds=begin)
    trial.datetime_complete = end and START + datetime.timedelta(seconds=end)
    return trial


def at(seconds):
    return START + datetime.timedelta(seconds=seconds)


def test_time_is_that_in_which_trials_ran():
    two = [timed(0, 10), timed(5, 20)]  # at a time, of two workers
    assert spent(two, at(500)) == 20
    later = [*two, timed(100, 130)]  # it was stopped between
    assert spent(later, at(500)) == 50
    assert spent([*later, timed(200)], at(207)) == 57
    dead = timed(300, 9000, **{CAUSE: None})  # given up long after its worker died
    assert spent([*later, dead], at(500)) == 50
    stopped = timed(300, 310, **{CAUSE: records.STOPPED})
    assert spent([*later, stopped], at(500)) == 60


def test_a_budget_leaves_time_for_a_trial_and_the_final_fit():
    assert Budget(1).allows_at([], at(0))  # the first one may always begin
    done = [timed(0, 10), timed(10, 40)]  # mean 20, longest 30, spent 40
    assert Budget(90).allows_at(done, at(40))
    assert not Budget(89).allows_at(done, at(40))
    # Another one runs: what it has taken counts.
    assert not Budget(90).allows_at([*done, timed(40)], at(45))


def test_where_time_is_up_no_trial_begins_and_what_has_begun_goes_on(tmp_path):
    def work(more, outcome):
        rules = Rules(99, "random", more=more)
        job = study_worker.job(str(tmp_path / "s.db"), tmp_path, rules)
        with contextlib.suppress(worker.Stopped):
            worker.work(job, lambda tasks, *_: [outcome for _ in tasks])
        return [trial.state.name for trial in job.study.trials]

    three = work(lambda trials: len(trials) < 3, Outcome(0.5))
    assert three == ["COMPLETE"] * 3
    stopped = work(lambda trials: len(trials) < 4, Outcome(cause=records.STOPPED))
    assert stopped == [*three, "FAIL"]
    assert work(lambda _: False, Outcome(0.5)) == [*stopped, "COMPLETE"]


def test_a_search_ends_where_no_setting_is_new():
    def trial(rate, state=TrialState.COMPLETE):
        value = 0.5 if state == TrialState.COMPLETE else None
        return create_trial(state=state, value=value, user_attrs={FIELDS: {"x": rate}})

    assert not plan.exhausted([trial(1), trial(1)], 2)
    assert plan.exhausted([trial(1), trial(2, TrialState.PRUNED)], 2)
    again = [trial(1)] * (plan.IDLE + 1)
    assert plan.exhausted(again, 9) and not plan.exhausted(again[1:], 9)


def kinds_of(**values):
    """Returns kinds, each with one value of all metrics."""
    return {kind: dict.fromkeys(strata.METRICS, x) for kind, x in values.items()}


def test_halving_lets_the_best_third_of_a_rung_go_on_by_mean_ranks():
    study = optuna.create_study(direction="maximize")
    halving = rungs.Halving(spared=1, metric="mean", weights={})

    def add(slot, rung=25, **values):
        trial = create_trial(
            state=TrialState.PRUNED,
            intermediate_values={rung: 0.5},
            user_attrs={
                SLOT: slot,
                FIELDS: {"x": slot},
                records.kinds_at(rung): kinds_of(**values),
            },
        )
        study.add_trial(trial)
        return study.trials[-1]

    worst = add(0, cut=0.1, stain=0.1)
    assert not halving.prune(study, worst)  # spared
    assert not halving.prune(study, add(1, cut=0.5, stain=0.5))  # the best of two
    assert halving.prune(study, add(2, cut=0.4, stain=0.4))
    # The higher mean of values, but the better of two kinds has the higher rank.
    assert halving.prune(study, add(3, cut=0.9, stain=0.2))
    assert not halving.prune(study, add(4, cut=0.6, stain=0.6))
    for slot in (5, 6):
        assert halving.prune(study, add(slot, cut=0.2, stain=0.2))
    # Of seven at a rung two go on; other rungs do not count.
    assert not halving.prune(study, study.trials[1])
    assert not halving.prune(study, add(7, rung=50, cut=0.0, stain=0.0))


def test_what_several_classes_are_worth():
    found = {
        "bun": Judged(0.4, kinds_of(cut=0.4)),
        "rope": Judged(0.8, kinds_of(cut=0.8)),
    }
    whole = rungs.together(found, Goal())
    assert whole.value == pytest.approx(0.6)
    assert whole.kinds == kinds_of(**{"bun/cut": 0.4, "rope/cut": 0.8})
    assert rungs.together({"bun": found["bun"]}, Goal()) is found["bun"]


def test_a_rung_has_a_share_of_samples_and_of_pixels():
    config = load("btf:cpu")  # 128 pixels
    assert rungs.smaller(config, 0.25).data.image_size == 64
    assert rungs.smaller(config, 0.5).data.image_size == 96  # 90.5, in steps of 32
    assert rungs.smaller(load("btf:tiny"), 0.25).data.image_size == 32
    own = load("patchcore:mvtec_ad")  # whose sizes belong together
    assert rungs.smaller(own, 0.25) is own
    rows = [Row("bun", "good", str(n), n, 0) for n in range(4)]
    rows += [Row("bun", kind, str(n), 9, 1) for kind in "ab" for n in range(6)]
    facts = {"id": np.arange(len(rows))}
    split = Held({"rgb": np.zeros((len(rows), 1))}, facts)
    train = Held({"rgb": np.zeros((10, 1))}, {"id": np.arange(10)})
    whole = Ground(
        Reader({"train": lambda: train}), Reader({"planted": lambda: split}), rows, "b"
    )
    part = part_of(whole, 0.5)
    assert part.samples.size("train") == 5 and part.planted.size("planted") == 8
    assert [row.stem for row in part.rows] == ["0", "2", "0", "2", "4", "0", "2", "4"]
    assert part_of(whole, 0.1).planted.size("planted") == 6  # two of each
    assert part_of(whole, 1.0) is whole


def setting(trial, rank, value, seconds=None, configuration="a", size=None):
    return Ranked(trial, configuration, {}, rank, value, {}, seconds, size)


def test_the_chosen_one_by_hand():
    found = [
        setting("slow", 1.5, 0.8, 0.9),
        setting("unknown", 1.5, 0.8),
        setting("high", 1.75, 0.95, 0.1),
        setting("fast", 1.5, 0.8, 0.2),
        setting("better", 1.5, 0.81, 5.0, "b"),
    ]
    order = [each.trial for each in choice.ordered(found)]
    assert order == ["better", "fast", "slow", "unknown", "high"]
    best = choice.best_of_systems(choice.ordered(found), 3)
    assert [each.trial for each in best] == ["better", "fast"]
    # Up and to the left: "slow" and "better" cost more and reach less than "high".
    found += [setting("cheap", 9, 0.5, 0.05), setting("poor", 9, 0.4, 0.06)]
    assert [each.trial for each in choice.front(found, "seconds")] == ["cheap", "high"]
    assert choice.front(found, "bytes") == []


def test_ranks_choose_among_complete_trials_and_not_the_mean():
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(records.FACTS, {"metric": "mean", "weights": {}})
    values = [
        kinds_of(cut=0.7, stain=0.7, blur=0.7),
        kinds_of(cut=0.6, stain=0.95, blur=0.6),  # the highest mean, of one kind
        kinds_of(cut=0.8, stain=0.5, blur=0.65),
    ]
    for slot, kinds in enumerate(values):
        fields = {"configuration": "a", "x": slot}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=strata.value(kinds, "mean", {}),
                user_attrs={SLOT: slot, FIELDS: fields, KINDS: kinds},
            )
        )
    study.add_trial(study.trials[0])  # the same setting once more
    found = choice.ranked(study)
    # cut 2, 3, 1; stain 2, 1, 3; blur 1, 3, 2.
    assert [each.fields["x"] for each in found] == [0, 2, 1]
    assert [each.rank for each in found] == pytest.approx([5 / 3, 2.0, 7 / 3])


def planted_scores(seed=0, hosts=12):
    """Returns scores of hosts and their twins with one square defect each."""
    random = np.random.default_rng(seed)
    rows, maps, masks, image = [], [], [], []
    for host in range(hosts):
        for kind in ("", "cut", "stain"):
            mask = np.zeros((16, 16), bool)
            if kind:
                top, left = random.integers(0, 12, 2)
                mask[top : top + 3, left : left + 4] = True
            gain = {"": 0, "cut": 2.0, "stain": 0.7}[kind]
            found = random.normal(size=(16, 16)) + gain * mask
            rows.append(Row("bun", kind or "good", str(host), host, int(bool(kind))))
            maps.append(found.astype(np.float32))
            masks.append(mask)
            image.append(found.max())
    scored = evaluation.Scored(
        np.stack(maps), np.stack(masks), np.array(image, np.float32), np.ones(1), {}
    )
    return scored, rows


def test_a_resample_of_all_hosts_once_has_the_exact_values():
    scored, rows = planted_scores()
    found = bootstrap(scored, rows, np.ones((1, len(rows)), int))
    for kind in ("cut", "stain"):
        own = [n for n, row in enumerate(rows) if not row.label or row.defect == kind]
        labels = np.array([rows[n].label for n in own])
        exactly = exact.evaluate(
            scored.maps[own], scored.masks[own], scored.image[own], labels
        ).values
        assert found[kind]["i_auroc"][0] == pytest.approx(exactly["i_auroc"])
        for metric in ("aupro_30", "aupro_05", "p_ap"):
            assert found[kind][metric][0] == pytest.approx(exactly[metric], abs=0.01)


def test_a_host_that_is_drawn_twice_counts_twice():
    scored, rows = planted_scores(hosts=3)
    weight = np.array([[2] * 3 + [1] * 3 + [0] * 3])
    found = bootstrap(scored, rows, weight)["cut"]
    twice = [0, 1, 0, 1, 3, 4]  # rows of "good" and "cut" of hosts 0, 0 and 1
    labels = np.array([rows[n].label for n in twice])
    exactly = exact.evaluate(
        scored.maps[twice], scored.masks[twice], scored.image[twice], labels
    ).values
    assert found["i_auroc"][0] == pytest.approx(exactly["i_auroc"])
    assert found["aupro_30"][0] == pytest.approx(exactly["aupro_30"], abs=0.02)


def test_an_estimate_has_intervals_and_says_what_it_is():
    scored, rows = planted_scores()
    kinds = kinds_of(cut=0.9, stain=0.6)
    kinds["stain"]["p_ap"] = None
    found = estimate_of(scored, rows, kinds, {"cut": 3.0})
    assert "planted into good parts, not on real ones" in found["what"]
    assert found["hosts"] == 12 and found["samples"] == {"cut": 12, "stain": 12}
    mean = found["mean"]["i_auroc"]
    assert mean["value"] == pytest.approx((3 * 0.9 + 0.6) / 4)
    assert mean["low"] <= mean["value"] <= mean["high"] and mean["low"] < mean["high"]
    assert found["kinds"]["stain"]["p_ap"] == {"value": None, "low": None, "high": None}
    assert "undefined" in found["notes"]["stain.p_ap"]
    one = estimate_of(
        scored._replace(
            **{n: getattr(scored, n)[:3] for n in ("maps", "masks", "image")}
        ),
        rows[:3],
        kinds,
        {},
    )
    wide = one["kinds"]["cut"]["i_auroc"]  # one host: nothing varies
    assert wide["low"] <= 0.9 <= wide["high"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "budget, trials: expected one of the two"),
        ({"budget": "5m", "trials": 3}, "budget, trials: expected one of the two"),
        ({"budget": "5"}, "budget: expected a time"),
        ({"trials": 3, "rungs": (0.5, 0.25)}, "rungs: expected rising shares"),
        ({"trials": 3, "rungs": (1.0,)}, "rungs"),
        (
            {"trials": 3, "pruner": "median"},
            "no setting pruner; there are budget",
        ),
        ({"trials": 3, "sampler": "grid"}, "sampler: expected one of"),
    ],
)
def test_settings_that_are_not_allowed_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        plan.settings_apart(settings)


def test_a_space_that_is_named_is_of_one_system():
    field = candidates.Field(CONFIGS, {}, ("bun",))
    with pytest.raises(StudyError, match="it is of one system, found btf:tiny"):
        plan.spaces_of(field, "padim")
    found = plan.spaces_of(field, "")
    assert "model.layers" in found["padim:tiny"].grid
    one = candidates.Field({"dsr:tiny": load("dsr:tiny")}, {}, ("bun",))
    assert plan.spaces_of(one, "") == {"dsr:tiny": joint.NOTHING}


def test_the_command_repeats_what_was_asked(tmp_path):
    asked = candidates.Asked(("a:b", "c"), ("bun",), "", ("backbone=F",), ("x=1",))
    own, study = plan.settings_apart({"budget": "5m", "planted_weights": {"cut": 2.0}})

    class Job:
        folder = tmp_path

    assert final.command(asked, own, study, Job) == (
        "python -m experiments.tune --systems=a:b,c --categories=bun "
        "--weights=backbone=F --set=x=1 --budget=5m --planted_weights=cut=2 "
        f"--workdir={tmp_path}"
    )
