"""Values that are not finite are found in one pass, counted, and never seen where there are none."""

from __future__ import annotations

import pytest
import torch

from gptcli.errors import CheckpointError, UsageError
from gptcli.nn.finite import BadValues, bad_values, require_finite, require_range


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_every_value_that_is_not_finite_is_counted(dtype: torch.dtype, value: float) -> None:
    bad = torch.ones(3, 5, dtype=dtype)
    bad[1, 2:4] = value
    tensors = {"good": torch.ones(4, dtype=dtype), "bad": bad, "ids": torch.arange(3)}
    assert bad_values(tensors) == [BadValues("bad", 2, 15)]


def test_infinities_that_cancel_each_other_are_found() -> None:
    assert bad_values({"x": torch.tensor([torch.inf, -torch.inf, 1.0])}) == [BadValues("x", 2, 3)]


def test_finite_numbers_whose_sum_is_infinite_are_finite() -> None:
    largest = torch.finfo(torch.float32).max
    tensors = {"x": torch.full((8,), largest), "empty": torch.empty(0), "half": torch.full((99,), 6e4).half()}
    assert bad_values(tensors) == []


def test_the_error_names_source_tensor_and_amount() -> None:
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan]), "c": torch.tensor([torch.inf])}
    words = "^x: b holds NaN or infinity in 1 of its 2 values, beside 1 other tensor; y"
    with pytest.raises(CheckpointError, match=words):
        require_finite(tensors, "x", "y")
    require_finite({"a": torch.ones(2)}, "x", "y")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_that_another_dtype_would_make_infinite_are_refused(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    tensors = {"ids": torch.arange(3), "none": torch.empty(0), "good": torch.tensor([-largest, largest])}
    require_range(tensors, dtype, "y")
    with pytest.raises(UsageError, match=f"^bad has weights .* number of {str(dtype)[6:]} is .*; y"):
        require_range(tensors | {"bad": torch.tensor([1.0, -largest * 1.003])}, dtype, "y")
