"""Pretrain the bundled small vision transformer on drawn pictures that hold no digits.

`python -m workbench.models.build_vit` rewrites `workbench/models/shipped/vit` (about ten minutes on one core). Equal library
versions give equal weights.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification, get_cosine_schedule_with_warmup

from workbench.models.glyphs import CLASSES, SIZE, pictures

SHIPPED = Path(__file__).parent / "shipped" / "vit"
BATCH, STEPS, RATE = 128, 3200, 1.5e-3
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def new_model() -> ViTForImageClassification:
    """The untrained network: 4 blocks, width 96, 4x4 patches of 16x16 pictures, 0.46 million parameters."""
    config = ViTConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=4,
        num_labels=len(CLASSES),
    )
    return ViTForImageClassification(config)


def as_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, height, width, 3) to the normalised (n, 3, height, width) of `PROCESSOR`."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def pretrain(model: ViTForImageClassification, steps: int) -> list[float]:
    """AdamW on pictures that are each seen once; returns the loss of every step."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    losses, begun = [], time.monotonic()
    for step in range(steps):
        images, labels = pictures(BATCH, seed=1 + step)
        loss = cross_entropy(model(pixel_values=as_pixels(images)).logits, torch.from_numpy(labels))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step:5d} loss {np.mean(losses[-100:]):.3f} seconds {time.monotonic() - begun:.0f}", flush=True)
    return losses


@torch.no_grad()
def held_out_accuracy(model: ViTForImageClassification, count: int = 4000) -> float:
    """Share of fresh pictures whose class is named right."""
    images, labels = pictures(count, seed=0)
    model.eval()
    guesses = [model(pixel_values=as_pixels(images[i : i + 500])).logits.argmax(1).numpy() for i in range(0, count, 500)]
    return float((np.concatenate(guesses) == labels).mean())


def write_readme(folder: Path, figures: dict[str, float]) -> None:
    """Record what was measured beside the weights."""
    lines = [f"| {name} | {value:{',.4g' if isinstance(value, float) else ','}} |" for name, value in figures.items()]
    text = f"""# bundled/vit

A small vision transformer (4 blocks, width 96, 4x4 patches of 16x16 RGB pictures), pretrained to tell {len(CLASSES)} kinds of
drawn pictures apart: letters that resemble no digit, invented characters, shapes, and patches of two photographs that come with
scikit-learn. It has never seen a digit. The pretraining head is not shipped. Made by `python -m workbench.models.build_vit` with
torch {torch.__version__}.

| figure | value |
|---|---|
{chr(10).join(lines)}
"""
    (folder / "README.md").write_text(text)


def build(folder: Path, steps: int = STEPS) -> dict[str, float]:
    """Train the model and write the folder.

    Args:
        folder: where config, weights, processor settings and README go.
        steps: optimizer steps of 128 pictures.

    Returns:
        The figures of the README.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    model = new_model()
    losses = pretrain(model, steps)
    figures = {
        "parameters": sum(p.numel() for p in model.vit.parameters()),
        "pictures seen": steps * BATCH,
        "training loss, last 100 steps (nats)": float(np.mean(losses[-100:])),
        "loss of guessing (nats)": math.log(len(CLASSES)),
        "held-out accuracy on drawn pictures": held_out_accuracy(model),
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}  # the drawn classes mean nothing without their head
    model.config.label2id = {"LABEL_0": 0, "LABEL_1": 1}
    model.vit.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n")
    write_readme(folder, figures)
    return figures


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Pretrain the bundled vision transformer.")
    arguments.add_argument("--to", type=Path, default=SHIPPED, help="folder to write")
    arguments.add_argument("--steps", type=int, default=STEPS, help="optimizer steps")
    chosen = arguments.parse_args()
    print(json.dumps(build(chosen.to, chosen.steps), indent=1))
