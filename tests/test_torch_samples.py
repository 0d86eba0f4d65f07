"""PyTorch's own samples of calls and mistakes for its recurrent modules, given to ours."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from torch_support import PAIRS, assert_close, flat

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch's own, of what else its tests need
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

OURS = {theirs: ours for ours, theirs in PAIRS.values()}
SAMPLES = [info for info in module_db if info.module_cls in OURS]
CALL = {"device": "cpu", "dtype": torch.float64, "requires_grad": True}


def ids(info: Any) -> str:
    return str(info.module_cls.__name__)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("info", SAMPLES, ids=ids)
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_calls_give_what_pytorchs_give(info: Any, training: bool) -> None:
    compared = 0
    for sample in info.module_inputs_func(info, training=training, **CALL):
        made, call = sample.constructor_input, sample.forward_input
        one, other = (
            kind(*made.args, **made.kwargs).double().train(training)
            for kind in (OURS[info.module_cls], info.module_cls)
        )
        one.load_state_dict(other.state_dict())
        (y, last), (wanted, wanted_last) = (m(*call.args, **call.kwargs) for m in (one, other))
        if isinstance(wanted, nn.utils.rnn.PackedSequence):
            y, wanted = y.data, wanted.data
        assert_close(flat((y, last)), flat((wanted, wanted_last)), 1e-12)
        compared += 1
    assert compared >= 16


@pytest.mark.parametrize("info", SAMPLES, ids=ids)
def test_mistakes_raise_what_pytorchs_raise(info: Any) -> None:
    samples = info.module_error_inputs_func(info, training=False, **CALL)
    for sample in samples:
        made, call = (
            sample.module_error_input.constructor_input,
            sample.module_error_input.forward_input,
        )
        with pytest.raises(sample.error_type, match=sample.error_regex):
            module = OURS[info.module_cls](*made.args, **made.kwargs)
            assert sample.error_on is ModuleErrorEnum.FORWARD_ERROR
            module(*call.args, **call.kwargs)
    assert samples
