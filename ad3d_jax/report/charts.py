"""Charts of a run as PNG bytes; matplotlib is loaded when the first one is drawn."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

INK, FAINT = "#1f2a37", "#b3bcc7"
GOOD, DEFECTIVE = "#0072b2", "#d55e00"
PRO_END = 0.35
LIMITS = ((0.3, "#eef3f9"), (0.1, "#dbe6f2"), (0.05, "#c3d5e9"), (0.01, "#a5c0dd"))
STYLE = {
    "text.parse_math": False,  # names of defects may hold dollar signs
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff3",
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "legend.frameon": False,
}


def drawn(width: float, height: float, draw: Callable) -> bytes:
    """Returns the PNG of a figure of some inches that `draw(figure)` fills."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, not an error.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained", dpi=140)
        FigureCanvasAgg(figure)
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png")
    return file.getvalue()


def short(name: str, most: int = 22) -> str:
    """Returns a name fit for a chart: printable, on one line, cut off."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    plain = plain.encode("utf-8", "replace").decode("utf-8")
    cut = plain if len(plain) <= most else plain[: most - 1] + "…"
    return cut.replace("$", r"\$")  # else what stands between two is set as a formula


def unit_axes(axes, x: str, y: str, right: float = 1.0) -> None:
    """Labels axes that run from 0 to `right` and from 0 to 1."""
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01 * right, 1.01 * right), ylim=(-0.01, 1.02))


def roc_chart(false_rate: np.ndarray, true_rate: np.ndarray) -> bytes:
    """Returns the ROC curve over images."""

    def draw(figure):
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), "--", color="#9aa5b1", lw=1, label="chance")
        axes.fill_between(false_rate, true_rate, color=GOOD, alpha=0.08, lw=0)
        axes.plot(false_rate, true_rate, color=GOOD, lw=2)
        unit_axes(axes, "share of good images flagged", "share of defects found")
        axes.legend(loc="lower right")

    return drawn(4, 3.4, draw)


def pr_chart(recall: np.ndarray, precision: np.ndarray, prevalence: float) -> bytes:
    """Returns the precision-recall curve over images, as the steps that AP sums."""

    def draw(figure):
        axes = figure.subplots()
        axes.axhline(prevalence, ls="--", color="#9aa5b1", lw=1, label="chance")
        x, y = np.append(0, recall), np.append(precision[:1], precision)
        axes.plot(x, y, color=GOOD, lw=2, drawstyle="steps-pre")
        unit_axes(axes, "share of defects found", "share of flagged that is defective")
        axes.legend(loc="lower right")

    return drawn(4, 3.4, draw)


def pro_chart(false_rate: np.ndarray, overlap: np.ndarray) -> bytes:
    """Returns the PRO curve up to a false positive rate of 0.35, its limits shaded."""

    def draw(figure):
        axes = figure.subplots()
        for limit, color in LIMITS:
            axes.axvspan(0, limit, color=color, lw=0)
            axes.axvline(limit, color="#7b94b0", lw=0.7)
            place = {"x": limit, "y": 1.03, "ha": "center", "va": "bottom"}
            label = "" if limit == 0.01 else f"{limit:.0%}"
            axes.text(s=label, fontsize=8, color="#52606d", **place)
        axes.plot(false_rate, overlap, color=DEFECTIVE, lw=2)
        unit_axes(
            axes,
            "share of normal pixels flagged",
            "mean share of a defect found",
            PRO_END,
        )

    return drawn(4, 3.4, draw)


def score_chart(
    scores: Mapping[str, np.ndarray], good: Sequence[str], threshold: float | None
) -> bytes:
    """Returns a stacked histogram of image scores and a strip for each defect type.

    Args:
        scores: defect type -> [N] scores, in the order of the strips.
        good: the types that are good.
        threshold: score drawn as a line, if any.
    """
    # In float64, where scores that are one rounding apart still have room for bins.
    every = np.concatenate(list(scores.values())).astype(np.float64)
    kinds = {
        "good": [v for k, v in scores.items() if k in good],
        "defective": [v for k, v in scores.items() if k not in good],
    }

    def draw(figure):
        top, low = figure.subplots(
            2, 1, sharex=True, height_ratios=(1.6, max(1.0, 0.3 * len(scores)))
        )
        parts = {k: np.concatenate(v) for k, v in kinds.items() if v}
        colors = {"good": GOOD, "defective": DEFECTIVE}
        top.hist(
            list(parts.values()),
            bins=np.histogram_bin_edges(every, min(40, max(10, len(every) // 3))),
            stacked=True,
            color=[colors[k] for k in parts],
            label=list(parts),
            edgecolor="white",
            lw=0.5,
        )
        top.set(ylabel="images")
        top.yaxis.get_major_locator().set_params(integer=True)
        top.grid(visible=False, axis="x")
        names = list(scores)
        for place, name in enumerate(names):
            values = scores[name]
            color = GOOD if name in good else DEFECTIVE
            low.boxplot(
                values,
                orientation="horizontal",
                positions=[place],
                widths=0.55,
                showfliers=False,
                boxprops={"color": FAINT},
                whiskerprops={"color": FAINT},
                capprops={"color": FAINT},
                medianprops={"color": INK},
            )
            spread = np.random.default_rng(place).uniform(-0.2, 0.2, len(values))
            low.scatter(values, place + spread, s=14, color=color, alpha=0.7, lw=0)
        low.set_yticks(range(len(names)), [short(name) for name in names])
        low.set(xlabel="image score (higher is more anomalous)")
        low.invert_yaxis()
        low.grid(visible=False, axis="y")
        if threshold is not None:
            for axes in (top, low):
                axes.axvline(threshold, color=INK, lw=1, ls="--")
            top.plot([], [], color=INK, lw=1, ls="--", label="threshold of F1-max")
        top.legend(loc="upper right")

    return drawn(11, 2.7 + 0.4 * len(scores), draw)


def training_chart(steps: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]):
    """Returns small charts, one a logged value, against the step.

    Args:
        steps: name -> [N] steps.
        values: name -> [N] values, NaN where it was not finite.
    """
    names = list(values)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)

    def draw(figure):
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(grid, names, strict=False):
            x, y = steps[name], values[name]
            many = len(y) > 60
            axes.plot(x, y, color=GOOD, lw=1, alpha=0.35 if many else 1)
            if len(y) == 1:
                axes.plot(x, y, "o", color=GOOD)
            if many:
                axes.plot(x, smoothed(y), color=GOOD, lw=1.8)
            positive = y[np.isfinite(y) & (y > 0)]
            finite = np.isfinite(y).sum()
            if finite and len(positive) == finite and np.ptp(np.log10(positive)) > 1.3:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("")
            axes.set_title(short(name, 32))
            axes.set_xlabel("step")
        for axes in grid[len(names) :]:
            axes.set_axis_off()

    return drawn(3.5 * columns, 2.5 * rows, draw)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Returns the running mean over a fortieth of the series; NaN stays a gap."""
    window = max(3, len(values) // 40)
    known = np.isfinite(values)
    kernel = np.ones(window)
    total = np.convolve(np.where(known, values, 0), kernel, "same")
    count = np.convolve(known.astype(float), kernel, "same")
    return np.where(known, total / np.maximum(count, 1), np.nan)


def scale_bar(colors: np.ndarray, low: float, high: float) -> bytes:
    """Returns the colour bar of anomaly maps, colours uint8 [1,N,3]."""

    def draw(figure):
        axes = figure.subplots()
        axes.imshow(colors, aspect="auto", extent=(low, max(high, low + 1e-12), 0, 1))
        axes.set_yticks([])
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)

    return drawn(4.2, 0.55, draw)
