"""No line in the compile path names a model, a module or a parameter. Comments and strings count too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .source_tree import ROOT, Violation, plant, project_files, report

# Model families, as the words that a CamelCase or snake_case spelling is made of.
MODELS = """
    allegro; aura flow; bagel; chroma; cog video; cog videox; cog view; cosmos; easy animate; flux;
    gemma; hi dream; hunyuan; kandinsky; latte; llama; ltx; ltxv; lumina; mochi; open sora; pix art;
    qwen; sana; sky reels; step video; umt5; wan; z image
"""

# Modules, parameters and arguments of such models. Each is matched as a whole identifier.
MEMBERS = """
    add_k_proj add_q_proj add_v_proj attn1 attn2 caption_projection condition_embedder
    context_embedder double_blocks encoder_hidden_states ff_context ffn guidance_embedder
    hidden_states img_attn img_in img_mlp img_mod k_proj norm1 norm1_context norm2 norm2_context
    norm3 norm_added_k norm_added_q norm_k norm_out norm_q o_proj patch_embedding pos_embed proj_in
    proj_mlp proj_out q_proj rotary_emb scale_shift_table single_blocks single_transformer_blocks
    text_embedder time_embed time_embedder time_proj time_text_embed to_add_out to_k to_out to_q
    to_qkv to_v transformer_blocks txt_attn txt_in txt_mlp txt_mod v_proj vid_in x_embedder
"""

TEXT_SUFFIXES = (".py", ".fvir", ".json", ".yaml", ".toml", ".cu", ".cuh")


def model_pattern(name: str) -> str:
    """Matches wan, is_wan, Wan2, WanBlock and WAN, but not wanted, Wanted or taiwan."""
    words = name.split()
    lower = r"(?<![A-Za-z])" + "[_-]?".join(words) + "(?![a-z])"
    camel = "".join(word.capitalize() for word in words) + "(?![a-z])"
    upper = r"(?<![A-Za-z])" + "[_-]?".join(word.upper() for word in words) + "(?![a-z])"
    return f"{lower}|{camel}|{upper}"


FORBIDDEN = re.compile(
    "|".join(model_pattern(name.strip()) for name in MODELS.split(";"))
    + rf"|(?<!\w)(?:{'|'.join(MEMBERS.split())})(?!\w)"
)


def in_compile_path(path: Path) -> bool:
    layer, name = path.parts[0], path.parts[1:2]
    if layer == "frontends":
        return name[0].startswith("capture")
    return layer in {"passes", "backends", "fastvideo_ir"}


def model_name_violations(root: Path) -> list[Violation]:
    """Every mention of a model, or of a member of one, in the compile path under ``root``."""
    violations = []
    for path in project_files(root, *TEXT_SUFFIXES):
        if not in_compile_path(path):
            continue
        named = FORBIDDEN.search(str(path))
        if named:
            violations.append(Violation(path, 1, f"the file is named after {named[0]!r}"))
        for line, text in enumerate((root / path).read_text().splitlines(), start=1):
            violations += [Violation(path, line, f"names {match[0]!r}") for match in FORBIDDEN.finditer(text)]
    return violations


def test_compile_path_names_no_model() -> None:
    violations = model_name_violations(ROOT)
    assert not violations, report(violations)


@pytest.mark.parametrize("path", ["passes/p.py", "backends/deep/b.py", "fastvideo_ir/ops/o.py", "frontends/capture.py"])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("if 'wan' in name:", "wan"),
        ("class WanAttention: ...", "Wan"),
        ("is_wan2 = True", "wan"),
        ("# as FLUX does", "FLUX"),
        ("from diffusers import HunyuanVideoTransformer3DModel", "Hunyuan"),
        ("model = LTXVideo()", "LTX"),
        ("model = CogVideoXBlock()", "CogVideo"),
        ("cogvideox = 1", "cogvideox"),
        ("if path.endswith('attn1.to_q.weight'):", "attn1"),
        ("getattr(block, 'ffn')", "ffn"),
        ("kwargs['encoder_hidden_states']", "encoder_hidden_states"),
    ],
)
def test_planted_name_is_found(tmp_path: Path, path: str, text: str, name: str) -> None:
    plant(tmp_path, path, f"import torch\n{text}\n")
    first = model_name_violations(tmp_path)[0]
    assert (str(first.path), first.line, first.message) == (path, 2, f"names {name!r}")


def test_file_named_after_a_model_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "passes/fuse_wan_rope.py", "")
    assert len(model_name_violations(tmp_path)) == 1


@pytest.mark.parametrize(
    "text",
    ["what is wanted", "Wanted = 1", "fluxes", "swan", "to_queue(x)", "q, k, v = heads", "effort", "fv_attn"],
)
def test_ordinary_words_pass(tmp_path: Path, text: str) -> None:
    plant(tmp_path, "passes/p.py", text)
    assert model_name_violations(tmp_path) == []


@pytest.mark.parametrize("path", ["frontends/families.py", "runtime/pipeline/encode.py", "tests/test_wan.py"])
def test_names_are_free_outside_the_compile_path(tmp_path: Path, path: str) -> None:
    plant(tmp_path, path, "wan = 'to_q'")
    assert model_name_violations(tmp_path) == []
