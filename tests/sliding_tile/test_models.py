"""``SLIDING_TILE_ATTN`` on whole models: exact to a mask, on any number of ranks, and refused loudly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

import fastvideo
import fastvideo_ir as ir
from fastvideo import SlidingTile
from fastvideo_ir.errors import BackendUnavailableError, InvalidArgumentError
from tests.models import CASES

from .video_dit import VideoDiT, inputs

GRID, WORDS, TILE = (5, 4, 7), 6, (2, 3, 3)
WINDOWS = ((1, 1, 1), (3, 1, 1), (1, 2, 3), (2, 1, 2))
"""Another one for each head; the tile divides no dim of the grid."""


def build(text_first: bool = False, layers: int = 2) -> VideoDiT:
    torch.manual_seed(0)
    return VideoDiT(text_first=text_first, layers=layers).eval()


def allowed(window: tuple[int, int, int], text_first: bool) -> Tensor:
    """The mask of one head, token by token, from the words of the definition alone."""
    spots: list[tuple[int, ...] | None] = [
        (t // TILE[0], h // TILE[1], w // TILE[2])
        for t in range(GRID[0])
        for h in range(GRID[1])
        for w in range(GRID[2])
    ]
    text: list[tuple[int, ...] | None] = [None] * WORDS
    tokens = text + spots if text_first else spots + text
    counts = [-(-size // step) for size, step in zip(GRID, TILE, strict=True)]

    def near(query: tuple[int, ...] | None, key: tuple[int, ...] | None) -> bool:
        if query is None or key is None:
            return True
        firsts = [min(max(i - n // 2, 0), max(c - n, 0)) for i, n, c in zip(query, window, counts, strict=True)]
        return all(first <= k < first + n for first, k, n in zip(firsts, key, window, strict=True))

    return torch.tensor([[near(query, key) for key in tokens] for query in tokens])


@contextmanager
def masked_attention(mask: Tensor) -> Iterator[None]:
    """Eager models attend under ``mask``, ``[heads, tokens, tokens]``, besides their own."""
    plain = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, own: Tensor | None = None) -> Tensor:
        return plain(q, k, v, mask if own is None else mask & own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        yield


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def index_ops_of_tokens(program: ir.Program) -> list[fx.Node]:
    """Index ops on what depends on the first input, the latents."""
    touched = {program.input_nodes[0]}
    for node in program.nodes:
        if touched & set(node.all_input_nodes):
            touched.add(node)
    return [n for n in program.nodes if n in touched and n.target is torch.ops.aten.index_select.default]


@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@torch.no_grad()
def test_model_equals_its_masked_self_on_any_number_of_ranks(ranks: int, text_first: bool) -> None:
    model = build(text_first)
    given = inputs(GRID, WORDS, batch=1 if ranks > 1 else 2)
    given["keep"] = torch.tensor([[True, True, False, True, False, False]]).expand(len(given["text"]), -1)
    with masked_attention(torch.stack([allowed(window, text_first) for window in WINDOWS])):
        expected = model(**given)
    dense = model(**given)
    compiled = fastvideo.compile(
        model, ranks, executor="simulated", device="cpu", attention_backend=SlidingTile(tile=TILE, window=WINDOWS)
    )
    assert error(compiled(**given), expected) < 1e-5
    assert error(expected, dense) > 1e-2
    assert len(index_ops_of_tokens(compiled.programs[0])) == 2
    if ranks > 1:
        (program,) = compiled.report.programs
        assert max(program.flops_per_rank) < 0.75 * program.flops


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
@torch.no_grad()
def test_full_windows_equal_dense_attention_with_two_index_ops_for_the_tokens(case: Any) -> None:
    model, given = case.build(), case.inputs(seed=0)
    compiled = fastvideo.compile(model, device="cpu", attention_backend=SlidingTile(tile=(2, 2, 3), window=(9, 9, 9)))
    assert error(compiled(**given)[0], model(**given)[0]) < 1e-5
    assert len(index_ops_of_tokens(compiled.programs[0])) == 2
    assert "SLIDING_TILE_ATTN" in compiled.explain()
    if case.name.startswith("wan"):
        assert "TORCH_SDPA (SLIDING_TILE_ATTN refused: its keys are not the tokens of its queries" in compiled.explain()


@torch.no_grad()
def test_packed_tokens_run_with_a_given_grid_and_are_refused_without() -> None:
    case = next(case for case in CASES if case.name.startswith("ltx"))
    model, given = case.build(), case.inputs(seed=0)
    with pytest.raises(BackendUnavailableError, match=r"none of the \d+ attentions of this program is one.*packed"):
        fastvideo.compile(model, device="cpu", attention_backend="SLIDING_TILE_ATTN")(**given)
    options = SlidingTile(tile=(2, 2, 3), window=(9, 9, 9), grid=(5, 5, 7))
    compiled = fastvideo.compile(model, device="cpu", attention_backend=options)
    assert error(compiled(**given)[0], model(**given)[0]) < 1e-5


@torch.no_grad()
def test_named_backend_compares_itself_with_the_exact_program() -> None:
    model, given = build(layers=1), inputs(GRID, WORDS)
    compiled = fastvideo.compile(model, device="cpu", attention_backend=SlidingTile(tile=TILE, window=(1, 1, 1)))
    found = compiled.compare_exact(**given)
    assert found.settings == ("attention_backend=SLIDING_TILE_ATTN",)
    assert 1e-3 < found.outputs[0].relative_l2 < 1
    assert abs(found.outputs[0].max_error - error(compiled(**given), model(**given))) < 1e-6


def test_ranks_that_are_processes_use_the_windows_of_their_own_heads() -> None:
    model, given = build(layers=1), inputs(GRID, WORDS)
    options = SlidingTile(tile=TILE, window=WINDOWS)
    one = fastvideo.compile(model, device="cpu", attention_backend=options)(**given)
    with fastvideo.compile(model, 2, device="cpu", attention_backend=options) as compiled:
        assert error(compiled(**given), one) < 1e-5


def windows_file(folder: Path, steps: int, layers: int, heads: int) -> str:
    entries = {
        f"{s}_{layer}_{h}": list(WINDOWS[(s + h) % 4])
        for s in range(steps)
        for layer in range(layers)
        for h in range(heads)
    }
    path = folder / "windows.json"
    path.write_text(json.dumps(entries))
    return str(path)


@torch.no_grad()
def test_file_of_windows_is_followed_step_by_step_without_compiling_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = build(layers=1), inputs(GRID, WORDS)
    monkeypatch.setenv("FASTVIDEO_ATTENTION_CONFIG", windows_file(tmp_path, 2, 1, 4))
    compiled = fastvideo.compile(model, device="cpu", attention_backend=SlidingTile(tile=TILE))
    with pytest.raises(InvalidArgumentError, match="depend on the denoising step, and no step is known"):
        compiled(**given)
    for step in (0, 1):
        compiled.set_step(step)
        with masked_attention(torch.stack([allowed(WINDOWS[(step + head) % 4], False) for head in range(4)])):
            expected = model(**given)
        assert error(compiled(**given), expected) < 1e-5
    assert len(compiled.programs) == 1
    compiled.set_step(2)
    with pytest.raises(InvalidArgumentError, match="denoising step 2 is beyond the 2 steps of"):
        compiled(**given)


@pytest.mark.parametrize(("layers", "heads"), [(2, 4), (1, 6)])
def test_file_for_another_model_is_refused(layers: int, heads: int, tmp_path: Path) -> None:
    config = windows_file(tmp_path, 1, layers, heads)
    compiled = fastvideo.compile(build(layers=1), device="cpu", attention_backend=SlidingTile(config=config))
    with pytest.raises(
        InvalidArgumentError, match=rf"{layers} layers of {heads} heads, this one has 1 .* over the token grid, of 4"
    ):
        compiled(**inputs(GRID, WORDS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "holds no entries"),
        ('{"0_0": [1, 1, 1]}', "not of the form"),
        ('{"0_0_0": [1, 0, 1]}', "expected three positive whole numbers"),
        ('{"0_0_1": [1, 1, 1]}', "1 of them are missing, the first is '0_0_0'"),
    ],
)
def test_file_of_another_form_is_refused_before_anything_is_compiled(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match=message):
        fastvideo.compile(build(), device="cpu", attention_backend=SlidingTile(config=str(path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": (6, 8)}, "tile="),
        ({"tile": (0, 8, 8)}, "tile="),
        ({"window": (3, 3, -1)}, "window="),
        ({"window": ()}, "window="),
        ({"grid": (1, 2.0, 3)}, "grid="),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        SlidingTile(**options)


def test_windows_for_another_number_of_heads_are_refused() -> None:
    compiled = fastvideo.compile(
        build(layers=1), device="cpu", attention_backend=SlidingTile(window=((1, 1, 1), (3, 3, 3)))
    )
    with pytest.raises(InvalidArgumentError, match="is for 2 heads, the model has 4"):
        compiled(**inputs(GRID, WORDS))


def test_blocks_with_windows_of_their_own_share_code() -> None:
    model, given = build(layers=5), inputs(GRID, WORDS)
    counts = []
    for backend in ("TORCH_SDPA", SlidingTile(tile=TILE, window=WINDOWS)):
        with fastvideo.compile(model, attention_backend=backend, device="cpu") as compiled:
            compiled(**given)
            counts.append(max(block.repeats for block in compiled.report.programs[0].blocks))
    assert counts[0] == counts[1] >= 3
