"""Numbers and functions that a model's modules hold are part of what was compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fastvideo
from fastvideo_ir.errors import InvalidArgumentError


class _Scaled(nn.Module):
    """What its modules hold in Python decides what it computes; it counts its calls and keeps what it has looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.act, self.strength = nn.Linear(8, 8), torch.tanh, {"style": 0.5}
        self.inner.scale, self.calls, self.known = 2, 0, {"first": 1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.known[str(x.shape)] = x.shape[0]
        return self.act(self.inner(x) * self.inner.scale) * self.strength["style"]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("inner.scale", lambda model: setattr(model.inner, "scale", 3)),
        ("strength", lambda model: model.strength.update(style=0.25)),
        ("act", lambda model: setattr(model, "act", torch.sin)),
        ("inner.forward", lambda model: setattr(model.inner, "forward", lambda x: x + 1)),
    ],
)
@pytest.mark.filterwarnings("ignore::fastvideo.frontends.capture.python_state.FrozenStateWarning")
def test_changed_settings_are_refused_until_they_are_read_anew(path: str, change: Any) -> None:
    model, x = _Scaled().eval(), torch.randn(4, 8)
    with fastvideo.compile(model, executor="local", device="cpu") as compiled, torch.no_grad():
        before = compiled(x)
        for given in (x, torch.randn(3, 8)):
            torch.testing.assert_close(compiled(given), model(given))
        change(model)
        with pytest.raises(InvalidArgumentError, match=rf"the model's {path} has changed .*update_weights\(\)"):
            compiled(x)
        compiled.update_weights()
        after = compiled(x)
        torch.testing.assert_close(after, model(x))
        assert not torch.allclose(before, after)
