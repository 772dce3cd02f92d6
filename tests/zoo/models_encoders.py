"""Text encoders of transformers, in the small."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)

from .cases import Draw, ZooCase, entry

VOCABULARY, TOKENS = 101, 37


def _tokens(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"input_ids": draw.integers(VOCABULARY, TOKENS), "return_dict": False, **more}


def _masked(draw: Draw) -> dict[str, Any]:
    return _tokens(draw, attention_mask=draw.mask(TOKENS))


def _t5(heads: int) -> nn.Module:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=VOCABULARY, d_model=48, d_kv=8, d_ff=96, num_layers=2, num_heads=heads, dropout_rate=0.0
        )
    )


def _umt5(heads: int) -> nn.Module:
    return transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=VOCABULARY, d_model=48, d_kv=8, d_ff=96, num_layers=2, num_heads=heads, dropout_rate=0.0
        )
    )


def _clip(heads: int) -> nn.Module:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=heads * 8,
            intermediate_size=heads * 16,
            num_hidden_layers=2,
            num_attention_heads=heads,
            max_position_embeddings=TOKENS,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
    )


def _clip_vision(heads: int) -> nn.Module:
    return transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=heads * 8,
            intermediate_size=heads * 16,
            num_hidden_layers=2,
            num_attention_heads=heads,
            image_size=28,
            patch_size=4,
        )
    )


def _decoder(name: str) -> Any:
    def make(heads: int) -> nn.Module:
        config = getattr(transformers, f"{name}Config")(
            vocab_size=VOCABULARY,
            hidden_size=heads * 8,
            intermediate_size=heads * 16,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=8,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        model: nn.Module = getattr(transformers, f"{name}Model")(config)
        return model

    return make


def _siglip_vision(heads: int) -> nn.Module:
    return transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=heads * 8,
            intermediate_size=heads * 16,
            num_hidden_layers=2,
            num_attention_heads=heads,
            image_size=28,
            patch_size=4,
        )
    )


def _siglip_text(heads: int) -> nn.Module:
    return transformers.SiglipTextModel(
        transformers.SiglipTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=heads * 8,
            intermediate_size=heads * 16,
            num_hidden_layers=2,
            num_attention_heads=heads,
            max_position_embeddings=TOKENS,
            projection_size=heads * 8,
        )
    )


def _qwen_vl_text(heads: int) -> nn.Module:
    return Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=heads * 8,
            intermediate_size=heads * 16,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=64,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def _qwen_vl_vision(heads: int) -> nn.Module:
    return Qwen2_5_VisionTransformerPretrainedModel(
        Qwen2_5_VLVisionConfig(
            depth=2,
            hidden_size=heads * 8,
            intermediate_size=heads * 16,
            num_heads=heads,
            patch_size=4,
            window_size=32,
            out_hidden_size=heads * 8,
            fullatt_block_indexes=[1],
        )
    )


def _causal(draw: Draw) -> dict[str, Any]:
    return {**_masked(draw), "use_cache": False}


ROPE = "rotary embedding and norms"

ENCODERS: tuple[ZooCase, ...] = (
    entry("T5", _t5, _masked, casts="norms and softmax"),
    entry("UMT5", _umt5, _masked, casts="norms and softmax"),
    entry("CLIPText", _clip, _masked),
    entry(
        "CLIPVision",
        _clip_vision,
        lambda draw: {"pixel_values": draw.tokens(3, 28, 28), "return_dict": False},
    ),
    entry("SigLIPText", _siglip_text, _masked),
    entry(
        "SigLIPVision",
        _siglip_vision,
        lambda draw: {"pixel_values": draw.tokens(3, 28, 28), "return_dict": False},
    ),
    entry("Qwen25VLText", _qwen_vl_text, _causal, casts=ROPE, odd=(10, 12)),
    entry(
        "Qwen25VLVision",
        _qwen_vl_vision,
        lambda draw: {
            "hidden_states": draw.randn(12 * 16, 3 * 2 * 4 * 4),
            "grid_thw": torch.tensor([[1, 12, 16]]),
            "return_dict": False,
        },
        casts="rotary embedding and norms",
        batched=False,
    ),
    entry("Llama", _decoder("Llama"), _causal, casts=ROPE, odd=(10, 12)),
    entry("Qwen2", _decoder("Qwen2"), _causal, casts=ROPE, odd=(10, 12)),
    entry("Qwen3", _decoder("Qwen3"), _causal, casts=ROPE, odd=(10, 12)),
    entry("Gemma2", _decoder("Gemma2"), _causal, casts=ROPE, odd=(10, 12)),
)
