"""The page of a study: what was tried, what it gave, what mattered."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from ad3d_jax.experiment.config import written
from ad3d_jax.experiment.study.ranking import best_first
from ad3d_jax.experiment.study.records import CAUSE, FACTS, FIELDS, REASON
from ad3d_jax.experiment.study.report_kinds import kinds
from ad3d_jax.experiment.study.slots import attempts_by_slot
from ad3d_jax.experiment.study.storage import quiet
from ad3d_jax.report import markup
from ad3d_jax.report.charts import DEFECTIVE, FAINT, GOOD, drawn, short
from ad3d_jax.report.markup import figure, gap, number, paragraph, png, section, table
from ad3d_jax.workdir import names
from ad3d_jax.workdir.atomic import write_text

SHOWN = 20  # trials in the table
FEWEST = 4  # trials of which importances are told


def write_report(study: optuna.Study, folder: Path, flags: Sequence[str]) -> Path:
    """Writes `report/index.html` of a study and returns its path.

    Args:
        study: to be shown.
        folder: of the study.
        flags: of the configuration, with which its trials began.
    """
    target = folder / names.REPORT / names.PAGE
    target.parent.mkdir(exist_ok=True)
    write_text(target, compose(study, flags))
    return target


def summary(study: optuna.Study, flags: Sequence[str]) -> list[str]:
    """Returns what there is to say of a study in a few lines."""
    slots = attempts_by_slot(study.get_trials(deepcopy=False))
    last = [attempts[-1] for attempts in slots.values()]
    counts = {
        "complete": sum(t.state == TrialState.COMPLETE for t in last),
        "pruned": sum(t.state == TrialState.PRUNED for t in last),
        "failed": sum(t.state == TrialState.FAIL for t in last),
        "unfinished": sum(not t.state.is_finished() for t in last),
    }
    again = sum(len(attempts) - 1 for attempts in slots.values())
    told = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    lines = [f"{study.study_name}: {len(slots)} trials ({told}); {again} tried again"]
    best = best_trial(study)
    if best is not None:
        lines.append(f"best: {best.value:.4f}, trial {best.number}")
        lines.append("on the test set: " + command(best, flags))
    return lines


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Returns the best of the complete trials, see `ranking.best_first`."""
    return next(iter(best_first(study, study.get_trials(deepcopy=False))), None)


def command(trial: FrozenTrial, flags: Sequence[str]) -> str:
    """Returns the command that fits a trial's parameters and scores the test set."""

    fields = trial.user_attrs[FIELDS].items()
    own = [f"--config.{name}={written(value)}" for name, value in fields]
    return shlex.join(("python", "-m", "experiments.main", *flags, *own))


def compose(study: optuna.Study, flags: Sequence[str]) -> str:
    """Returns the page; all images are in it."""
    title = f"Study {study.study_name}"
    complete = best_first(study, study.get_trials(deepcopy=False))
    body = [f"<header><h1>{markup.text(title)}</h1>"]
    body += [paragraph(line) for line in summary(study, flags)]
    body += ["</header>", _history(study)]
    if len(complete) >= 2:
        names = sorted({name for t in complete for name in t.params})
        body += [_importances(study, complete), _parallel(complete, names)]
        body.append(_slices(complete, names))
    else:
        body.append(gap("Too few trials are complete for more than a list."))
    body += [kinds(study, complete, SHOWN), _trials(study, complete), _facts(study)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{markup.text(title)}</title>\n<style>{markup.STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _history(study: optuna.Study) -> str:
    """Returns values by slot with the highest so far, and which trials were pruned.

    What a pruned trial had reached is no final value: it has a cross at the edge.
    """
    slots = attempts_by_slot(study.get_trials(deepcopy=False))
    last = {slot: attempts[-1] for slot, attempts in slots.items()}
    done = {s: t.value for s, t in last.items() if t.state == TrialState.COMPLETE}
    cut = {s: t.last_step for s, t in last.items() if t.state == TrialState.PRUNED}
    failed = [s for s, t in last.items() if t.state == TrialState.FAIL]

    def draw(fig):
        axes = fig.subplots()
        if done:
            places = np.array(sorted(done))
            values = np.array([done[place] for place in places])
            axes.plot(places, values, "o", color=GOOD, ms=5, label="complete")
            best = np.maximum.accumulate(values)
            axes.step(places, best, where="post", color=GOOD, lw=1.5, label="highest")
        if cut:
            across = axes.get_xaxis_transform()  # heights are shares of the chart
            style = {"color": DEFECTIVE, "transform": across, "clip_on": False}
            axes.plot(list(cut), [0] * len(cut), "x", ms=5, label="pruned", **style)
            for slot, stage in cut.items():
                if stage is not None:
                    words = f"{stage} %"
                    axes.text(slot, 0.03, words, ha="center", fontsize=7, **style)
        for slot in failed:
            axes.axvline(slot, color=FAINT, lw=1, ls=":")
        axes.set(xlabel="trial", ylabel=_metric(study))
        if done or cut:
            axes.legend(loc="lower right")

    note = (
        "Each point is a trial; crosses at the edge are trials that were pruned, with "
    )
    note += "the stage; dotted lines are trials that failed."
    return section("history", "History", figure(png(drawn(9, 3.4, draw)), note))


def _importances(study: optuna.Study, complete: Sequence[FrozenTrial]) -> str:
    """Returns which parameters explain the values, by fANOVA."""
    if len(complete) < FEWEST or np.ptp([t.value for t in complete]) == 0:
        words = (
            "Too few trials, or all of one value: nothing can be said of importance."
        )
        return section("importances", "Importances", gap(words))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        with quiet():
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError) as error:
        return section("importances", "Importances", gap(str(error)))
    names = list(found)[::-1]

    def draw(fig):
        axes = fig.subplots()
        axes.barh([short(n, 34) for n in names], [found[n] for n in names], color=GOOD)
        axes.set(xlabel="share of the variance of the values", xlim=(0, 1))
        axes.grid(axis="y", visible=False)

    note = "How much of the difference between trials each parameter alone explains."
    image = figure(png(drawn(9, 0.8 + 0.4 * len(names), draw)), note)
    return section("importances", "Importances", image)


def _parallel(complete: Sequence[FrozenTrial], names: Sequence[str]) -> str:
    """Returns each trial as a line through its parameters, dark where it is good."""
    values = np.array([t.value for t in complete])
    order = np.argsort(values)
    rank = np.empty(len(values))
    rank[order] = np.linspace(0, 1, len(values))
    columns = [_column(complete, name) for name in names]
    columns.append((*_scaled(values), "value"))

    def draw(fig):
        axes = fig.subplots()
        for row in order:
            heights = [column[0][row] for column in columns]
            strong = 0.12 + 0.88 * rank[row] ** 2
            color = DEFECTIVE if row == order[-1] else GOOD
            axes.plot(heights, color=color, alpha=strong, lw=0.8 + 1.4 * rank[row])
        for place, (_, marks, _) in enumerate(columns):
            for height, label in marks:
                axes.text(place + 0.02, height, short(label, 14), fontsize=7.5)
        axes.set_xticks(range(len(columns)), [short(c[2], 22) for c in columns])
        axes.set_yticks([])
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlim(-0.1, len(columns) - 0.6)

    note = "A line is a trial, the stronger the better; the best one is orange."
    image = figure(png(drawn(9.5, 3.8, draw)), note)
    return section("parallel", "Parallel coordinates", image)


def _slices(complete: Sequence[FrozenTrial], names: Sequence[str]) -> str:
    """Returns the values over each parameter."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)

    def draw(fig):
        grid = fig.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, name in zip(grid, names, strict=False):
            known = [t for t in complete if name in t.params]
            kind = known[-1].distributions[name]
            places = [t.params[name] for t in known]
            if isinstance(kind, CategoricalDistribution):
                labels = list(kind.choices)
                places = [labels.index(place) for place in places]
                axes.set_xticks(range(len(labels)), [short(str(x), 14) for x in labels])
            elif getattr(kind, "log", False):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter("")
            ages = [t.number for t in known]
            values = [t.value for t in known]
            axes.scatter(
                places, values, c=ages, cmap="Blues", s=22, edgecolor="#7a869a"
            )
            axes.set_title(short(name, 34))
        for axes in grid[len(names) :]:
            axes.set_axis_off()

    note = "A point is a trial; later ones are darker."
    image = figure(png(drawn(3.2 * columns, 2.6 * rows, draw)), note)
    return section("slices", "Slices", image)


def _column(
    complete: Sequence[FrozenTrial], name: str
) -> tuple[np.ndarray, list[tuple[float, str]], str]:
    """Returns heights in [0,1], marks and the title of a parameter's axis."""
    kind = next(t.distributions[name] for t in complete if name in t.params)
    found = [t.params.get(name) for t in complete]
    if isinstance(kind, CategoricalDistribution):
        labels = list(kind.choices)
        top = max(1, len(labels) - 1)
        heights = [labels.index(v) / top if v in labels else np.nan for v in found]
        marks = [(i / top, str(label)) for i, label in enumerate(labels)]
        return np.array(heights), marks, name
    values = np.array([np.nan if v is None else v for v in found], float)
    return *_scaled(values, getattr(kind, "log", False)), name


def _scaled(
    values: np.ndarray, log: bool = False
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Returns values scaled to [0,1] and marks at both ends and the middle."""
    scale, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    plain = scale(values)
    low, high = np.nanmin(plain), np.nanmax(plain)
    span = high - low or 1.0
    marks = [(h, f"{back(low + h * span):.4g}") for h in (0.0, 0.5, 1.0)]
    return (plain - low) / span, marks


def _trials(study: optuna.Study, complete: Sequence[FrozenTrial]) -> str:
    """Returns the best trials and the reasons of those that failed."""
    best = complete[:SHOWN]
    fields = sorted({name for t in best for name in t.user_attrs.get(FIELDS, {})})
    rows = [
        [str(t.number), number(t.value)]
        + [_written(t.user_attrs.get(FIELDS, {}).get(name)) for name in fields]
        for t in best
    ]
    parts = [table(["trial", _metric(study), *fields], rows, numbers=(1,))]
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    if failed:
        reasons = [
            [
                str(t.number),
                str(t.user_attrs.get(CAUSE) or "lost"),
                str(t.user_attrs.get(REASON, "its worker died")),
            ]
            for t in failed
        ]
        parts.append(table(["attempt", "failed", "reason"], reasons[-SHOWN:]))
    return section("trials", f"The best {len(best)} trials", *parts)


def _facts(study: optuna.Study) -> str:
    facts = study.user_attrs.get(FACTS, {})
    rows = [[name, str(value)] for name, value in sorted(facts.items())]
    return (
        "<details><summary>What all trials have in common</summary>"
        + table(["field", "value"], rows)
        + "</details>"
    )


def _metric(study: optuna.Study) -> str:
    name = study.user_attrs.get(FACTS, {}).get("metric", "value")
    return "mean of I-AUROC and AUPRO@0.3" if name == "mean" else name


def _written(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
