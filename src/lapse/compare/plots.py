"""The pictures of a comparison: forest plot, learning curves, and what each placement drops."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from lapse.compare.result import Comparison, Row, Run
from lapse.compare.statistics import TOO_FEW
from lapse.core.drawing import draw
from lapse.core.masks import Masks
from lapse.core.plan import GATES, plan

STEPS, FEATURES, UNITS = 20, 12, 12
SEED = 4  # its small masks happen to drop about as much as the rates say
KEPT, DROPPED, HELD = 0, 1, 2

_SMALLEST = 1e-9  # loss on the logarithmic axis; easy data reach exactly 0 in float32
_WIDTH = 648  # of every picture; all lengths are in points
_INK, _FAINT, _RULE = "#22262b", "#666c73", "#d5d9de"
# After Okabe and Ito, for every kind of colour vision; the shapes of the marks differ too.
_BLUE, _VERMILION, _GREY = "#0072b2", "#c44f00", "#9aa0a6"
_MARKS = {"better": (_BLUE, "o"), "worse": (_VERMILION, "s")}
_MASKS = ListedColormap(["#e9edf2", "#1f3552", "#e69f00"])
_MASK_NAMES = ("kept", "dropped", "keeps its old value")
_SITES = {"Input": "xW", "Output": "y"}  # every other slot is inside the recurrence
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE: Any = {
    "text.parse_math": False,  # a $ in a name does not start a formula
    "font.size": 8.0,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
}


def original(row: Row, rows: Iterable[Row]) -> Row:
    """The row whose runs `row` shows: `row` itself, or the earlier one with the same noise."""
    return next((other for other in rows if other.placement == row.same_as), row)


def svg(figure: Figure) -> str:
    """A picture of this module as an <svg> element for an HTML page.

    Text stays text, and the same picture gives the same bytes. Every id starts with the picture's
    gid, so that one page can have several pictures. Screen readers read the picture's label.
    """
    name = figure.get_gid()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "svg.image_inline": True}
    file = io.StringIO()
    with mpl.rc_context(settings):
        figure.savefig(
            file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = text.replace(
        "<svg", f'<svg role="img" aria-label="{escape(str(figure.get_label()))}"', 1
    )
    # The layout uses matplotlib's own font, which is about as wide as any of these.
    text = re.sub(r"'DejaVu Sans'[^;\"]*", _FONTS, text)
    # Unused ids are removed, because equal images would have the same one.
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)


@style.context(["default", _STYLE])
def forest(comparison: Comparison) -> Figure:
    """Paired differences of the test log-loss to `none`: mean, 95 % interval, and every seed."""
    lines = [(row, original(row, comparison.rows)) for row in comparison.rows]
    lines = [(row, source) for row, source in lines if source.difference is not None]
    left, right, above, below, pitch = 184, 134, 26, 40, 30
    height = above + pitch * len(lines) + below
    figure = _figure(
        "forest", height, "Difference of the test log-loss of each placement to no dropout"
    )
    ax = _axes(figure, left, below, _WIDTH - left - right, pitch * len(lines))
    at_left = blended_transform_factory(figure.transFigure, ax.transData)

    ax.axvline(0, color=_INK, linewidth=1)
    for y, (row, source) in enumerate(lines):
        verdict = source.verdict or TOO_FEW
        colour, marker = _MARKS.get(verdict, (_FAINT, "D"))
        low, middle, high = np.array([source.low, source.difference, source.high], float)
        seeds = _differences(comparison.runs, source.placement)
        ax.plot(seeds, [y + 0.25] * len(seeds), "o", color=colour, alpha=0.35, ms=3.6, mew=0)
        ax.plot([low, high], [y, y], color=colour, linewidth=1.8)
        face = "white" if verdict == TOO_FEW else colour
        ax.plot([middle], [y], marker, color=colour, markerfacecolor=face, ms=5.8)
        label = row.label + (f"\n= {source.label}" if row.same_as else "")
        ax.text(0, y, label, transform=at_left, va="center", fontsize=8.5, linespacing=1.25)
        ax.text(1.02, y, verdict, transform=ax.get_yaxis_transform(), va="center", color=colour)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.set_yticks(np.arange(len(lines) + 1) - 0.5, [""] * (len(lines) + 1))
    ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:.6g}".replace("-", "\N{MINUS SIGN}"))
    )
    ax.grid()
    ax.spines["left"].set_visible(False)
    above_zero: Any = {"xy": (0, 1), "xycoords": ax.get_xaxis_transform(), "color": _FAINT}
    above_zero["textcoords"] = "offset points"
    ax.annotate("← better than none", xytext=(-6, 9), ha="right", **above_zero)
    ax.annotate("worse than none →", xytext=(6, 9), ha="left", **above_zero)
    ax.set_xlabel("difference of the test log-loss to none", color=_FAINT, labelpad=6)
    return figure


def _differences(runs: Iterable[Run], placement: str) -> list[float]:
    """Test log-loss minus the test log-loss of `none`, for each seed that has both."""
    losses = {(run.placement, run.seed): run.test_log_loss for run in runs}
    seeds = sorted(seed for name, seed in losses if name == placement and ("none", seed) in losses)
    return [losses[placement, seed] - losses["none", seed] for seed in seeds]


@style.context(["default", _STYLE])
def learning_curves(comparison: Comparison) -> Figure:
    """Training and validation log-loss by epoch, one panel for each distinct placement."""
    rows = [row for row in comparison.rows if not row.same_as]
    runs = defaultdict(list)
    for run in comparison.runs:
        runs[run.placement].append(run)
    training = {name: mean_curve([run.train_curve for run in own]) for name, own in runs.items()}
    validation = {
        name: mean_curve([run.validation_curve for run in own]) for name, own in runs.items()
    }
    longest = max(len(run.validation_curve) for run in comparison.runs)
    # Without dropout the training loss may fall by many powers of ten. The axis ends earlier, to
    # leave room for the validation curves.
    most = max(curve.max() for curve in (*training.values(), *validation.values()))
    least = min(curve.min() for curve in (*training.values(), *validation.values()))
    least = max(least, min(curve.min() for curve in validation.values()) / 4, _SMALLEST)
    most = max(most, 10 * least)

    columns = min(len(rows), 5)
    lines = -(-len(rows) // columns)
    left, right, gap, title, tall, above, below = 30, 8, 12, 40, 104, 18, 34
    wide = (_WIDTH - left - right - gap * (columns - 1)) / columns
    height = above + lines * (title + tall) + below
    figure = _figure("curves", height, "Training and validation log-loss by epoch")
    dashed: Any = {"color": _VERMILION, "linewidth": 1.6, "linestyle": (0, (4, 1.2))}
    solid: Any = {"color": _BLUE, "linewidth": 1.8}
    grey: Any = {"color": _GREY, "linewidth": 1.8}
    for n, row in enumerate(rows):
        line, column = divmod(n, columns)
        bottom = below + (lines - 1 - line) * (title + tall)
        ax = _axes(figure, left + column * (wide + gap), bottom, wide, tall)
        ax.set_yscale("log")
        ax.set_ylim(least * 0.9, most * 1.15)
        ax.set_xlim(1, max(longest, 2))
        own = runs[row.placement]
        faint: Any = {"linewidth": 0.5, "alpha": min(0.5, len(own) ** -0.5)}
        for run in own:
            _curve(ax, run.train_curve, color=_VERMILION, **faint)
            _curve(ax, run.validation_curve, color=_BLUE, **faint)
            best = run.validation_curve[run.best_epoch - 1]
            ax.plot(run.best_epoch, best, "o", color=_BLUE, ms=2.8, mew=0, alpha=0.6)
        if row.placement != "none":
            _curve(ax, validation["none"], **grey)
        _curve(ax, training[row.placement], **dashed)
        _curve(ax, validation[row.placement], **solid)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.tick_params(labelleft=column == 0, labelbottom=n + columns >= len(rows))
        ax.grid()
        ax.set_title(fill(row.label, 21), loc="left", fontsize=8.5, pad=5, linespacing=1.2)
    key = (
        Line2D([], [], **solid, label="validation"),
        Line2D([], [], **dashed, label="training, without noise"),
        Line2D([], [], **grey, label="validation of none"),
        Line2D([], [], color=_BLUE, ls="", marker="o", ms=3.5, label="best epoch of a seed"),
    )
    figure.legend(handles=key, loc="upper right", ncols=4, frameon=False, borderaxespad=0)
    figure.text(0, 1 - 9 / height, "log-loss, log scale", color=_FAINT)
    figure.text(0.5, 6 / height, "epoch", color=_FAINT, ha="center")
    return figure


def mean_curve(curves: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The mean by epoch over the curves that reach it, as long as at least half of them do."""
    lengths = sorted(map(len, curves), reverse=True)
    end = lengths[(len(curves) + 1) // 2 - 1]
    means = [np.mean([curve[n] for curve in curves if len(curve) > n]) for n in range(end)]
    return np.array(means, np.float64)


def _curve(ax: Axes, losses: Sequence[float] | NDArray[np.float64], **how: Any) -> None:
    ax.plot(np.arange(1, len(losses) + 1), losses, **how)


@style.context(["default", _STYLE])
def masks(rows: Sequence[Row]) -> Figure:
    """What each placement drops in one sequence: at the input, in the recurrence, at the output."""
    label, gap, between, tall, pitch, above = 150, 16, 4, 46, 62, 46
    wide = (_WIDTH - label - 2 - 2 * gap) / 3
    height = above + pitch * len(rows) - (pitch - tall) + 2
    figure = _figure("masks", height, "What each placement drops, by time step")
    columns = ("Input", "Inside the recurrence", "Output")
    for column, name in enumerate(columns):
        left = (label + column * (wide + gap)) / _WIDTH
        what = "features" if name == "Input" else "units"
        figure.text(left, 1 - 12 / height, name, fontsize=9, fontweight="bold")
        figure.text(left, 1 - 25 / height, f"{what} ↓  time →", color=_FAINT)
    used = {KEPT, DROPPED}
    for n, row in enumerate(rows):
        bottom = height - above - n * pitch - tall
        text = fill(row.label, 26)
        if row.same_as:
            text += "\n" + fill(f"= {original(row, rows).label}", 27)
        middle = (bottom + tall / 2) / height
        figure.text(0, middle, text, va="center", fontsize=8.5, linespacing=1.25)
        drawn = draw(
            plan(row.noise, "LSTM"), SEED, batch=1, timesteps=STEPS, features=FEATURES, units=UNITS
        )
        for column, name in enumerate(columns):
            bands = mask_bands(drawn, name)
            each = (wide - between * (len(bands) - 1)) / len(bands)
            for k, (title, codes) in enumerate(bands):
                left = label + column * (wide + gap) + k * (each + between)
                ax = _axes(figure, left, bottom, each, tall)
                ax.imshow(codes, _MASKS, vmin=0, vmax=2, aspect="auto", interpolation="none")
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(True)
                ax.set_title(title, loc="left", fontsize=7, color=_FAINT, pad=2)
                used |= set(codes.ravel().tolist())
    key = [Patch(facecolor=_MASKS(code), label=_MASK_NAMES[code]) for code in sorted(used)]
    figure.legend(handles=key, loc="upper left", frameon=False, borderpad=0, borderaxespad=0)
    return figure


def mask_bands(drawn: Masks, name: str) -> list[tuple[str, NDArray[np.int64]]]:
    """What one column of the picture shows, for one sample.

    Args:
        drawn: masks of one sample, STEPS timesteps, FEATURES features and UNITS units.
        name: "Input", "Inside the recurrence" or "Output".

    Returns:
        For each slot and gate with its own mask: a title, and KEPT, DROPPED or HELD in an array
        (width, STEPS), or (rows, columns) for weights. Without a mask, one band that is all KEPT.
    """
    slots = _SITES.get(name) or [s for s in Masks._fields if s not in "".join(_SITES.values())]
    width = FEATURES if name == "Input" else UNITS
    titles = {"h": "previous output, as read", "k_c": "cell state", "k_h": "hidden state"}
    bands = []
    for slot in slots:
        mask = getattr(drawn, slot)
        if mask is None:
            continue
        codes = np.where(mask == 0, HELD if slot.startswith("k_") else DROPPED, KEPT)
        if slot in ("W", "U"):
            title = ("" if slot == "W" else "recurrent ") + "kernel: rows ↓  columns →"
            bands.append((title, np.broadcast_to(codes, (width, len(GATES["LSTM"]) * UNITS))))
            continue
        gates = (
            [f"gate {k}" for k in GATES["LSTM"]] if mask.shape[2] > 1 else [titles.get(slot, "")]
        )
        for k, title in enumerate(gates):
            bands.append((title, np.broadcast_to(codes[0, :, k], (STEPS, width)).T))
    return bands or [("", np.full((width, STEPS), KEPT))]


def _figure(name: str, height: float, label: str) -> Figure:
    figure = Figure(figsize=(_WIDTH / 72, height / 72), label=label)
    figure.set_gid(name)
    return figure


def _axes(figure: Figure, left: float, bottom: float, wide: float, tall: float) -> Axes:
    """Axes at a position given in points."""
    height = figure.get_figheight() * 72
    return figure.add_axes((left / _WIDTH, bottom / height, wide / _WIDTH, tall / height))
