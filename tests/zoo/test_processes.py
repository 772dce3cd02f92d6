"""A few classes of the zoo, each built in another way, on real processes."""

from __future__ import annotations

import pytest
import torch

import fastvideo
from fastvideo import Parallel

from ..e2e.measuring import errors_of
from .meshes import HEADS
from .running import tensors_of
from .zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLE = [("SD3", Parallel(sp=2)), ("fused-qkv", Parallel(tp=2)), ("UMT5", Parallel(tp=2))]
"""A joint attention of diffusers', a model by hand and an encoder."""


@pytest.mark.parametrize(("name", "parallel"), SAMPLE, ids=lambda value: value if isinstance(value, str) else "")
def test_class_agrees_with_eager_on_processes(name: str, parallel: Parallel) -> None:
    (case,) = [case for case in ZOO if case.name == name]
    at = case.at(HEADS)
    model = at.build(case.dtype)
    with fastvideo.compile(model, parallel=parallel, executor="mp", device="cpu", verify=False) as compiled:
        for seed in (0, 1):
            inputs = at.inputs(seed, case.dtype)
            with torch.no_grad():
                wanted = tensors_of(model(**inputs))
            assert max(errors_of(tensors_of(compiled(**inputs)), wanted)) <= case.tolerance
