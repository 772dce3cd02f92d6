"""Text and image encoders of transformers, called as pipelines call them: captured, and divided by tensor parallelism.

Prompts are padded on either side, and hidden states are asked for, which the models collect with hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

import fastvideo
import fastvideo_ir as ir
from fastvideo import Parallel

from ..zoo.running import collectives_of
from .measuring import count_work, errors_of

VOCABULARY, TOKENS, HEADS, LAYERS = 101, 24, 8, 2
SIZES = {"hidden_size": 8 * HEADS, "intermediate_size": 16 * HEADS, "num_hidden_layers": LAYERS}
SPECIAL = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
COLLECTIVES = {"all_reduce": 1.0, "reduce_scatter": 0.5, "all_gather": 0.5}
"""An all-reduce is a reduce-scatter and an all-gather."""

pytestmark = pytest.mark.filterwarnings("ignore")


def _decoder(name: str, kv_heads: int = 2, **more: Any) -> nn.Module:
    options = {"num_attention_heads": HEADS, "num_key_value_heads": kv_heads, "use_cache": False, **SPECIAL, **more}
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, head_dim=8, **SIZES, **options)
    model: nn.Module = getattr(transformers, name.removesuffix("Text") + ("TextModel" if "Text" in name else "Model"))(
        config
    )
    return model


def _qwen_vl() -> nn.Module:
    sections = {"type": "mrope", "mrope_section": [1, 1, 2]}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": 2, "use_cache": False}
    return transformers.Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(vocab_size=VOCABULARY, rope_scaling=sections, **SIZES, **SPECIAL, **heads)
    )


def _t5(name: str) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY, d_model=48, d_kv=8, d_ff=96, num_layers=LAYERS, num_heads=HEADS, dropout_rate=0.0
    )
    model: nn.Module = getattr(transformers, f"{name}EncoderModel")(config)
    return model


def _clip_text(name: str) -> nn.Module:
    options = {"max_position_embeddings": TOKENS, "projection_dim": 24, **SPECIAL}
    config = transformers.CLIPTextConfig(vocab_size=VOCABULARY, num_attention_heads=HEADS, **SIZES, **options)
    model: nn.Module = getattr(transformers, name)(config)
    return model


def _vision(name: str, config: str = "CLIPVisionConfig") -> nn.Module:
    options = {"num_attention_heads": HEADS, "image_size": 28, "patch_size": 7, "projection_dim": 24}
    model: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**SIZES, **options))
    return model


def _ids(seed: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(seed))


def _padded(seed: int, *, left: bool = False, **more: Any) -> dict[str, Any]:
    """Two prompts of other lengths for every seed."""
    mask = (torch.arange(TOKENS)[None] < torch.tensor([[TOKENS - 4 - seed], [TOKENS - 9 + 2 * seed]])).long()
    return {"input_ids": _ids(seed), "attention_mask": mask.flip(1) if left else mask, **more}


def _hidden_states(seed: int, *, left: bool = False) -> dict[str, Any]:
    return _padded(seed, left=left, output_hidden_states=True)


def _padded_left(seed: int) -> dict[str, Any]:
    return _hidden_states(seed, left=True)


def _picture(seed: int) -> dict[str, Any]:
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"pixel_values": pixels, "output_hidden_states": True}


@dataclass(frozen=True)
class Encoder:
    """A model, its inputs by seed, and what it computes in fp32, if anything."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Any]]
    casts: bool = False


ENCODERS = [
    Encoder("llama", lambda: _decoder("Llama"), _hidden_states, casts=True),
    Encoder("llama-one-kv-head", lambda: _decoder("Llama", kv_heads=1), _padded_left, casts=True),
    Encoder("qwen2.5-vl", _qwen_vl, _hidden_states, casts=True),
    Encoder("qwen3", lambda: _decoder("Qwen3"), _padded_left, casts=True),
    Encoder("gemma2", lambda: _decoder("Gemma2"), _hidden_states, casts=True),
    Encoder("gemma3", lambda: _decoder("Gemma3Text", sliding_window=8), _padded_left, casts=True),
    Encoder("t5", lambda: _t5("T5"), _padded, casts=True),
    Encoder("umt5", lambda: _t5("UMT5"), _padded, casts=True),
    Encoder("clip-text", lambda: _clip_text("CLIPTextModel"), lambda seed: {"input_ids": _ids(seed)}),
    Encoder("clip-text-projection", lambda: _clip_text("CLIPTextModelWithProjection"), _hidden_states),
    Encoder("clip-vision", lambda: _vision("CLIPVisionModel"), _picture),
    Encoder("clip-vision-projection", lambda: _vision("CLIPVisionModelWithProjection"), _picture),
    Encoder("siglip-vision", lambda: _vision("SiglipVisionModel", "SiglipVisionConfig"), _picture),
]


def _built(encoder: Encoder) -> nn.Module:
    torch.manual_seed(0)
    return encoder.build().eval().double()


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_encoder_is_divided_by_tensor_parallelism(encoder: Encoder) -> None:
    """Three prompts through one program, no rank with more than its share, one all-reduce per attention and MLP."""
    model, ranks = _built(encoder), 2
    with torch.no_grad():
        expected = {seed: model(**encoder.inputs(seed)) for seed in range(3)}
        eager = count_work(lambda: model(**encoder.inputs(0)))
    with fastvideo.compile(model, parallel=Parallel(tp=ranks), executor="simulated", device="cpu") as compiled:
        for seed, wanted in expected.items():
            result = compiled(**encoder.inputs(seed))
            assert type(result) is type(wanted) and list(result) == list(wanted)
            assert max(errors_of(_tensors(result), _tensors(wanted))) <= (1e-6 if encoder.casts else 1e-10)
        work = count_work(lambda: compiled(**encoder.inputs(0))).total
        (program,) = compiled.programs
        (seen,) = compiled.report.programs
    assert "bit-equal" in seen.verified
    shares = [work[rank] / eager.total[None] for rank in range(ranks)]
    assert max(shares) <= 1.2 / ranks, shares
    _check_collectives(program)


def _check_collectives(program: ir.Program) -> None:
    """Two all-reduces a layer; outside of layers there may be one for the embedding, and one for the results."""
    found = collectives_of(program)
    assert set(found) <= set(COLLECTIVES), found
    assert sum(COLLECTIVES[name] * count for name, count in found.items()) <= 2 * LAYERS + 2, found


@pytest.mark.parametrize("name", ["llama-one-kv-head", "clip-vision"])
def test_heads_that_do_not_divide(name: str) -> None:
    """Eight heads on three ranks; one key and value head on three ranks."""
    encoder = next(encoder for encoder in ENCODERS if encoder.name == name)
    model, ranks = _built(encoder), 3
    with torch.no_grad():
        expected = model(**encoder.inputs(1))
        eager = count_work(lambda: model(**encoder.inputs(0)))
    with fastvideo.compile(model, parallel=Parallel(tp=ranks), executor="simulated", device="cpu") as compiled:
        work = count_work(lambda: compiled(**encoder.inputs(0))).total
        result = compiled(**encoder.inputs(1))
    assert max(errors_of(_tensors(result), _tensors(expected))) <= (1e-6 if encoder.casts else 1e-10)
    assert max(work[rank] / eager.total[None] for rank in range(ranks)) <= 1.2 / ranks


def test_encoder_on_two_processes_in_single_precision() -> None:
    model = _decoder("Llama").eval()
    with fastvideo.compile(model, parallel=Parallel(tp=2), executor="mp", device="cpu") as compiled:
        for seed in range(3):
            inputs = _hidden_states(seed)
            with torch.no_grad():
                expected = model(**inputs).hidden_states[-3]
            result = compiled(**inputs).hidden_states[-3]
            assert errors_of([result], [expected])[0] <= 1e-5
        assert len(compiled.programs) == 1
    assert compiled.dtype == torch.float32 and compiled.config is model.config
