"""Every method, modifier, recipe, task and operation with its form: read from a file, rebuilt when the code changed.

`python -m workbench.services.catalogue` also writes `workbench/methods/README.md`.
"""

import hashlib
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.jobs import detach, wire

SOURCES = ("methods", "modifiers", "recipes", "tasks", "operations", "analyses", "kernel", "core", "services/catalogue.py")
SEARCHED = ("key", "preset_of", "title", "family", "text", "paper")
ENTRIES = ("methods", "modifiers", "recipes", "tasks", "operations", "analyses")
README = paths.ROOT / "workbench" / "methods" / "README.md"


def catalogue() -> list[dict[str, Any]]:
    """Methods, then presets, as `methods --json` prints them, with form, formula and text. Imports no torch here."""
    return everything()["methods"]


def everything() -> dict[str, list[dict[str, Any]]]:
    """{methods, modifiers, recipes, tasks, operations, analyses}; rebuilt in a process of its own when the code changed.

    Raises:
        WorkbenchError: a method file cannot be loaded.
    """
    stored = wire.read_json(_file())
    if stored is None or stored.get("hash") != code_hash():
        if "torch" in sys.modules:
            return rebuild()
        command = [*detach.python("workbench.services.catalogue"), "--cache"]
        done = subprocess.run(command, env=detach.environment(), cwd=paths.home(), capture_output=True, text=True, check=False)
        stored = wire.read_json(_file())
        if done.returncode or stored is None:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
            raise WorkbenchError(f"the catalogue cannot be built: {last.rstrip('.')}; fix that file and try again.")
    return {name: stored[name] for name in ENTRIES}


def filtered(
    entries: Sequence[Mapping[str, Any]],
    text: str = "",
    mergeable: bool | None = None,
    engine: str | None = None,
    families: Collection[str] = (),
    kinds: Collection[str] = (),
    has_paper: bool | None = None,
    max_share: float | None = None,
    shares: Mapping[str, float | None] | None = None,
) -> list[Mapping[str, Any]]:
    """The methods that fit, in their order; a condition that is None or empty asks for nothing.

    Args:
        entries: methods and presets of the catalogue.
        text: words that must all occur, in any case, in key, title, family, text or citation.
        mergeable: whether it can be merged into the base.
        engine: `native` or `peft`.
        families, kinds: any of these.
        has_paper: whether it is one of the numbered papers.
        max_share: most trained scalars over those of the base, see `shares`; needs `shares`.
        shares: key -> that share on one base model, None where the method cannot be used there.
    """
    words = text.casefold().split()

    def fits(one: Mapping[str, Any]) -> bool:
        share = (shares or {}).get(one["key"])
        searched = " ".join(str(one.get(name) or "") for name in SEARCHED).casefold()
        return (
            all(word in searched for word in words)
            and mergeable in (None, one["mergeable"])
            and engine in (None, one["engine"])
            and (not families or one["family"] in families)
            and (not kinds or one["kind"] in kinds)
            and has_paper in (None, one["paper_id"] is not None)
            and (max_share is None or (share is not None and share < max_share))
        )

    return [one for one in entries if fits(one)]


def rebuild() -> dict[str, list[dict[str, Any]]]:
    """Build the catalogue in this process (imports torch) and write it to `<home>/cache/catalogue.json`."""
    from workbench.services import describing

    built = wire.plain(describing.everything())
    wire.write_json(_file(), {"hash": code_hash(), **built})
    return built


def code_hash() -> str:
    """sha256 over the names and contents of everything the catalogue is made from."""
    digest = hashlib.sha256()
    for source in SOURCES:
        top = paths.ROOT / "workbench" / source
        for file in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            digest.update(f"{file.relative_to(paths.ROOT)}\0{_content(file, file.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@cache
def _content(file: Path, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _file() -> Path:
    return paths.cache() / "catalogue.json"


def readme(methods: list[dict[str, Any]]) -> str:
    """The methods folder's README, generated from the catalogue."""
    lines = [
        "# Methods",
        "",
        "Generated from the files in this folder by `python -m workbench.services.catalogue`; edit those.",
        "",
    ]
    for family in sorted({m["family"] for m in methods}):
        lines += [
            f"## {family.replace('_', ' ')}",
            "",
            "| key | what it is | kind | engine | paper | parameters per site |",
            "|---|---|---|---|---|---|",
        ]
        for m in (m for m in methods if m["family"] == family):
            name = f"`{m['key']}`" + (f" (of `{m['preset_of']}`)" if m["preset_of"] else "")
            cells = [name, m["title"], m["kind"], m["engine"], f"[{m['paper']}]({m['url']})", m["trainable_params_formula"]]
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Rebuild; without `--cache` also write the README."""
    built = rebuild()
    if arguments != ["--cache"]:
        README.write_text(readme(built["methods"]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
