"""The report: the table, the pictures, and that the page is self-contained."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lapse.compare import plots, report
from lapse.compare.answer import answer, best
from lapse.compare.placements import PLACEMENTS, QUICK
from lapse.compare.result import Comparison, Row, Run
from lapse.core.drawing import draw
from lapse.core.plan import plan

EVIL = "<script>alert('1')</script>\"&"
MINUS = "\N{MINUS SIGN}"
SHIFTS = dict(zip([p.key for p in PLACEMENTS], np.linspace(0, -0.05, 11).round(3), strict=True))
SHIFTS["weight-drop"] = 0.06
VOID = {"meta", "br", "img", "hr", "link", "input"}


def synthetic(seeds: int = 10, quick: bool = False) -> Comparison:
    """A comparison with simple numbers: seed s of a placement is off its mean by s / 1000."""
    placements = [p for p in PLACEMENTS if not quick or p.key in QUICK]
    runs, rows, first = [], [], {}
    for n, placement in enumerate(placements):
        owner = first.setdefault(placement.noise, placement)
        shift = float(SHIFTS[owner.key])
        log_loss = 0.2 + shift
        if owner is placement:
            for seed in range(seeds):
                epochs = 6 + seed % 3
                validation = tuple(2.0 / (e + 1) + shift for e in range(epochs))
                wobble = 0.0 if placement.key == "none" else (seed - (seeds - 1) / 2) / 1000
                runs.append(
                    Run(
                        placement=placement.key,
                        seed=seed,
                        test_log_loss=log_loss + wobble,
                        test_accuracy=0.9 + n / 200,
                        validation_log_loss=validation[epochs - 2],
                        best_epoch=epochs - 1,
                        train_curve=tuple(1.5 / (e + 1) for e in range(epochs)),
                        validation_curve=validation,
                    )
                )
        given: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p", "won", "verdict"))
        if placement.key != "none":
            verdict = "worse" if shift > 0 else "better" if shift < -0.02 else ""
            given = {
                "difference": shift,
                "low": shift - 0.011,
                "high": shift + 0.012,
                "p": 0.0004 if shift < -0.02 else 0.0316,
                "won": seeds - n % 3,
                "verdict": "too few seeds" if quick else verdict or "no significant difference",
            }
        rows.append(
            Row(
                placement=placement.key,
                label=placement.label,
                noise=placement.noise,
                kind=placement.kind,
                about=placement.about,
                keras=placement.keras,
                same_as="" if owner is placement else owner.key,
                log_loss=log_loss,
                accuracy=0.9 + n / 200,
                validation_log_loss=0.25 + shift,
                step_ms=1.5 + n,
                **given,
            )
        )
    return Comparison(
        answer=answer(rows, runs, "walks"),
        data={
            "name": "walks",
            "source": "walks.csv",
            "sha256": "ab" * 32,
            "train": 270,
            "test": 370,
            "features": ["speed", "heart rate"],
            "classes": [f"person {n}" for n in range(20)],
            "shortest": 7,
            "longest": 29,
            "held_out": "30% of the sequences of each class",
        },
        settings={
            "units": 48,
            "epochs": 60,
            "patience": 12,
            "batch": 32,
            "learning_rate": 0.01,
            "validation": 0.2,
            "seeds": seeds,
            "quick": quick,
        },
        rows=tuple(rows),
        runs=tuple(runs),
        made_with={"lapse": "0.1.0", "torch": "2.10", "processor": "abacus", "cores": "2"},
    )


@pytest.fixture(scope="module")
def full() -> Comparison:
    return synthetic()


@pytest.fixture(scope="module")
def quick() -> Comparison:
    return synthetic(seeds=3, quick=True)


@pytest.fixture(scope="module")
def page(full: Comparison) -> str:
    return report.html(full)


@pytest.fixture(scope="module")
def quick_page(quick: Comparison) -> str:
    return report.html(quick)


class Page(HTMLParser):
    """Collects what a browser would show, and fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def line(ax: Axes, marker: str, at: float) -> list[Any]:
    """The lines with this marker at this height."""
    found = [one for one in ax.lines if one.get_marker() == marker]
    return [one for one in found if np.allclose(one.get_ydata(), at) and len(one.get_xdata())]


def images(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes]


# Table


def test_table_shows_the_numbers_of_the_rows(full: Comparison) -> None:
    lines = {line["placement"]: tuple(line.values()) for line in report.table(full)}
    assert len(lines) == 11
    assert lines["none"] == ("none", "0.200", "90.0 %", "", "", "", "1.50", "baseline")
    assert lines["Variational (tied)"] == (
        "Variational (tied)",
        "0.155",
        "94.5 %",
        f"{MINUS}0.045 [{MINUS}0.056, {MINUS}0.033]",
        "<0.001",
        "10/10",
        "10.50",
        "better",
    )
    assert lines["WeightDrop"][3:6] == ("+0.060 [+0.049, +0.072]", "0.032", "9/10")
    assert lines["Dropout in front"][-1] == "no significant difference"


def test_table_names_what_a_row_is_the_same_as(full: Comparison) -> None:
    by_name = {line["placement"]: line for line in report.table(full)}
    same, original = by_name["dropout="], by_name["SpatialDropout1D in front"]
    assert same["verdict"] == "= SpatialDropout1D in front"
    assert same["test log-loss"] == original["test log-loss"]


def test_table_of_small_losses_has_a_digit_more(full: Comparison) -> None:
    small = replace(full, rows=tuple(replace(row, log_loss=row.log_loss / 4) for row in full.rows))
    assert report.table(small)[0]["test log-loss"] == "0.0500"


def test_table_of_a_first_look_gives_no_verdict(quick: Comparison) -> None:
    lines = report.table(quick)
    assert [line["verdict"] for line in lines] == ["baseline"] + ["too few seeds"] * 4
    assert lines[1]["seeds won"] == "2/3"


def test_page_holds_the_table(full: Comparison, page: str) -> None:
    cells = Page(page).cells[1:]
    assert cells == [list(line.values()) for line in report.table(full)]


# The best placement


def test_best_is_the_one_that_the_answer_names(full: Comparison, quick: Comparison) -> None:
    for comparison in (full, quick):
        name = re.escape(best(comparison.rows).label)
        assert re.search(rf"(use {name},|[,:] {name} has the lowest)", comparison.answer)


def test_best_has_the_lowest_validation_loss_not_the_lowest_test_loss(quick: Comparison) -> None:
    rows = tuple(
        replace(row, validation_log_loss=0.01) if row.placement == "dropout-argument" else row
        for row in quick.rows
    )
    changed = replace(quick, rows=rows)
    assert best(changed.rows).placement == "dropout-argument"
    shaded = re.findall(r'<tr class="best"><td>([^<]*)', report.html(changed))
    assert shaded == ["dropout="]


def test_no_dropout_can_be_best(quick: Comparison) -> None:
    rows = (replace(quick.rows[0], validation_log_loss=0.01), *quick.rows[1:])
    page = report.html(replace(quick, rows=rows))
    assert re.findall(r'<tr class="best"><td>([^<]*)', page) == ["none"]


# Page


def test_page_is_well_formed_and_in_order(
    full: Comparison, page: str, quick: Comparison, quick_page: str
) -> None:
    for comparison, source in ((full, page), (quick, quick_page)):
        text = Page(source).text
        parts = [
            "Where to put dropout: walks",
            comparison.answer,
            "too few seeds" if comparison is quick else "no significant difference",
            "Differences to no dropout",
            "What each placement drops",
            "Learning curves",
            "Code to paste",
            "Method",
            "Data, settings and versions",
        ]
        places = [text.index(part) for part in parts]
        assert places == sorted(places)


def test_page_describes_the_method(page: str, quick_page: str) -> None:
    text = " ".join(Page(page).text.split())
    for part in (
        "270 training and 370 test sequences of 7 to 29 steps, with 2 features",
        "person 11 and 8 more)",
        "one LSTM with 48 units",
        "the same 10 seeds",
        "which 20 % of the training sequences",
        "after 12 epochs without a lower validation log-loss, or after 60 epochs.",
        "Holm's correction for 9 comparisons",
        "units 48, epochs 60, patience 12, batch 32, learning rate 0.01, validation 0.2, seeds 10",
        "walks.csv",
        "ab" * 32,
        "lapse 0.1.0, torch 2.10",
        "processor abacus, cores 2",
    ):
        assert part in text
    assert "too few for a verdict" not in text
    assert "3 seeds are too few for a verdict" in Page(quick_page).text


def test_page_gives_each_placement_its_meaning_and_its_code(full: Comparison, page: str) -> None:
    text = Page(page).text
    for row in full.rows:
        assert row.about in text and row.noise in text
        assert row.keras.replace("UNITS", "48").replace("\n", ",\n") + "," in text
    assert "Dropout(0.25),\nLSTM(48)," in text
    assert "LSTM(48, noise=lapse.WeightDrop(rate=0.25))," in text
    assert "UNITS" not in text


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "<script" not in page and "javascript:" not in page and "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    for _, attributes in Page(page).tags:
        assert not any(name.startswith("on") for name in attributes)
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))


def test_page_has_each_id_once_and_finds_all_it_refers_to(page: str) -> None:
    ids = Counter(found for _, attributes in Page(page).tags if (found := attributes.get("id")))
    assert max(ids.values()) == 1
    assert {name.split("-")[0] for name in ids} == {"forest", "masks", "curves"}
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) == set(ids)


def test_page_escapes_every_text(full: Comparison) -> None:
    rows = tuple(
        replace(row, label=EVIL + row.label, about=EVIL, keras=EVIL + row.keras)
        for row in full.rows
    )
    data = {
        **full.data,
        "name": EVIL,
        "source": EVIL,
        "sha256": EVIL,
        "features": [EVIL],
        "classes": [EVIL],
    }
    evil = report.html(
        replace(
            full,
            answer=EVIL,
            data=data,
            rows=rows,
            settings={**full.settings, EVIL: EVIL},
            made_with={EVIL: EVIL, "processor": EVIL},
        )
    )
    assert "<script" not in evil
    seen = Page(evil)
    assert {"script"} & {tag for tag, _ in seen.tags} == set()
    assert seen.text.count(EVIL) >= 11 * 6 + 10


def test_result_survives_json(full: Comparison, page: str) -> None:
    again = Comparison.from_json(full.to_json())
    assert again == full
    assert report.html(again) == page


# Pictures


def test_forest_draws_the_rows(full: Comparison) -> None:
    (ax,) = plots.forest(full).axes
    shown = [row for row in full.rows if row.placement != "none"]
    marks = {"better": "o", "worse": "s", "no significant difference": "D"}
    for y, row in enumerate(shown):
        (interval,) = line(ax, "None", y)
        np.testing.assert_allclose(interval.get_xdata(), [row.low, row.high])
        (middle,) = line(ax, marks[row.verdict or ""], y)
        assert middle.get_xdata()[0] == row.difference
        (dots,) = line(ax, "o", y + 0.25)
        own = {
            run.seed: run for run in full.runs if run.placement == (row.same_as or row.placement)
        }
        none = {run.seed: run for run in full.runs if run.placement == "none"}
        expected = [own[s].test_log_loss - none[s].test_log_loss for s in range(10)]
        np.testing.assert_allclose(dots.get_xdata(), expected)
    labels = [text.get_text() for text in ax.texts]
    assert "dropout=\n= SpatialDropout1D in front" in labels
    assert labels.count("worse") == 1


def test_forest_draws_a_duplicate_row_with_the_numbers_of_its_original(full: Comparison) -> None:
    rows = tuple(
        replace(row, difference=0.9, low=0.8, high=1.0) if row.same_as else row for row in full.rows
    )
    (ax,) = plots.forest(replace(full, rows=rows)).axes
    original = next(row for row in rows if row.placement == "spatial-front")
    (interval,) = line(ax, "None", 3)
    np.testing.assert_allclose(interval.get_xdata(), [original.low, original.high])


def test_forest_of_a_first_look_has_open_marks(quick: Comparison) -> None:
    (ax,) = plots.forest(quick).axes
    for y in range(4):
        (middle,) = line(ax, "D", y)
        assert middle.get_markerfacecolor() == "white"
        (dots,) = line(ax, "o", y + 0.25)
        assert len(dots.get_xdata()) == 3


def test_masks_are_those_that_training_draws(full: Comparison) -> None:
    drawn = images(plots.masks(full.rows))
    names = {row.placement: row.noise for row in full.rows}

    def masks(name: str) -> Any:
        return draw(
            plan(names[name], "LSTM"),
            plots.SEED,
            batch=1,
            timesteps=plots.STEPS,
            features=plots.FEATURES,
            units=plots.UNITS,
        )

    kept = np.full((12, 20), plots.KEPT)
    front, spatial, steps = masks("dropout-front"), masks("spatial-front"), masks("timestep-front")
    recurrent, both = masks("recurrent-argument"), masks("both-arguments")
    zoneout, tied = masks("zoneout"), masks("variational")

    def dropped(mask: np.ndarray, gate: int = 0) -> np.ndarray:
        return np.broadcast_to(mask[0, :, gate, :] == 0, (20, 12)).T * plots.DROPPED

    in_front = [dropped(front.x), kept, kept, dropped(spatial.x), kept, kept]
    expected = [kept, kept, kept, *in_front, dropped(steps.x), kept, kept]
    expected += [dropped(spatial.x), kept, kept]  # dropout= is SpatialDropout1D
    expected += [kept, *(dropped(recurrent.h, k) for k in range(4)), kept]
    expected += [dropped(both.x, k) for k in range(4)]
    expected += [*(dropped(both.h, k) for k in range(4)), kept]
    expected += [kept, kept, dropped(masks("dropout-after").y)]
    held = [(mask[0, :, 0, :] == 0).T * plots.HELD for mask in (zoneout.k_c, zoneout.k_h)]
    expected += [kept, *held, kept]
    expected += [dropped(tied.x), dropped(tied.h), dropped(tied.y)]
    expected += [kept, (masks("weight-drop").U == 0) * plots.DROPPED, kept]
    assert len(drawn) == len(expected)
    for one, other in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_masks_show_what_the_placements_say(full: Comparison) -> None:
    row = {row.placement: row for row in full.rows}
    spatial = images(plots.masks([row["spatial-front"]]))[0]
    assert (spatial == spatial[:, :1]).all() and spatial.any()
    steps = images(plots.masks([row["timestep-front"]]))[0]
    assert (steps == steps[:1]).all() and steps.any()
    zoneout = plots.masks([row["zoneout"]])
    assert [set(image.flat) for image in images(zoneout)[1:3]] == [{plots.KEPT, plots.HELD}] * 2
    legend = [text.get_text() for text in zoneout.legends[0].get_texts()]
    assert legend == ["kept", "dropped", "keeps its old value"]
    titles = [ax.get_title(loc="left") for ax in plots.masks([row["recurrent-argument"]]).axes]
    assert titles == ["", "gate i", "gate f", "gate g", "gate o", ""]


def test_mean_curve_averages_while_half_of_the_seeds_run() -> None:
    np.testing.assert_allclose(plots.mean_curve([(4, 2, 1, 1), (2, 4), (3, 3, 3)]), [3, 3, 2])
    np.testing.assert_allclose(plots.mean_curve([(4.0, 2.0), (2.0,)]), [3, 2])
    np.testing.assert_allclose(plots.mean_curve([(5.0, 4.0)]), [5, 4])


def test_learning_curves_draw_means_seeds_and_best_epochs(full: Comparison) -> None:
    figure = plots.learning_curves(full)
    distinct = [row for row in full.rows if not row.same_as]
    assert len(figure.axes) == len(distinct) == 10
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1
    none = plots.mean_curve([run.validation_curve for run in full.runs if run.placement == "none"])
    for ax, row in zip(figure.axes, distinct, strict=True):
        own = [run for run in full.runs if run.placement == row.placement]
        *_, training, validation = ax.lines
        np.testing.assert_allclose(
            validation.get_ydata(), plots.mean_curve([run.validation_curve for run in own])
        )
        np.testing.assert_allclose(
            training.get_ydata(), plots.mean_curve([run.train_curve for run in own])
        )
        np.testing.assert_array_equal(validation.get_xdata(), np.arange(1, 8))
        best = [one for one in ax.lines if one.get_marker() == "o"]
        assert [one.get_xdata()[0] for one in best] == [run.best_epoch for run in own]
        assert len(ax.lines) == 3 * len(own) + 2 + (row.placement != "none")
        if row.placement != "none":
            np.testing.assert_allclose(ax.lines[-3].get_ydata(), none)


@pytest.mark.parametrize("seeds", [1, 2, 30])
def test_learning_curves_of_any_number_of_seeds(seeds: int) -> None:
    assert len(plots.learning_curves(synthetic(seeds)).axes) == 10


def test_data_so_easy_that_all_losses_are_zero_can_be_drawn(quick: Comparison) -> None:
    zero = tuple(
        replace(run, test_log_loss=0.0, train_curve=(0.0, 0.0), validation_curve=(0.0, 0.0))
        for run in quick.runs
    )
    runs = tuple(replace(run, best_epoch=1) for run in zero)
    rows = tuple(
        replace(row, log_loss=0.0, difference=difference, low=difference, high=difference)
        for row in quick.rows
        for difference in [None if row.placement == "none" else 0.0]
    )
    Page(report.html(replace(quick, rows=rows, runs=runs)))


@pytest.mark.parametrize(("seeds", "look"), [(10, False), (30, False), (3, True)])
def test_no_text_overlaps_or_leaves_the_picture(seeds: int, look: bool) -> None:
    comparison = synthetic(seeds, look)
    for figure in (
        plots.forest(comparison),
        plots.masks(comparison.rows),
        plots.learning_curves(comparison),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        whole = figure.bbox.padded(1)
        boxes: list[tuple[str, Bbox]] = []
        for text in drawn_texts(figure):
            assert text.get_fontsize() * 900 / 648 >= 9
            box = text.get_window_extent(canvas.get_renderer())
            assert whole.contains(box.x0, box.y0) and whole.contains(box.x1, box.y1), text
            assert [other for other, taken in boxes if box.overlaps(taken)] == [], text
            boxes.append((text.get_text(), box))
        assert len(boxes) > 15


def drawn_texts(figure: Figure) -> list[Text]:
    texts = list(figure.texts)
    for legend in figure.legends:
        texts += legend.get_texts()
    for ax in figure.axes:
        texts += [*ax.texts, ax._left_title, ax.xaxis.label, ax.yaxis.label]  # type: ignore[attr-defined]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label1 for tick in ticks]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def test_svg_is_one_element_with_text_and_a_label(full: Comparison) -> None:
    text = plots.svg(plots.forest(full))
    assert text.startswith("<svg ") and text.rstrip().endswith("</svg>")
    assert 'role="img"' in text and "aria-label=" in text
    assert ">WeightDrop</text>" in text and "<metadata" not in text and "DOCTYPE" not in text
    assert "system-ui" in text and "DejaVu" not in text
    assert text == plots.svg(plots.forest(full))


def test_pictures_leave_the_users_matplotlib_alone(full: Comparison) -> None:
    ours = plots.svg(plots.forest(full))
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert plots.svg(plots.forest(full)) == ours
        assert dict(mpl.rcParams) == before


def test_names_with_dollars_and_braces_stay_as_they_are(full: Comparison) -> None:
    rows = tuple(replace(row, label=f"$x_{{{row.placement}}}$") for row in full.rows)
    text = plots.svg(plots.forest(replace(full, rows=rows)))
    assert ">$x_{zoneout}$</text>" in text
