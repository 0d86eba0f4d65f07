"""The result as a table of text, and as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from lapse.compare.answer import best, places, signed
from lapse.compare.plots import forest, learning_curves, masks, original, svg
from lapse.compare.result import Comparison, Row
from lapse.compare.statistics import MIN_SEEDS

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
    """The table as text: for each placement, in order, its cells by column head.

    A cell without a value is empty.
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
    return {
        "placement": row.label,
        "test log-loss": f"{row.log_loss:.{digits}f}",
        "accuracy": f"{100 * row.accuracy:.1f} %",
        "difference to none [95 %]": difference,
        "p (Holm)": p,
        "seeds won": won,
        "ms/step": f"{row.step_ms:.2f}",
        "verdict": f"= {original(row, rows).label}" if row.same_as else row.verdict or "baseline",
    }


def _seeds(comparison: Comparison) -> int:
    return len({run.seed for run in comparison.runs})


def html(comparison: Comparison) -> str:
    """One page with the answer, the table, the pictures and the method.

    It has no script and loads nothing. All text is escaped, because names may come from a file.
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

<h2>Differences to no dropout</h2>
<figure>
<figcaption><p>Each line is the 95 % interval of the mean difference to <i>none</i> over the seeds.
The mark on it is the mean, and each dot below it is one seed. Left of zero is better.</p>
</figcaption>
<div class="card">{svg(forest(comparison))}</div>
</figure>

<h2>What each placement drops</h2>
<figure>
<figcaption><p>The masks of one training sequence, drawn for a small layer. In a row of one colour,
the same unit is dropped (or kept) at every step. Where masks differ between gates or states, they
are shown side by side.</p></figcaption>
<div class="card">{svg(masks(comparison.rows))}</div>
</figure>
<dl>{"".join(_about(row) for row in comparison.rows)}
</dl>

<h2>Learning curves</h2>
<figure>
<figcaption><p>Mean log-loss by epoch, shown as long as at least half of the seeds are still
training. Thin lines are single seeds. All panels have the same axes; where training loss falls far
below every validation loss, it is cut off.</p></figcaption>
<div class="card">{svg(learning_curves(comparison))}</div>
</figure>

<h2>Code to paste</h2>
<p>Put these lines into the list of layers for <code>keras.Sequential</code>. The layers are those
of <code>lapse.keras</code>; forms such as <code>lapse.Zoneout</code> need
<code>import lapse</code>.</p>
<dl>{"".join(_code(row, comparison.settings["units"]) for row in comparison.rows)}
</dl>

<h2>Method</h2>
{_method(comparison)}

<h2>Data, settings and versions</h2>
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
    # Column heads may break between words, but not inside "log-loss" or "95 %".
    head = head.replace("log-loss", "log\N{NON-BREAKING HYPHEN}loss").replace("95 %", "95&nbsp;%")
    rows = "\n".join(body)
    notes = [
        "Shaded: the placement with the lowest validation log-loss.",
        "A lower log-loss is better, so a difference below 0 is an improvement.",
    ]
    if any(row.same_as for row in comparison.rows):
        notes.append(
            'A row whose verdict is "= NAME" is the same computation as the placement NAME and '
            "shows the results of its runs."
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
        f"Data: {data['train']} training and {data['test']} test sequences of {steps}, with "
        f"{_names('feature', 'features', data['features'])} and "
        f"{_names('class', 'classes', data['classes'])}. Test set: {data['held_out']}.",
        f"Model: one LSTM with {settings['units']} units, and a linear layer from its last output "
        "to the classes. It has PyTorch's initial weights and is trained with Adam; gradients are "
        "clipped to norm 1.",
        f"Pairing: every placement was trained with the same {seeds} seeds. A seed determines "
        f"which {100 * settings['validation']:g} % of the training sequences are held out for "
        "validation, the initial weights, the order of the batches and the masks. Differences are "
        "taken between runs with the same seed.",
        f"Early stopping: training stops after {settings['patience']} epochs without a lower "
        f"validation log-loss, or after {settings['epochs']} epochs. The weights of the best epoch "
        "are tested. The test sequences are not used for any choice.",
        "Criterion: the verdicts compare the test log-loss, which unlike accuracy also measures "
        "how confident a model is when it is wrong. It is the mean over the sequences, in nats.",
        "Statistics: the interval is the 95 % Student-t interval of the mean paired difference. p "
        "is from the two-sided paired t-test, with Holm's correction for "
        f"{_count(others, 'comparison')}. Intervals are not corrected, so one may exclude 0 "
        "although p is above 0.05. The comparison of the best layer with the best arguments in the "
        "answer is a separate test; both were chosen by validation log-loss.",
        "Time: ms/step is the median time of a training step on one thread.",
    ]
    limits = [
        "An interval shows how the mean varies with the seed. It does not show how the mean varies "
        "with the data, because the test sequences are always the same.",
        "Every placement is tried at one rate, and all share the other settings. Other rates or "
        "settings may change the order. The rates were chosen by validation loss on the training "
        "part of Japanese Vowels; for other data they are only defaults.",
        "The t-test assumes that the differences are roughly normal. A single outlier among few "
        "seeds can shift and widen an interval a lot; the dots show such outliers.",
    ]
    if seeds < MIN_SEEDS:
        limits.insert(
            0,
            f"{_count(seeds, 'seed')} are too few for a verdict: this is a first look, and its "
            "intervals are wide and unreliable.",
        )
    return f"{_list(points)}\n<h3>Limitations</h3>\n{_list(limits)}"


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
    """The number of names, and the first twelve of them."""
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{len(names)} {one if len(names) == 1 else many} ({shown})"


def _list(points: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(point)}</li>" for point in points) + "\n</ul>"
