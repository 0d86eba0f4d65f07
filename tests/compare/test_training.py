"""One run: what is paired, when the test set is used, and when training stops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import dataset

from lapse.compare.training import Classifier, Settings, evaluate, parts, step, train
from lapse.core.errors import LapseError

SETTINGS = Settings(units=7, epochs=12, patience=5, batch=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data"), sequences=31, classes=3)


def test_a_run_repeats_bit_for_bit(data):
    assert train(data, "a", "x:.5@BF", 3, SETTINGS) == train(data, "a", "x:.5@BF", 3, SETTINGS)


def test_arms_of_a_seed_differ_only_in_noise(data):
    """Noise that never drops gives the same numbers as no noise, so everything else is equal."""
    assert train(data, "a", "", 3, SETTINGS) == train(data, "a", "x:0@BF h:0@BFG", 3, SETTINGS)
    tiny = train(data, "a", "x:1e-12@BF", 3, SETTINGS)
    plain = train(data, "a", "", 3, SETTINGS)
    assert tiny.train_curve == pytest.approx(plain.train_curve, rel=1e-4)


@pytest.mark.parametrize("noise", ["x:.5@BTF", "h:.5@BFG", "c:.5@BTF>prev", "U:.5@IO", "y:.5@BTF"])
def test_noise_changes_training(data, noise):
    plain, noisy = (train(data, "a", text, 3, SETTINGS).train_curve for text in ("", noise))
    assert plain[0] != noisy[0]


def test_seeds_change_the_split(data):
    lengths = [parts(data, seed, SETTINGS)[1].x.sum() for seed in range(3)]
    assert len(set(map(float, lengths))) == 3


def test_parts_hold_every_sequence_once_and_every_class(data):
    fit, validation, test = parts(data, 0, SETTINGS)
    assert len(fit.labels) + len(validation.labels) + len(test.labels) == len(data.labels)
    for part in (fit, validation, test):
        assert set(part.labels.tolist()) == {0, 1, 2}


def test_features_are_standardized_by_the_training_part_only(data):
    fit, _, _ = parts(data, 0, SETTINGS)
    steps = torch.cat([x[:n] for x, n in zip(fit.x, fit.lengths, strict=True)]).double()
    assert steps.mean(0).numpy() == pytest.approx(np.zeros(2), abs=1e-6)
    assert steps.std(0, unbiased=False).numpy() == pytest.approx(np.ones(2), rel=1e-5)


def test_test_sequences_are_used_once_at_the_end(data):
    """Other test sequences change the test loss and nothing else."""
    x = data.x.copy()
    x[data.test] += 3
    moved = train(replace(data, x=x), "a", "x:.3@BF", 1, SETTINGS)
    plain = train(data, "a", "x:.3@BF", 1, SETTINGS)
    assert moved.validation_curve == plain.validation_curve
    assert moved.test_log_loss != plain.test_log_loss


def test_stops_after_patience_and_tests_at_the_best_epoch(data):
    run = train(data, "a", "", 2, replace(SETTINGS, epochs=200, patience=3, learning_rate=0.1))
    curve = run.validation_curve
    assert run.best_epoch == 1 + int(np.argmin(curve))
    assert run.validation_log_loss == min(curve)
    assert len(curve) == run.best_epoch + 3 < 200


def test_curves_are_of_the_training_and_of_the_validation_part(data):
    run = train(data, "a", "", 1, replace(SETTINGS, epochs=1))
    fit, validation, test = parts(data, 1, SETTINGS)
    torch.manual_seed(1)
    model = Classifier(2, 3, 7, "").eval()
    optimizer = torch.optim.Adam(model.parameters(), SETTINGS.learning_rate)
    rows = np.random.default_rng([1, 1]).permutation(len(fit.labels))
    for start in range(0, len(rows), 5):
        step(model, optimizer, *fit.take(rows[start : start + 5]), 0)
    for part, found in ((fit, run.train_curve[0]), (validation, run.validation_curve[0])):
        assert float(evaluate(model, part)[0].mean()) == pytest.approx(found, rel=1e-5)
    assert float(evaluate(model, test)[1].mean()) == run.test_accuracy


def test_log_loss_is_the_mean_negative_log_probability(data):
    fit, _, _ = parts(data, 0, SETTINGS)
    torch.manual_seed(0)
    model = Classifier(2, 3, 7, "x:.5@BF").eval()
    logits = model(fit.x, fit.lengths).detach().double().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probability[np.arange(len(logits)), fit.labels])
    losses, correct = evaluate(model, fit)
    assert losses.numpy() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(correct.numpy(), logits.argmax(axis=1) == fit.labels.numpy())


def test_a_loss_of_nan_is_an_error(data, monkeypatch):
    def diverge(model, *arguments):
        with torch.no_grad():
            model.linear.bias.fill_(float("nan"))

    monkeypatch.setattr("lapse.compare.training.step", diverge)
    with pytest.raises(LapseError, match="the loss of 'none' with seed 0 is nan after epoch 1"):
        train(data, "none", "", 0, SETTINGS)


def test_a_test_loss_of_nan_is_an_error(data):
    x = 1e-3 * data.x
    x[np.flatnonzero(data.test)[0], 0] = 3e38
    with pytest.raises(LapseError, match="the test loss of 'none' with seed 0 is nan"):
        train(replace(data, x=x), "none", "", 0, SETTINGS)


def test_evaluation_in_batches_gives_the_same_losses(data, monkeypatch):
    fit, _, _ = parts(data, 0, SETTINGS)
    model = Classifier(data.x.shape[2], len(data.classes), 5, "").eval()
    whole = evaluate(model, fit)
    monkeypatch.setattr("lapse.compare.training._STEPS_AT_ONCE", 3 * fit.x.shape[1] + 1)
    for found, expected in zip(evaluate(model, fit), whole, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
