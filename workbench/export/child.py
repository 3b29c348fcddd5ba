"""What a fresh process runs: load an exported folder as any user would, and write its logits of given rows.

Started as a script by path. For `peft` and `merged` it imports torch, transformers and peft only; this project is then not
even on its import path. For `bundle` it loads the folder with `workbench.load_adapter`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def model_of(request: dict[str, Any]) -> Any:
    """The model as its folder says."""
    folder = request["folder"]
    if request["kind"] == "bundle":
        from workbench import load_adapter

        return load_adapter(None, folder, dtype=request["dtype"])
    import transformers

    auto = getattr(transformers, request["auto"])
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": request["dtype"] or "auto"}
    if request["kind"] == "merged":
        return auto.from_pretrained(folder, **options)
    from peft import PeftModel

    base = auto.from_pretrained(request["base"], ignore_mismatched_sizes=True, **request["settings"], **options)
    return PeftModel.from_pretrained(base, folder, torch_device="cpu", local_files_only=True)


@torch.no_grad()
def answer(request: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Logits of every batch: `<n>` -> (rows, classes) or (rows, tokens, vocabulary)."""
    model = model_of(request).eval()
    tensors = load_file(request["rows"])
    found = {}
    for number in sorted({k.partition(".")[0] for k in tensors}, key=int):
        part = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{number}.")}
        inputs = {k.removeprefix("input."): v for k, v in part.items() if k.startswith("input.")}
        facts = {k.removeprefix("fact."): v for k, v in part.items() if k.startswith("fact.")}
        if hasattr(model, "workbench"):
            with model.workbench.context(**facts):
                out = model(**inputs).logits
        else:
            out = model(**inputs).logits
        if out.dim() == 3:  # peft leaves its virtual tokens in front of a language model's logits
            side = "decoder_" if "decoder_input_ids" in inputs else ""
            mask = inputs[f"{side}attention_mask"]
            out = out[:, -mask.shape[1] :] * mask[..., None]  # padding says nothing
        found[number] = out.float().contiguous()
    return found


def main(requests: list[dict[str, Any]]) -> None:
    """Answer each request into its own file, and say whether this project was imported."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for request in requests:
        save_file(answer(request), request["out"])
    print(json.dumps({"imported_workbench": "workbench" in sys.modules}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
