"""The token grid follows from the graph, however a model makes its patches, and what is no grid is told from one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo.backends.attention import No, TokenGrid
from fastvideo.frontends.capture import capture
from fastvideo.passes.canonicalize import Canonicalize
from fastvideo.passes.recognize_attention import RecognizeAttention
from fastvideo.passes.token_grid import TokenGrids

from .video_dit import VideoDiT, inputs


def grids(model: nn.Module, *args: Tensor, given: Any = None, **kwargs: Tensor) -> list[TokenGrid | No]:
    program = capture(model.eval(), args, kwargs, verify=False).program
    ir.run_passes(program, [Canonicalize(), RecognizeAttention()])
    found = TokenGrids(program)
    sites = [node for node in program.nodes if node.target is torch.ops.fv.attention.default]
    return [found.at(node, given) for node in sites]


def attend(x: Tensor, y: Tensor | None = None) -> Tensor:
    """One head over ``[batch, tokens, channels]``."""
    y = x if y is None else y
    return F.scaled_dot_product_attention(x[:, None], y[:, None], y[:, None])[:, 0]


class FoldedPatches(nn.Module):
    """Patches by reshape and permute, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        x = x.reshape(b, c, t, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6)
        return attend(self.embed(x.reshape(b, t * (h // 2) * (w // 2), c * 4)))


class FramesFirst(nn.Module):
    """``[b, t, c, h, w]``, 2-D patches of each frame, text in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, 12, 2, 2)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        tokens = self.patch(x.reshape(b * t, c, h, w)).view(b, t, 12, -1).flatten(3).transpose(2, 3).flatten(1, 2)
        return attend(torch.cat([text, tokens], 1))


class Stem(nn.Module):
    """A padded image, a convolution whose windows overlap, then patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.patch = nn.Conv2d(8, 12, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return attend(self.patch(self.stem(F.pad(x, (0, 1, 0, 1)))).flatten(2).transpose(1, 2))


class FirstFrameApart(nn.Module):
    """Tokens of the first frame and of the others are embedded apart and joined again."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        frame = x.shape[3] * x.shape[4]
        return attend(torch.cat([tokens[:, :frame] * 2, tokens[:, frame:]], 1))


class RotatedInPlace(nn.Module):
    """The video's part of the queries is written over."""

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        tokens = torch.cat([text, x.flatten(2).transpose(1, 2)], 1)
        tokens[:, text.shape[1] :] = tokens[:, text.shape[1] :].cos()
        return attend(tokens)


class InParts(nn.Module):
    """Attention within frames, then along time."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        x = x.permute(0, 2, 3, 4, 1).reshape(b * t, h * w, c)
        x = attend(x).reshape(b, t, h * w, c).transpose(1, 2).reshape(b * h * w, t, c)
        return attend(x)


class HeightFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return attend(x.permute(0, 3, 4, 2, 1).flatten(1, 3))


class Packed(nn.Module):
    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return attend(torch.cat([x, text], 1)) + attend(torch.cat([x, text], 1), text)


VIDEO = (2, 4, 3, 6, 10)


@pytest.mark.parametrize(
    ("model", "shapes", "expected"),
    [
        (FoldedPatches(), [VIDEO], TokenGrid((3, 3, 5), 0, 45)),
        (FramesFirst(), [(2, 3, 4, 6, 10), (2, 7, 12)], TokenGrid((3, 3, 5), 7, 52)),
        (Stem(), [(1, 4, 5, 9)], TokenGrid((1, 3, 5), 0, 15)),
        (FirstFrameApart(), [VIDEO], TokenGrid((3, 6, 10), 0, 180)),
        (RotatedInPlace(), [VIDEO, (2, 7, 4)], TokenGrid((3, 6, 10), 7, 187)),
    ],
    ids=["folded", "frames-first", "stem", "first-frame", "rotated-in-place"],
)
def test_grid_is_found(model: nn.Module, shapes: list[tuple[int, ...]], expected: TokenGrid) -> None:
    assert grids(model, *(torch.randn(shape) for shape in shapes)) == [expected]


@pytest.mark.parametrize("text_first", [False, True])
def test_text_is_told_from_the_grid(text_first: bool) -> None:
    found = grids(VideoDiT(text_first=text_first), **inputs((3, 4, 5), 6))
    assert found == [TokenGrid((3, 4, 5), 6 if text_first else 0, 66)] * 2


def test_attention_within_parts_of_the_grid_is_none_over_it() -> None:
    within, along = grids(InParts(), torch.randn(VIDEO))
    assert isinstance(within, No) and "within parts of the grid: dim 2" in within.reason
    assert isinstance(along, No) and "packed" in along.reason


def test_another_order_of_dims_is_refused() -> None:
    (found,) = grids(HeightFirst(), torch.randn(VIDEO))
    assert isinstance(found, No) and "dims [3, 4, 2]" in found.reason


def test_packed_tokens_have_the_grid_that_the_user_gives() -> None:
    tokens = torch.randn(1, 30, 8), torch.randn(1, 7, 8)
    joint, cross = grids(Packed(), *tokens)
    assert isinstance(joint, No) and "packed" in joint.reason
    assert cross == No("its keys are not the tokens of its queries")
    assert grids(Packed(), *tokens, given=(2, 3, 5))[0] == TokenGrid((2, 3, 5), 0, 37)
    assert grids(Packed(), *tokens, given=(2, 3, 6))[0] == No(
        "0 of its stretches of tokens [30, 7] have the 36 of the given grid (2, 3, 6)"
    )


def test_given_grid_that_contradicts_the_graph_is_refused() -> None:
    (found,) = grids(FoldedPatches(), torch.randn(VIDEO), given=(5, 3, 3))
    assert found == No("the given grid (5, 3, 3) is not the one that the graph shows, (3, 3, 5)")
