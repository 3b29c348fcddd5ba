"""Image classification: one label for an image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.data import Table, pixels
from workbench.tasks.contract import Batch, Classification, Example, build


class ImageClassification(Classification):
    """`{image, label}` to a class; host: AutoModelForImageClassification."""

    parts = ({"image": True, "label": True},)
    provides = ()

    def __init__(self, folder: Path, labels: Sequence[str], max_length: int) -> None:
        super().__init__(folder, labels, max_length)
        self.pixels = Pixels(self.folder)

    def host(self, seed: int = 0, meta: bool = False) -> nn.Module:
        from transformers import AutoModelForImageClassification

        names = dict(enumerate(self.labels))
        ids = {"id2label": names, "label2id": {v: k for k, v in names.items()}}
        host, self._head = build(AutoModelForImageClassification, self.folder, seed, meta, **ids)
        return host

    def head(self, host: nn.Module) -> tuple[str, ...]:
        return self._head

    def sees(self) -> dict[str, Any]:
        return self.pixels.facts()

    def encode(self, table: Table) -> list[Example]:
        rows = zip(table.ids, table.column("image"), self.targets(table), strict=True)
        return [Example(i, 1, {"image": image, "target": t}) for i, image, t in rows]

    def collate(self, examples: Sequence[Example]) -> Batch:
        pixels = torch.stack([self.pixels(e.fields["image"]) for e in examples])  # (batch, channels, height, width)
        targets = torch.tensor([e.fields["target"] for e in examples])
        return Batch({"pixel_values": pixels}, {}, targets, examples)


class Pixels:
    """Images as the base model was trained to see them, from its preprocessor_config.json."""

    def __init__(self, folder: Path) -> None:
        file = folder / "preprocessor_config.json"
        if not file.is_file():
            raise WorkbenchError(f"a base model for images must ship preprocessor_config.json; {folder.name} does not.")
        facts = json.loads(file.read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = facts.get("size") or {}
        side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge") or config["image_size"]
        self.side, self.channels = int(side), int(config.get("num_channels", 3))
        self.scale = float(facts.get("rescale_factor", 1 / 255)) if facts.get("do_rescale", True) else 1.0
        normalise = facts.get("do_normalize", True)
        self.mean = torch.tensor(facts.get("image_mean", [0.5]) if normalise else [0.0]).view(-1, 1, 1)
        self.std = torch.tensor(facts.get("image_std", [0.5]) if normalise else [1.0]).view(-1, 1, 1)

    def facts(self) -> dict[str, Any]:
        """Size, channels, factor, mean and standard deviation per channel: pixel -> (pixel x scale - mean) / std."""
        mean, std = ([round(v, 6) for v in values.flatten().tolist()] for values in (self.mean, self.std))
        size = {"width": self.side, "height": self.side, "channels": self.channels}
        return {**size, "scale": self.scale, "mean": mean, "std": std}

    def __call__(self, image: Any) -> Tensor:
        """An image in any form that a data source gives, as (channels, side, side)."""
        import numpy as np
        from PIL import Image

        picture = Image.fromarray(pixels(image))
        picture = picture.convert("L" if self.channels == 1 else "RGB").resize((self.side, self.side), Image.Resampling.BILINEAR)
        array = torch.from_numpy(np.array(picture, dtype=np.float32) * self.scale)
        array = array[None] if array.dim() == 2 else array.permute(2, 0, 1)
        return (array - self.mean) / self.std
