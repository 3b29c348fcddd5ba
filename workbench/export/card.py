"""The model card of an exported folder: front matter for the Hub, what it is, how to load it, and the measured check."""

import json
from pathlib import Path
from typing import Any

from workbench.core import safe_yaml
from workbench.core.text import coded, line, named
from workbench.evaluate.saved import Revived
from workbench.export.peft import KINDS, head_class

LIBRARY = {"peft": "peft", "lora": "peft", "merged": "transformers", "bundle": "adapter-workbench"}


def write(work: Path, revived: Revived, format: str, facts: dict[str, Any], check: dict[str, Any], usage: str) -> None:
    """README.md of the folder."""
    front = "---\n" + safe_yaml.dumps(front_matter(revived, format, check)) + "---\n\n"
    (work / "README.md").write_text(front + _text(revived, format, facts, check, usage), encoding="utf-8")


def front_matter(revived: Revived, format: str, check: dict[str, Any]) -> dict[str, Any]:
    """The YAML that the Hub reads."""
    meta = revived.meta
    source = meta["base"]["source"]
    tags = [
        "adapter-workbench",
        revived.adapter.key,
        meta["task"],
        *(["lora"] if format == "lora" and revived.adapter.key != "lora" else []),
    ]
    return {
        "base_model": line(source if source.count("/") < 2 and not source.startswith(("/", ".")) else Path(source).name),
        "library_name": LIBRARY[format],
        "pipeline_tag": KINDS.get(head_class(revived.host), (None, "other"))[1],
        "tags": list(dict.fromkeys(tags)),
        "metrics": [check["metric"]],
    }


def _text(revived: Revived, format: str, facts: dict[str, Any], check: dict[str, Any], usage: str) -> str:
    meta, config = revived.meta, revived.adapter.cfg.model_dump(mode="json", exclude_none=True)
    base = meta["base"]
    lines = [
        f"# {named(meta.get('label') or revived.adapter.key)}",
        "",
        f"The method `{revived.adapter.key}` on {coded(base['source'])}, task `{meta['task']}`, exported as `{format}`.",
        "",
        f"- base weights: sha256 `{base['sha256']}`" + (f", revision {coded(base['revision'])}" if base.get("revision") else ""),
        f"- configuration: {coded(json.dumps(config, sort_keys=True))}",
        *([f"- modifiers: {coded(json.dumps(meta['modifiers']))}"] if meta.get("modifiers") else []),
        *([f"- recipe: {coded(json.dumps(meta['recipe']))}"] if meta.get("recipe") else []),
        *([f"- labels: {', '.join(map(named, meta['labels']))}"] if meta["labels"] else []),
        f"- versions: {', '.join(f'{k} {v}' for k, v in sorted((meta.get('versions') or {}).items()))}",
        *_figures(meta),
        "",
        "## Use",
        "",
        f"```python\n{usage}```",
        "",
        "## Checked",
        "",
        "Loaded in a fresh process and compared with the run's own model in fp32 on "
        f"{check['rows']} rows ({check['rows_from'].rstrip('.')}).",
        "",
        f"- largest difference of the logits: {check['max_error']:.3g}, mean {check['mean_error']:.3g}"
        + (f" (allowed: {check['limit']:.3g})" if check["limit"] is not None else " (no limit was set)"),
    ]
    if check["metric_before"] is not None:
        lines.append(f"- {check['metric']} on these rows: {check['metric_before']:.4g} before, {check['metric_after']:.4g} after")
    return "\n".join([*lines, *_low_rank(facts)]) + "\n"


def _figures(meta: dict[str, Any]) -> list[str]:
    figures = {k: v for k, v in (meta.get("metrics") or {}).items() if isinstance(v, int | float)}
    return [f"- test split: {', '.join(f'{k} {v:.4g}' for k, v in figures.items())}"] if figures else []


def _low_rank(facts: dict[str, Any]) -> list[str]:
    """What an export by singular values lost."""
    if "relative_errors" not in facts:
        return []
    rows = [f"| {path} | {error:.3g} |" for path, error in facts["relative_errors"].items()]
    lost = ["", f"Not in this LoRA: {', '.join(facts['dropped'])}."] if facts["dropped"] else []
    return [
        "",
        f"Rank {facts['rank']}; relative Frobenius error of the change of each weight:",
        "",
        "| weight | error |",
        "|---|---|",
        *rows,
        *lost,
    ]
