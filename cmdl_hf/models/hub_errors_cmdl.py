"""Whether to ask the Hub for a model, and why it did not hand one out, in one sentence with the cure."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, get_session
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
_PATIENCE = 10.0  # seconds until the Hub counts as out of reach
_OWN_FOLDER = "outputs"  # where runs are written to
_FILES = frozenset({".bin", ".ckpt", ".json", ".onnx", ".pt", ".pth", ".safetensors", ".yaml", ".yml", ".zip"})


def check_hub_name(name: str | Path) -> None:
    """Refuse a name that looks like a path, and is none here, before the Hub is asked for it.

    Args:
        name (`str` or `Path`): What is to be loaded, and is no folder.

    Raises:
        FileNotFoundError: if it is a `Path`, has more than one slash or the suffix of a file, starts like a path, or
            its parent is a folder here.
    """
    text, path = str(name), Path(name)
    parent = path.parent
    if parent != Path() and parent.is_dir():
        cure = f"; to take {text} from the Hub, work in another folder" if text == f"{parent.name}/{path.name}" else ""
        raise FileNotFoundError(
            f"{text} does not exist: the folder {parent} has no {path.name}; correct the path{cure}"
        )
    is_path = isinstance(name, Path) or text.count("/") > 1 or text.startswith((".", "/", "~")) or "\\" in text
    if is_path or text.startswith(f"{_OWN_FOLDER}/") or path.suffix.lower() in _FILES:
        raise FileNotFoundError(f"there is no folder {text}; name the folder of a model, or ORG/NAME on the Hub")


def can_reach_hub() -> bool:
    """Ask the Hub for a sign of life, once. Its client would try for half a minute for every file."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except (HTTPError, OSError):
        return False
    return True


def explain_hub_error(name: str, error: Exception) -> str | None:
    """Explain why a model cannot be taken from the Hub.

    Args:
        name (`str`): Name of the model, as it was given.
        error (`Exception`): What huggingface_hub or transformers raised. Its causes are searched as well.

    Returns:
        A sentence that names the cause and the cure, or None if the error is about something else.
    """
    for cause in _causes(error):
        if reason := _explain(cause):
            return f"{name} cannot be loaded: {_missing_folder(name)}{reason}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, the innermost first, because it knows most."""
    if error is None:
        return
    yield from _causes(error.__cause__ or error.__context__)
    yield error


def _missing_folder(name: str) -> str:
    """Say that a name may be a mistyped path, if its folder is here."""
    parent = Path(name).parent
    if parent == Path() or not parent.is_dir():
        return "there is no such folder here, and "
    return f"the folder {parent} has no {Path(name).name}, and "


def _explain(error: BaseException) -> str | None:
    if isinstance(error, GatedRepoError):
        return f"its owner must grant access on the Hub: ask for it on the model's page, then {_LOGIN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hub has no such model, or it is private: correct the path or the name ORG/NAME, or {_LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return "the model on the Hub has no such revision: correct revision=..."
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
        cure = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "connect to the network"
        return f"the Hub cannot be reached: correct the path, or {cure}"
    if isinstance(error, EntryNotFoundError):
        return "the repository on the Hub lacks a file of a model: name a repository with a saved model"
    if isinstance(error, HFValidationError):
        return "this is no name on the Hub: correct the path, or write ORG/NAME"
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            return f"the Hub refuses to hand it out (status {status}): {_LOGIN}"
        return f"the Hub answered with status {status}: try again later"
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) and error.filename:
        return (
            f"the cache for the Hub's files cannot be used ({error.strerror}: {error.filename}): make the folder "
            "writable, or set HF_HOME to another one"
        )
    return None
