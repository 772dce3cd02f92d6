"""What a model keeps in Python, and shortcuts that eager mode alone takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastvideo.frontends.capture import capture
from fastvideo.frontends.capture.python_state import FrozenStateWarning


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.linear = 0, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_attribute_that_changes_is_warned_of_by_name_and_put_back() -> None:
    model = Counting().eval()
    with pytest.warns(FrozenStateWarning, match=r"Counting changes calls while it runs; a compiled model has no side"):
        capture(model, (torch.randn(3, 4),), {})
    assert model.calls == 0


def test_model_that_keeps_still_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    capture(nn.Linear(4, 4).eval(), (torch.randn(3, 4),), {})
    assert not [warning for warning in recwarn if issubclass(warning.category, FrozenStateWarning)]


@pytest.mark.parametrize("name", ["attention", "layer"])
def test_torch_attention_modules_are_captured_as_they_are_written(name: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            if name == "layer":
                return self.layer(x)
            attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return attended

    captured = capture(Model().eval(), (torch.randn(2, 53, 32),), {})
    assert captured.report.verified == "bit-equal"
    targets = {str(node.target) for node in captured.program.nodes}
    assert "aten.scaled_dot_product_attention.default" in targets and not any("encoder_layer" in t for t in targets)
    assert torch.backends.mha.get_fastpath_enabled()
