"""The table and the sentence, on hand-made runs, and on studies without any difference."""

from dataclasses import replace

import numpy as np
import pytest
from small import made_up_run

from lapse.compare.answer import answer, rows
from lapse.compare.placements import PLACEMENTS

STEP_MS = {placement.noise: 1.0 + n for n, placement in enumerate(PLACEMENTS)}
DISTINCT = list({placement.noise: placement for placement in reversed(PLACEMENTS)}.values())[::-1]


def study(losses, validation=None, seeds=10, spread=0.02):
    """Runs with a mean test loss by placement and a small paired spread."""
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        shared = rng.normal(scale=0.1)  # by all placements, so that pairing helps
        for placement in DISTINCT:
            loss = losses.get(placement.key, 0.5) + shared + rng.normal(scale=spread)
            wanted = (validation or {}).get(placement.key, 0.5)
            runs.append(made_up_run(placement.key, seed, loss, wanted))
    return runs


def table_and_answer(*arguments, **options):
    runs = study(*arguments, **options)
    table = rows(PLACEMENTS, runs, STEP_MS)
    return {row.placement: row for row in table}, answer(table, runs, "some data")


def test_a_planted_effect_is_found_and_named():
    table, sentence = table_and_answer({"zoneout": 0.3}, {"zoneout": 0.2})
    row = table["zoneout"]
    assert row.verdict == "better"
    assert row.won == 10
    assert row.low < -0.2 < row.high
    assert sentence.startswith("On some data, use Zoneout, whose test log-loss is 0.")
    assert "lower in 10 of 10 seeds" in sentence
    assert sentence.count(". ") == 0, "it is one sentence"


def test_numbers_of_a_row_by_hand():
    runs = []
    for seed in range(10):
        for placement in DISTINCT:
            worse = 0.1 + 0.01 * (seed % 2) if placement.key == "zoneout" else 0.0
            runs.append(made_up_run(placement.key, seed, 0.5 + worse))
    table = {row.placement: row for row in rows(PLACEMENTS, runs, STEP_MS)}
    row = table["zoneout"]
    assert row.log_loss == pytest.approx(0.605)
    assert row.difference == pytest.approx(0.105)
    half = 2.2621571628 * np.std([0.1, 0.11] * 5, ddof=1) / np.sqrt(10)
    assert (row.low, row.high) == pytest.approx((0.105 - half, 0.105 + half))
    assert row.won == 0
    assert row.verdict == "worse"
    assert row.step_ms == STEP_MS[row.noise]
    assert table["dropout-front"].p == 1.0, "identical to none in every seed"


def test_none_is_the_baseline_and_has_no_difference():
    table, _ = table_and_answer({})
    none = table["none"]
    assert (none.difference, none.low, none.high, none.p, none.won, none.verdict) == (None,) * 6


def test_dropout_argument_is_spatial_dropout():
    """In Keras 3 they are one noise, so they are one run and have one line of numbers."""
    table, sentence = table_and_answer({"spatial-front": 0.2}, {"spatial-front": 0.1}, spread=0.01)
    layer, argument = table["spatial-front"], table["dropout-argument"]
    assert argument.same_as == "spatial-front"
    assert (argument.log_loss, argument.low, argument.p) == (layer.log_loss, layer.low, layer.p)
    assert "SpatialDropout1D in front (the same as dropout=)" in sentence
    assert "SpatialDropout1D in front is dropout=" in sentence


def test_best_is_chosen_by_validation_not_by_test():
    losses = {"zoneout": 0.30, "weight-drop": 0.28}
    _, sentence = table_and_answer(losses, {"zoneout": 0.1, "weight-drop": 0.2}, spread=0.005)
    assert "use Zoneout" in sentence


def test_a_winner_on_the_test_set_alone_is_not_recommended():
    """It is mentioned, after the placement (or no dropout) with the lowest validation loss."""
    _, sentence = table_and_answer({"zoneout": 0.2}, {"none": 0.1})
    assert sentence.startswith(
        "On some data, the model without dropout has the lowest validation loss, but Zoneout is "
        "significantly better than no dropout;"
    )
    table, sentence = table_and_answer({"zoneout": 0.2}, {"dropout-after": 0.1})
    assert table["dropout-after"].verdict == "no significant difference"
    assert "Dropout after has the lowest validation loss, and its test log-loss is 0.0" in sentence
    assert "use " not in sentence


def test_the_sentence_does_not_recommend_the_kind_that_is_worse():
    losses = {"recurrent-argument": 0.3, "dropout-front": 0.1}
    _, sentence = table_and_answer(losses, {"recurrent-argument": 0.1, "dropout-front": 0.2})
    assert "recurrent_dropout= has the lowest validation loss, and its" in sentence
    assert "use " not in sentence
    assert "(recurrent_dropout=), the layer is better" in sentence


def test_small_losses_keep_three_digits():
    losses = dict.fromkeys((placement.key for placement in DISTINCT), 0.0052)
    runs = [
        made_up_run(key, seed, 0.00123 + seed * 1e-6 if key == "zoneout" else loss + seed * 1e-5)
        for key, loss in losses.items()
        for seed in range(10)
    ]
    runs = [replace(run, validation_log_loss=run.test_log_loss) for run in runs]
    table = rows(PLACEMENTS, runs, STEP_MS)
    assert ", whose test log-loss is 0.00401 lower than" in answer(table, runs, "some data")


def test_layer_against_argument():
    losses = {"dropout-front": 0.4, "recurrent-argument": 0.2}
    validation = {"dropout-front": 0.3, "recurrent-argument": 0.2}
    _, sentence = table_and_answer(losses, validation)
    assert (
        "(Dropout in front) and the best arguments (recurrent_dropout=), the arguments are better"
        in sentence
    )
    assert "layer minus arguments +0.2" in sentence or "layer minus arguments +0.19" in sentence


def test_no_significant_difference_is_an_answer():
    _, sentence = table_and_answer(
        {}, {"dropout-front": 0.4, "recurrent-argument": 0.4}, spread=0.3
    )
    assert sentence.startswith(
        "On some data, no placement of dropout is significantly better than no dropout"
    )
    assert "there is no significant difference" in sentence


def test_what_is_worse_is_named():
    _, sentence = table_and_answer({"dropout-after": 0.9, "zoneout": 0.8})
    assert "Dropout after and Zoneout are significantly worse" in sentence


def test_few_seeds_give_a_first_look_and_no_verdict():
    table, sentence = table_and_answer({"zoneout": 0.1}, {"zoneout": 0.1}, seeds=3)
    assert sentence.startswith("A first look at some data with 3 seeds, too few for a verdict")
    assert {row.verdict for row in table.values()} == {None, "too few seeds"}


def test_equal_placements_rarely_win():
    """In 400 studies of equal placements, at most 5 % have a false 'better' or 'worse'."""
    rng = np.random.default_rng(3)
    false = 0
    trials = 400
    for _ in range(trials):
        runs = [
            made_up_run(placement.key, seed, float(rng.normal()))
            for seed in range(10)
            for placement in DISTINCT
        ]
        verdicts = {row.verdict for row in rows(PLACEMENTS, runs, STEP_MS)}
        false += bool(verdicts & {"better", "worse"})
    assert false / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
