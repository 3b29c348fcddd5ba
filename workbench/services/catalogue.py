"""Every method, modifier, recipe, task and operation with its form: read from a file, rebuilt when the code changed.

`python -m workbench.services.catalogue` also writes `workbench/methods/README.md`.
"""

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.jobs import detach, wire

SOURCES = ("methods", "modifiers", "recipes", "tasks", "operations", "kernel", "core", "services/catalogue.py")
README = paths.ROOT / "workbench" / "methods" / "README.md"


def catalogue() -> list[dict[str, Any]]:
    """Methods, then presets, as `methods --json` prints them, with form, formula and text. Imports no torch here."""
    return everything()["methods"]


def everything() -> dict[str, list[dict[str, Any]]]:
    """{methods, modifiers, recipes, tasks, operations}; rebuilt in a process of its own when the code changed.

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
    return {name: stored[name] for name in ("methods", "modifiers", "recipes", "tasks", "operations")}


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
