"""The known causes of a failed run: how each is recognised, what is said of it, and the field of the spec to change.

A cause is recognised by the class of an exception (or of one that led to it), else by what an exception or a log says.
Classes go by name, so that no library is imported to explain the end of another process. Order decides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from workbench.core.errors import WorkbenchError


@dataclass(frozen=True)
class Cause:
    """One cause.

    Attributes:
        name: short, for programs.
        classes: names of exception classes, with the package before them where the name alone says too little.
        said: what an exception or a log says, as a regular expression.
        sentence: `{text}` is what the exception says; empty = our own error's sentence stands as it is.
        field: the spec field to change, e.g. `training.batch_size`; empty where no field helps.
        insists: its sentence replaces that of our own error, which knew less.
    """

    name: str
    classes: tuple[str, ...] = ()
    said: str = "(?!)"
    sentence: str = ""
    field: str = ""
    insists: bool = False


GPU = (
    r"driver version is insufficient|NVIDIA driver on your system is too old|Found no NVIDIA driver"
    r"|Driver/library version mismatch|no kernel image is available|forward compatibility was attempted"
    r"|driver shutting down|CUDA driver initialization failed"
    r"|CUDA-capable device\(s\) is/are busy|no CUDA-capable device|not compiled with CUDA|no CUDA GPUs are available"
)
CAUSES = (
    Cause("gpu_memory", ("OutOfMemoryError",), r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
          "the GPU ran out of memory; use a smaller batch_size or max_length, or a method with fewer activations.",
          "training.batch_size"),
    Cause("memory", ("MemoryError",), r"can't allocate memory|not enough memory|Cannot allocate memory",
          "the machine ran out of memory; use a smaller batch_size or max_length, or a smaller model.", "training.batch_size"),
    Cause("disk", (), r"No space left on device|disk is full|Disk quota exceeded",
          "the disk is full ({text}); free some space and retry the run."),
    Cause("gated", ("GatedRepoError",), r"[Cc]annot access gated repo|is a gated (model|dataset)",
          "the Hub gives this repository only to those who accepted its terms; accept them on its page, set HF_TOKEN and retry "
          "the run, or choose another.", "model.source", insists=True),
    Cause("not_on_hub", ("RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"), r"Repository Not Found",
          "the Hub has no such repository, revision or file ({text}); check the name, or set HF_TOKEN if it is private.",
          "model.source"),
    Cause("hub", ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "HfHubHTTPError", "requests.ConnectionError",
                  "requests.Timeout", "httpx.TransportError", "httpx2.TransportError", "urllib3.MaxRetryError"),
          r"the Hub answers|Temporary failure in name resolution|couldn't connect to|Max retries|offline mode is enabled",
          "the Hub cannot be reached ({text}); check the network and retry the run, or name a local folder.", "model.source"),
    Cause("driver", (), GPU, "the GPU's driver and this torch do not work together ({text}); update the driver, or train with "
          "device: cpu.", "device"),
    Cause("label", (), r"the label .* is not one of|every label of the|Target -?\d+ is out of bounds|t >= 0 && t < n_classes"
          r"|must hold at least two different labels|must hold classes that repeat",
          "a row has a label that the head does not know ({text}); check the labels of all splits.", "data.columns"),
    Cause("gpu", ("AcceleratorError",), r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS",
          "the GPU reported an error ({text}); train with device: cpu to see what leads to it.", "device"),
    Cause("not_a_number", ("RateFailed", "FloatingPointError"), r"the loss became (nan|-?inf)", "the training left the range of "
          "numbers ({text}); lower learning_rate, or set clip.", "training.learning_rate"),
    Cause("tokenizer", (), r"backend tokenizer|tokenizers? .*(cannot|failed)|no chat template",
          "the tokenizer of the base model does not work ({text}); load it anew, or choose another model.", "model.source"),
    Cause("module", ("ModuleNotFoundError",), r"No module named",
          "a module is missing in this installation ({text}); install requirements.txt and retry."),
    Cause("base", (), r"the weights of .* have changed|a model folder must|a model must come as|does not fit the task"
          r"|must be able to load the model",
          "the base model cannot be used ({text}).", "model.source"),
    Cause("data", (), r"must be the data that was submitted|must leave rows for training|must have at least \d+ different rows"
          r"|must have the column|must hold rows", "the data cannot be used ({text}).", "data.source"),
    Cause("file", ("FileNotFoundError",), r"must exist; |No such file or directory",
          "a file is missing ({text}); put it back, or name another and submit again.", "data.source"),
    Cause("permission", ("PermissionError",), r"Permission denied|you have no permission",
          "a file may not be read or written ({text}); change its permissions and retry the run."),
)  # fmt: skip
UNKNOWN = Cause("other", sentence="{text} ({name}; the log has the details).")
KILLED = Cause("killed")
SYSTEM = Cause("killed_by_system", field="training.batch_size", sentence="{text} because memory ran out; "
               "use a smaller batch_size or max_length, or a smaller model, and retry the run.")  # fmt: skip


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that led to it, even where one of ours hides them from the log; the newest first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def of(error: BaseException) -> tuple[Cause, BaseException]:
    """The first cause that fits, and the exception it fits on; our own error is asked by what it says before what led to it."""
    every = list(chain(error))
    if isinstance(error, WorkbenchError):
        for cause in CAUSES:
            if cause.insists and any(_fits(cause, one) for one in every):
                return cause, error
        every = [error]
    for cause in CAUSES:
        for one in every:
            if _fits(cause, one):
                return cause, one
    return UNKNOWN, error


def _fits(cause: Cause, error: BaseException) -> bool:
    kinds = type(error).__mro__
    names = {kind.__name__ for kind in kinds} | {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in kinds}
    return not names.isdisjoint(cause.classes) or re.search(cause.said, str(error)) is not None


def of_log(lines: list[str]) -> tuple[Cause, str] | None:
    """The cause that the last telling line of a log names, and that line; None where no line does."""
    for line in reversed(lines):
        for cause in CAUSES:
            names = "|".join(name.rpartition(".")[2] for name in cause.classes) or "(?!)"
            if re.search(cause.said, line) or re.match(rf"(\w+\.)*({names})\b", line):
                return cause, line
    return None


def field_of(cause: Cause, text: str) -> str:
    """The cause's field; what comes from the Hub may be data as well as a model."""
    return "data.source" if cause.field == "model.source" and re.search(r"/datasets/|data set|dataset", text) else cause.field
