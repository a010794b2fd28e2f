"""The page "why this one": how the detector of a class was chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from ad3d_jax.experiment.config import written
from ad3d_jax.experiment.study import strata
from ad3d_jax.experiment.study.records import REASON
from ad3d_jax.experiment.study.slots import attempts_by_slot
from ad3d_jax.experiment.tuning.again import Found, Shown
from ad3d_jax.experiment.tuning.choice import Ranked, best_of_systems, front
from ad3d_jax.experiment.tuning.plan import Plan
from ad3d_jax.report import markup
from ad3d_jax.report.charts import DEFECTIVE, FAINT, GOOD, drawn, short
from ad3d_jax.report.estimate import estimate_section
from ad3d_jax.report.files import Sample
from ad3d_jax.report.glossary import METRICS
from ad3d_jax.report.markup import (
    DASH,
    definitions,
    figure,
    gap,
    number,
    paragraph,
    png,
    section,
    table,
    text,
)
from ad3d_jax.report.panels import Scale, checked, panels, part_scales
from ad3d_jax.report.samples import robust_scale
from ad3d_jax.workdir import names

ROWS = 30  # settings in the ranking
SYSTEMS = 8  # configurations in the table of kinds
DECADE = 10  # costs that lie further apart than this factor have a log scale
OVERLAY = "overlay"  # says what outline and map say
LINKS = ("estimate", "ranking", "kinds", "planted", "costs", "repeat", "missing")


def compose(
    plan: Plan,
    study: optuna.Study,
    ranking: Sequence[Ranked],
    found: Found,
    category: str,
    commands: Mapping[str, str],
) -> str:
    """Returns the page; all images are in it.

    Args:
        plan: of the search.
        study: its trials.
        ranking: what was fitted whole, the chosen one first.
        found: by the chosen one, on the class.
        category: the class.
        commands: that repeat it, by what they repeat.
    """
    chosen, links = ranking[0], "".join(f'<a href="#{x}">{x}</a>' for x in LINKS)
    return markup.document(
        f"Why {chosen.configuration} for {category}",
        f"<header><h1>{text(f'Why {chosen.configuration} for {category}')}</h1>",
        paragraph(lead(plan, study, ranking), "lead"),
        f'<nav><a href="{names.PAGE}">report</a>{links}</nav></header>',
        section(
            "chosen",
            "The chosen one",
            definitions(
                {
                    "configuration": chosen.configuration,
                    "what differs from it": settings(chosen) or "nothing",
                    "mean rank over kinds": number(chosen.rank, 2),
                    f"mean over kinds of {metric_name(plan)}": number(chosen.value),
                    "score of one image": milliseconds(chosen),
                    "size of the state": megabytes(chosen),
                }
            ),
        ),
        estimate_section(found.estimate),
        ranking_section(plan, ranking),
        kinds_section(plan, ranking),
        planted_section(found.shown),
        costs_section(plan, ranking),
        repeat_section(commands),
        missing_section(plan, study),
    )


def lead(plan: Plan, study: optuna.Study, ranking: Sequence[Ranked]) -> str:
    """Returns in a few sentences what was tried, and the rule of the choice."""
    slots = attempts_by_slot(study.get_trials(deepcopy=False))
    last = [attempts[-1].state for attempts in slots.values()]
    systems = ", ".join(plan.field.configs)
    words = (
        f"{len(last)} trials over {systems}: {len(ranking)} settings were fitted whole "
        f"and {last.count(TrialState.PRUNED)} trials were given up at a cheaper rung. "
        "All were judged on the same defects, planted into good samples that they did "
        "not see; the test set had no part in it, nor had samples that calibrate. The "
        "lowest mean rank over kinds of defects wins; of equal ones the higher value, "
        "then the lower latency."
    )
    if len(ranking) > 1:
        other = ranking[1]
        words += (
            f" The next one, {other.configuration}, has mean rank "
            f"{other.rank:.2f} beside {ranking[0].rank:.2f}."
        )
    return words


def settings(each: Ranked) -> str:
    """Returns the fields of a setting in a line."""
    return ", ".join(f"{name}={written(x)}" for name, x in each.fields.items())


def metric_name(plan: Plan) -> str:
    """Returns what a value is the mean of."""
    parts = strata.parts_of(plan.goal.metric)
    return " and ".join(METRICS[name].name for name in parts)


def milliseconds(each: Ranked) -> str:
    """Returns the latency of a setting."""
    return DASH if each.seconds is None else f"{1000 * each.seconds:.1f} ms"


def megabytes(each: Ranked) -> str:
    """Returns the size of a setting's state."""
    return DASH if each.bytes is None else f"{each.bytes / 1e6:.2f} MB"


def ranking_section(plan: Plan, ranking: Sequence[Ranked]) -> str:
    """Returns the settings that were fitted whole, the best first."""
    rows = [
        [
            *(str(place), each.configuration, settings(each) or "as it is"),
            *(number(each.rank, 2), number(each.value)),
            *(milliseconds(each), megabytes(each), each.trial),
        ]
        for place, each in enumerate(ranking[:ROWS], 1)
    ]
    heads = ["place", "configuration", "setting", "mean rank", "value", "one image"]
    heads += ["state", "trial"]
    words = (
        f"A value is the mean over kinds of {metric_name(plan)}. Latencies and sizes "
        "are measured of the settings whose state is kept, one after the other."
    )
    more = len(ranking) - ROWS
    return section(
        "ranking",
        "The ranking",
        paragraph(words),
        table(heads, rows, (3, 4, 5, 6)),
        gap(f"{more} more settings have higher ranks.") if more > 0 else "",
    )


def kinds_section(plan: Plan, ranking: Sequence[Ranked]) -> str:
    """Returns the values of the best setting of each configuration, kind by kind."""
    best = best_of_systems(ranking, SYSTEMS)
    rows = [
        [
            kind,
            *(
                number(strata.value({kind: each.kinds[kind]}, plan.goal.metric, {}))
                for each in best
            ),
        ]
        for kind in best[0].kinds
    ]
    weights = plan.goal.weights
    told = ", ".join(f"{kind} {weight:g}" for kind, weight in weights.items())
    return section(
        "kinds",
        "Kind by kind",
        paragraph("The best setting of each configuration."),
        table(
            ["kind", *(each.configuration for each in best)],
            rows,
            range(1, len(best) + 1),
        ),
        paragraph(f"Weights, where not 1: {told}.") if told else "",
    )


def planted_section(shown: Sequence[Shown]) -> str:
    """Returns images of what was planted and of what was found."""
    ready = [checked(Sample(each.row.name, dict(each.arrays)))[0] for each in shown]
    before = [checked(Sample(each.row.name, dict(each.before)))[0] for each in shown]
    scales = part_scales([*ready, *before])
    scale = robust_scale([sample.arrays["map"] for sample in ready])
    words = (
        "Of each kind the sample with the highest and that with the lowest score: the "
        "good part, the same with the planted defect, and the map of the chosen "
        "detector, all in one colour scale. The light blue line is the outline of what "
        "was planted."
    )
    blocks = [
        block(each, was, is_now, scales, scale)
        for each, was, is_now in zip(shown, before, ready, strict=True)
    ]
    return section("planted", "What was planted, and found", paragraph(words), *blocks)


def block(
    each: Shown,
    before: Sample,
    after: Sample,
    scales: dict[str, Scale],
    scale: Scale,
) -> str:
    """Returns the images of a planted sample."""
    was = [(f"{p.title}, before", p) for p in panels(before, scales, scale)[0]]
    now = [(p.title, p) for p in panels(after, scales, scale)[0] if p.title != OVERLAY]
    images = "".join(figure(markup.jpeg(p.image), title) for title, p in (*was, *now))
    return (
        f'<div class="sample"><h3>{text(each.row.defect)} '
        f'<span class="tag plain">score {number(each.row.score)}</span></h3>'
        f'<div class="panels">{images}</div></div>'
    )


def costs_section(plan: Plan, ranking: Sequence[Ranked]) -> str:
    """Returns quality against latency and against size, with the Pareto front."""
    places = {each.trial: place for place, each in enumerate(ranking, 1)}
    measured = [each for each in ranking if each.seconds is not None]
    columns = {
        "seconds": (1000, "score of one image, ms"),
        "bytes": (1e-6, "state, MB"),
    }

    def chart(axes: Any, cost: str, unit: float, title: str) -> None:
        def points(settings: Sequence[Ranked]) -> list[list[float]]:
            across = [unit * getattr(each, cost) for each in settings]
            return [across, [each.value for each in settings]]

        style = {"where": "post", "color": FAINT, "label": "Pareto front"}
        axes.step(*points(front(measured, cost)), **style)
        axes.plot(*points(measured), "o", color=GOOD, ms=5)
        axes.plot(*points(ranking[:1]), "o", color=DEFECTIVE, ms=8)
        for each, x, y in zip(measured, *points(measured), strict=True):
            words = f"{places[each.trial]} {short(each.configuration, 24)}"
            near = {"textcoords": "offset points", "xytext": (5, 4)}
            axes.annotate(words, (x, y), fontsize=7, **near)
        axes.set_xlabel(title)
        across = points(measured)[0]
        if max(across) > DECADE * min(across):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")

    def draw(fig: Any) -> None:
        both = fig.subplots(1, 2, sharey=True)
        for axes, (cost, column) in zip(both, columns.items(), strict=True):
            chart(axes, cost, *column)
        both[0].set_ylabel(f"mean of {metric_name(plan)}")
        both[0].legend(loc="lower right")

    note = "A point is a setting with its place; the chosen one is orange. Up and to "
    note += "the left is better."
    on_front = {
        title: ", ".join(
            f"{each.configuration} (place {places[each.trial]})"
            for each in front(measured, cost)
        )
        for cost, (_, title) in columns.items()
    }
    return section(
        "costs",
        "Quality against latency and memory",
        figure(png(drawn(9.5, 3.8, draw)), note),
        paragraph("On the Pareto front, the cheapest first:"),
        definitions(on_front),
    )


def repeat_section(commands: Mapping[str, str]) -> str:
    """Returns the commands that repeat the choice."""
    parts = [
        f'<h3>{text(what)}</h3><pre class="wrapped">{text(command)}</pre>'
        for what, command in commands.items()
    ]
    return section("repeat", "To repeat it", *parts)


def missing_section(plan: Plan, study: optuna.Study) -> str:
    """Returns what was left out, and which trials failed."""
    rows = list(plan.field.left_out.items())
    parts = [table(["configuration", "left out because"], rows)] if rows else []
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    reasons = [
        [str(t.number), str(t.user_attrs.get(REASON) or "its worker died")]
        for t in failed
    ]
    parts += [table(["trial", "failed because"], reasons)] if reasons else []
    nothing = paragraph("Nothing was left out, and no trial failed.")
    return section("missing", "What was left out", *(parts or [nothing]))
