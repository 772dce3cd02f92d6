"""How much memory a whole generation takes, beside what explain() predicts of it.

    python -m benchmarks.memory

Wan2.1-1.3B with its text encoder and VAE in their real sizes, with random weights, through VideoGenerator. Counted are
the tensors on the device while the denoiser runs, without the text encoder and the VAE that wait there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from transformers import UMT5Config, UMT5EncoderModel

from examples.build_tiny_pipeline import build_tokenizer
from fastvideo import VideoGenerator

from .models import WORKLOADS, build

XXL = UMT5Config(
    d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=256384
)
STEPS = 4
GIB = 2**30


def write_pipeline(folder: Path, workload: str, encoder: UMT5Config, device: torch.device) -> None:
    """A pipeline in Diffusers layout, in bf16 but for the VAE."""
    transformer = build(WORKLOADS[workload], torch.bfloat16, device)
    with torch.device(device):
        text_encoder = UMT5EncoderModel(encoder).to(torch.bfloat16)
        vae = AutoencoderKLWan()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    WanPipeline(build_tokenizer(), text_encoder, vae, scheduler, transformer).save_pretrained(folder)


def measure(folder: Path, device: torch.device, request: dict[str, Any]) -> dict[str, Any]:
    """Bytes of tensors while the denoiser runs, predicted and measured, in the step that verifies and in later ones."""
    peaks: list[int] = []

    def counted(step: Any) -> None:
        peaks.append(torch.cuda.max_memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)

    with VideoGenerator.from_pretrained(str(folder)) as generator:
        loaded = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        generator.generate_video("a cat", num_inference_steps=STEPS, on_step=counted, save_video=False, **request)
        denoiser = generator.compiled_models[0].report.to_dict()["programs"][0]["memory"]
    others = loaded - max(denoiser["weights"])
    libraries = denoiser["allowance"]
    return {
        "other_components": others,
        "predicted": {"verifying": denoiser["first_call"] - libraries, "later": denoiser["total"] - libraries},
        "measured": {"verifying": peaks[0] - others, "later": max(peaks[1:]) - others},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as folder:
        write_pipeline(Path(folder), "wan2.1-1.3b/480p", XXL, device)
        torch.cuda.empty_cache()
        found = measure(Path(folder), device, {})
    print(f"{'step':<10}{'predicted':>14}{'measured':>14}{'ratio':>8}")
    for step, predicted in found["predicted"].items():
        measured = found["measured"][step]
        print(f"{step:<10}{predicted / GIB:>10.2f} GiB{measured / GIB:>10.2f} GiB{predicted / measured:>8.3f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
