"""``measure-windows``: the program also returns how wrong each of several windows would be, for every attention."""

from __future__ import annotations

import itertools
from typing import Any

from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.errors import BackendUnavailableError
from fastvideo_ir.graph import bind
from fastvideo_ir.ops.restricted_attention import awaits_backend

from ..backends import attention
from ..backends.attention.sliding_tile import window_errors_op
from .token_grid import TokenGrids


class MeasureWindows(ir.Pass):
    """For calibration: results stay exact, and every attention over the token grid adds an output, its errors.

    Attributes:
        options: tile, and a grid where the model takes packed tokens; as ``SLIDING_TILE_ATTN`` takes them.
        windows: those that are tried, in tiles.
        device: type of the device that the program will run on.
    """

    name = "measure-windows"
    needs = ir.Stage.CANONICAL
    preserves_numerics = False  # what the model returns is the same, but there is more

    options: attention.SlidingTile = attention.SlidingTile()
    windows: tuple[tuple[int, int, int], ...] = ((3, 3, 3),)
    device: str = "cpu"

    def run(self, program: ir.Program) -> None:
        rewriter = ir.Rewriter(program, self.name)
        grids = TokenGrids(program)
        outputs: list[Any] = list(program.output_values)
        for node in list(program.nodes):
            if node.op == "call_function" and _is_attention(node):
                found = grids.at(node, self.options.grid)
                if isinstance(found, attention.TokenGrid):
                    outputs.append(self._measured(rewriter, node, found))
        if len(outputs) == len(program.output_values):
            raise BackendUnavailableError(
                "no attention of this program is one over a grid of time × height × width",
                hint="where the model takes packed tokens, give their grid",
            )
        rewriter.set_outputs(outputs)

    def _measured(self, rewriter: ir.Rewriter, node: fx.Node, tokens: attention.TokenGrid) -> fx.Node:
        site = attention.AttentionSite.of(node, self.device)
        answer = self.options.supports_grid(site, tokens)
        if isinstance(answer, attention.No):
            raise BackendUnavailableError(f"windows cannot be measured at {site.location}: {answer.reason}")
        arguments = bind(node)
        operands = (*(arguments[name] for name in ("q", "k", "v")), node, arguments["mask"], arguments["scale"])
        place = (list(tokens.grid), list(self.options.tile), tokens.start)
        tried = list(itertools.chain.from_iterable(self.windows))
        return rewriter.insert(window_errors_op, (*operands, *place, tried), after=node, sources=(node,))


def _is_attention(node: fx.Node) -> bool:
    return awaits_backend(node) or attention.backend_of(node.target) is not None
