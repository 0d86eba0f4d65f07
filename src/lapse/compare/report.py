"""The result as a table of text, and as one HTML page that needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from lapse.compare.answer import best, places, signed
from lapse.compare.plots import VERDICTS, forest, learning_curves, masks, original, svg
from lapse.compare.result import Comparison, Row
from lapse.compare.statistics import ENOUGH

_CSS = """
:root { color-scheme: light dark; --ink: #22262b; --faint: #5d646c; --rule: #d9dde2;
  --strong: #22262b; --page: #fff; --soft: #f5f6f8; --better: #00639c; --worse: #b34e00; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe3e8; --faint: #a0a8b1; --rule: #3a4047;
  --strong: #8b939c; --page: #16191d; --soft: #20252b; --better: #6cb8ec; --worse: #f2a15f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 960px; padding: 4rem 30px 6rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1rem; font-weight: 600; color: var(--faint); margin: 0 0 .8rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p, li, dd { max-width: 42rem; }
p { margin: .6rem 0; }
.answer { font-size: 1.3rem; line-height: 1.45; font-weight: 600; letter-spacing: -.005em;
  max-width: none; margin: 0 0 2.4rem; text-wrap: pretty; }
.note { color: var(--faint); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .8125rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; border-bottom: 1.5px solid var(--strong); }
th { font-weight: 600; text-align: right; vertical-align: bottom; padding: .4rem 0 .4rem .9rem;
  border-bottom: 1px solid var(--strong); }
td { text-align: right; white-space: nowrap; padding: .38rem 0 .38rem .9rem;
  border-top: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
th:last-child, td:last-child { text-align: left; padding-left: 1.2rem; }
.best td { background: var(--soft); }
.best td:first-child, .best td:last-child { font-weight: 600; }
.better { color: var(--better); } .worse { color: var(--worse); }
figure { margin: 0; } figcaption { margin-bottom: 1.3rem; }
.card { background: #fff; border-radius: 4px; overflow-x: auto; }
.card svg { display: block; width: 100%; min-width: 640px; height: auto; }
@media (prefers-color-scheme: dark) { .card { padding: 18px; } }
dl { display: grid; grid-template-columns: 12.5rem minmax(0, 1fr); gap: .55rem 1.5rem;
  margin: 1.6rem 0 0; font-size: .9375rem; align-items: baseline; }
dt { font-weight: 600; } dd { margin: 0; }
dd > code { display: block; color: var(--faint); }
code, pre { font: .8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
pre { margin: 0; padding: .45rem .7rem; background: var(--soft); border-radius: 4px;
  overflow-x: auto; }
dd:has(pre) { max-width: none; }
ul { padding-left: 1.1rem; } li { margin: .4rem 0; }
@media (max-width: 640px) { dl { grid-template-columns: 1fr; gap: .2rem; }
  dd { margin: 0 0 .8rem; } }
@media print { :root { --ink: #000; --faint: #444; --rule: #ccc; --strong: #000; --page: #fff;
    --soft: #f3f3f3; --better: #00639c; --worse: #b34e00; }
  body { padding: 0; max-width: none; font-size: 10.5pt; } h2 { margin-top: 2rem; }
  .answer { font-size: 14pt; } table { font-size: 8pt; } td { white-space: normal; }
  th, td { padding-left: .5rem; } td:nth-child(4) { white-space: nowrap; }
  .wide, .card, pre { overflow: visible; } pre { white-space: pre-wrap; }
  .card { padding: 0; } .card svg { min-width: 0; }
  h2, .answer { break-after: avoid; } figure, tr, dt, dd, pre { break-inside: avoid; } }
"""


def table(comparison: Comparison) -> list[dict[str, str]]:
    """The table as text: for each placement, in order, what stands under each head.

    Cells are empty where there is nothing to say.
    """
    digits, seeds = places(comparison.rows), _seeds(comparison)
    return [_line(row, comparison.rows, digits, seeds) for row in comparison.rows]


def _line(row: Row, rows: Iterable[Row], digits: int, seeds: int) -> dict[str, str]:
    difference = p = won = ""
    if row.difference is not None and row.low is not None and row.high is not None:
        mean, low, high = (signed(n, digits) for n in (row.difference, row.low, row.high))
        difference = f"{mean} [{low}, {high}]"
        p = f"{row.p:.3f}" if row.p is not None and row.p >= 0.001 else "<0.001"
        won = f"{row.won}/{seeds}"
    verdict = VERDICTS.get(row.verdict or "", row.verdict or "reference")
    return {
        "placement": row.label,
        "test log-loss": f"{row.log_loss:.{digits}f}",
        "accuracy": f"{100 * row.accuracy:.1f} %",
        "difference to none [95 %]": difference,
        "p (Holm)": p,
        "seeds won": won,
        "ms/step": f"{row.step_ms:.2f}",
        "verdict": f"= {original(row, rows).label}" if row.same_as else verdict,
    }


def _seeds(comparison: Comparison) -> int:
    return len({run.seed for run in comparison.runs})


def html(comparison: Comparison) -> str:
    """One page with the answer, the table, the pictures and how they came about.

    It holds no script and loads nothing. Every text is escaped, since names may come from a file.
    """
    name = escape(comparison.data["name"])
    return f"""<!DOCTYPE html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Dropout placements on {name}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<h1>Where to put dropout: {name}</h1>
<p class="answer">{escape(comparison.answer)}</p>
{_table(comparison)}

<h2>How large the differences are</h2>
<figure>
<figcaption><p>Each line is the 95 % interval of the mean difference to <i>none</i> over the seeds,
the mark on it the mean, each dot below it one seed; what lies left of zero is better.</p>
</figcaption>
<div class="card">{svg(forest(comparison))}</div>
</figure>

<h2>What each placement drops</h2>
<figure>
<figcaption><p>The masks of one training sequence, drawn for a small layer. Rows that run straight
through are the same unit dropped at every step. Side by side stand masks that differ by gate,
or by state.</p></figcaption>
<div class="card">{svg(masks(comparison.rows))}</div>
</figure>
<dl>{"".join(_about(row) for row in comparison.rows)}
</dl>

<h2>How training went</h2>
<figure>
<figcaption><p>Mean log-loss by epoch, for as long as at least half of the seeds still train; thin
lines are the seeds. All panels share their axes, which end below where only training curves
run.</p></figcaption>
<div class="card">{svg(learning_curves(comparison))}</div>
</figure>

<h2>Code to paste</h2>
<p>Each is a part of the list given to <code>keras.Sequential</code>. The layers come from
<code>lapse.keras</code>, the noise from <code>import lapse</code>.</p>
<dl>{"".join(_code(row, comparison.settings["units"]) for row in comparison.rows)}
</dl>

<h2>How it was done</h2>
{_method(comparison)}

<h2>Where it comes from</h2>
{_origin(comparison)}
</main>
</body>
</html>
"""


def _table(comparison: Comparison) -> str:
    lines = table(comparison)
    named = best(comparison.rows)
    body = []
    for row, line in zip(comparison.rows, lines, strict=True):
        cells = [f"<td>{escape(text)}</td>" for text in line.values()]
        if row.verdict in ("better", "worse") and not row.same_as:
            cells[-1] = f'<td class="{row.verdict}">{row.verdict}</td>'
        marked = ' class="best"' if row is named else ""
        body.append(f"<tr{marked}>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{text}</th>' for text in lines[0])
    # Heads break between words, not inside "log-loss" or "95 %".
    head = head.replace("log-loss", "log\N{NON-BREAKING HYPHEN}loss").replace("95 %", "95&nbsp;%")
    rows = "\n".join(body)
    notes = [
        "Shaded: the lowest validation log-loss, by which the answer names its placement.",
        "A lower log-loss is better, and so is a difference below 0.",
    ]
    if any(row.same_as for row in comparison.rows):
        notes.append(
            "What is marked with = is the same computation as the placement it names, and shows "
            "its runs."
        )
    return f"""<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<p class="note">{" ".join(notes)}</p>"""


def _about(row: Row) -> str:
    noise = f"<code>{escape(row.noise)}</code>" if row.noise else ""
    return f"\n<dt>{escape(row.label)}</dt><dd>{escape(row.about)}{noise}</dd>"


def _code(row: Row, units: int) -> str:
    lines = "\n".join(f"{line}," for line in row.keras.replace("UNITS", str(units)).splitlines())
    return f"\n<dt>{escape(row.label)}</dt><dd><pre><code>{escape(lines)}</code></pre></dd>"


def _method(comparison: Comparison) -> str:
    data, settings = comparison.data, comparison.settings
    seeds = _seeds(comparison)
    others = sum(not row.same_as for row in comparison.rows) - 1
    shortest, longest = data["shortest"], data["longest"]
    steps = f"{longest} steps" if shortest == longest else f"{shortest} to {longest} steps"
    points = [
        f"The data are {data['train']} sequences to train on and {data['test']} to test on, of "
        f"{steps}, with {_names('feature', 'features', data['features'])} and "
        f"{_names('class', 'classes', data['classes'])}. Held out for the test: "
        f"{data['held_out']}.",
        f"The network is one LSTM with {settings['units']} units; its last output goes through a "
        "linear layer to the classes. It starts from PyTorch's initial weights and trains with "
        "Adam, its gradients clipped at norm 1.",
        f"Every placement was trained with the same {seeds} seeds. A seed sets which "
        f"{100 * settings['validation']:g} % of the training sequences are held out for "
        "validation, the initial weights, the order of the batches and what draws the masks. "
        "Differences are taken between runs of one seed.",
        f"Training stops after {settings['patience']} epochs without a lower validation log-loss, "
        f"or after {settings['epochs']}; the epoch with the lowest counts. The test sequences take "
        "no part in any choice.",
        "The test log-loss decides, since it also measures how sure a model is when it is wrong. "
        "It is the mean over the sequences, in nats.",
        "The interval is Student's, for the mean of the paired differences; p is of the two-sided "
        f"paired t-test, with Holm's correction over {_count(others, 'comparison')}. Intervals are "
        "not corrected: one may leave out 0 where p is above 0.05. The best layer against the best "
        "arguments, in the answer, is one test of its own, its two sides chosen on validation.",
        "ms/step is the median time of a training step on one thread.",
    ]
    limits = [
        "An interval says how the mean would vary with other seeds. The test sequences stay the "
        "same, so it does not say how it would vary with other data.",
        "Every placement has one rate, and all share the other settings; with others, the order "
        "may change. The rates were chosen by validation on the training part of Japanese Vowels; "
        "to other data they are defaults.",
        "The t-test takes the differences to be roughly normal; a single odd run among few can "
        "move and widen an interval much. The dots show such runs.",
    ]
    if seeds < ENOUGH:
        limits.insert(
            0,
            f"{_count(seeds, 'seed')} are too few for a verdict: this is a first look, and its "
            "intervals are wide and unsteady.",
        )
    return f"{_list(points)}\n<h3>Where it can mislead</h3>\n{_list(limits)}"


def _origin(comparison: Comparison) -> str:
    machine = ("processor", "cores")
    made_with = comparison.made_with
    facts = {
        "Data": comparison.data["source"],
        "SHA-256 of the data": comparison.data["sha256"],
        "Settings": _pairs({k: v for k, v in comparison.settings.items() if k != "quick"}),
        "Versions": _pairs({k: v for k, v in made_with.items() if k not in machine}),
        "Machine": _pairs({k: v for k, v in made_with.items() if k in machine}),
    }
    lines = (f"\n<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{''.join(lines)}\n</dl>"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _names(one: str, many: str, names: list[str]) -> str:
    """How many there are, and the first of them by name."""
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{len(names)} {one if len(names) == 1 else many} ({shown})"


def _list(points: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(point)}</li>" for point in points) + "\n</ul>"
