"""Push models to the Hub, at once or during a training."""

import json
import logging
import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_session,
    get_token,
    hf_hub_url,
)
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    hf_raise_for_status,
    validate_repo_id,
)

from ..weight_files import check_weights, find_superseded
from .cards import CARD_FILE, is_generated, write_card
from .sending import describe_files, held_files, list_files, list_left, remove_snapshots, snapshot_of, take_snapshot
from .uploading import describe, explain, is_passing, not_logged_in, with_retries

logger = logging.getLogger(__name__)


def preview_push(folder: str | Path) -> str:
    """Tell what `push` would send, without sending or writing anything; nobody need be logged in.

    Args:
        folder (`str` or `Path`): As `push` takes it.

    Returns:
        `str`: names and sizes of the files, one a line; one line for all Python files of this package. Then the names
            of those that stay.

    Raises:
        NotADirectoryError, FileNotFoundError, ValueError: as `push` raises them.
    """
    folder = Path(folder)
    files = _files_of_model(folder)
    lines = [describe_files(folder, files)]
    if Path(CARD_FILE) not in files:
        lines.append(f"  {CARD_FILE}, which is written then")
    if left := list_left(folder, files):
        lines.append(f"stays here, as no such name goes to the Hub: {', '.join(left)}")
    return "\n".join(lines)


def push(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    message: str = "Upload model with cmdl_hf",
    tell: Callable[[str], None] = logger.info,
) -> str:
    """Push a model's folder to the Hub, with its card; see `list_files` for what of the folder goes there.

    Files on the Hub that the folder does not have are kept, but for weights of another shape, such as shards, which
    the commit removes because they would be loaded in place of the new ones. A model card that was edited on the Hub
    is kept, too, unless the folder's own card was written by hand.

    Args:
        folder (`str` or `Path`): Folder that `from_pretrained` loads, for example of a run. Only its `README.md` is
            written; see `write_card`.
        repo_id (`str`): `"organisation/name"`. It is created if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private. By default, the organisation's setting.
        message (`str`): Message of the commit.
        tell (`Callable`): Called with the list of files before anything is sent, and with who can see the repository
            before the files are.

    Returns:
        `str`: address of the model.

    Raises:
        NotADirectoryError, FileNotFoundError: if there is no such folder, or no model with all its weights in it.
        ValueError: if `repo_id` is no such name, or it is public and `private` is asked for; if the folder holds
            links, pipes or the like.
        PermissionError: if the Hub does not accept the token, or the token has no right to write.
        ConnectionError: if the Hub stays out of reach. The folder is as it was, and pushing can be repeated.
    """
    folder = Path(folder)
    _files_of_model(folder)
    _check_name(repo_id)
    _check_token(repo_id)
    write_card(folder, repo_id)
    tell(f"sending to {repo_id}:\n{preview_push(folder)}")
    with snapshot_of(folder, list_files(folder)) as snapshot:
        return _upload(snapshot, repo_id, private, message, tell)


def _files_of_model(folder: Path) -> list[Path]:
    """List what of a folder goes to the Hub, and refuse one that holds no model."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; name the output folder of a run or of save_pretrained")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} contains no model: it has no config.json; name a folder that from_pretrained loads"
        )
    check_weights(folder)
    return list_files(folder)


def check_can_push(repo_id: str, private: bool | None = None) -> None:
    """Check before a training that its model can be pushed. This creates the repository.

    Args:
        repo_id (`str`): `"organisation/name"`.
        private (`bool`, *optional*): As for `push`.

    Raises:
        ValueError, PermissionError: as for `push`.
        ConnectionError: if huggingface_hub is in offline mode. If the Hub cannot be reached, this is only logged.
    """
    _check_name(repo_id)
    _check_token(repo_id)
    api = HfApi(library_name="cmdl_hf")
    try:
        _make_repo(api, repo_id, private, logger.info)
        api.auth_check(repo_id, write=True)
    except (HTTPError, json.JSONDecodeError, OSError) as error:
        if not is_passing(error):
            raise explain(error, repo_id) from None
        logger.warning(
            "%s: it is not known yet whether it can be pushed to, tried again later: %s", repo_id, describe(error)
        )


class HubPusher:
    """Pushes the folder of a run to the Hub during the training. It never stops the training.

    Use it in one process of a run only. `push` takes a snapshot of the folder, so files that the run replaces later do
    not mix in. One upload runs at a time, in a separate thread. Of the snapshots that wait, only the newest is kept.
    If a push fails, this is logged, and the next push or `finish` replaces it.

    Args:
        folder (`str` or `Path`): Folder of the run.
        repo_id (`str`): `"organisation/name"`.
        private (`bool`, *optional*): As for `push`.

    Raises:
        ValueError, PermissionError, ConnectionError: as for `check_can_push`.

    Example:
        ```python
        pusher = HubPusher(output_dir, "me/cmdl-camvid")
        for step in steps:
            ...
            pusher.push(f"Step {step}")
        print(pusher.finish())
        ```
    """

    def __init__(self, folder: str | Path, repo_id: str, private: bool | None = None) -> None:
        self.folder = Path(folder)
        self.repo_id = repo_id
        self.private = private
        check_can_push(repo_id, private)
        remove_snapshots(self.folder)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waiting: tuple[int, Path, str] | None = None  # number, snapshot and message of a state
        self._last_state = 0
        self._pushed_state = -1
        self._address = ""

    def push(self, message: str) -> None:
        """Take a snapshot of the folder and push it in the background, with a model card.

        Args:
            message (`str`): Message of the commit.
        """
        self._last_state += 1
        try:
            list_files(self.folder)  # refuses links before the card is made from what they lead to
            write_card(self.folder, self.repo_id)
            snapshot = take_snapshot(self.folder, list_files(self.folder))
        except (OSError, ValueError) as error:
            logger.warning("%s: not pushed (%s), tried again later: %s", self.repo_id, message, error)
            return
        with self._lock:
            dropped, self._waiting = self._waiting, (self._last_state, snapshot, message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="cmdl-push", daemon=True)
                self._thread.start()
        if dropped is not None:
            shutil.rmtree(dropped[1], ignore_errors=True)

    def finish(self) -> str:
        """Wait until the last state is on the Hub.

        Returns:
            `str`: address of the model.

        Raises:
            ValueError, PermissionError, ConnectionError: as for `push`. The message says how to push later.
        """
        while (thread := self._thread) is not None:
            thread.join()
        if self._pushed_state == self._last_state:
            return self._address
        try:
            return push(self.folder, self.repo_id, self.private, "End of training")
        except (OSError, ValueError) as error:
            kind = next(k for k in (PermissionError, ConnectionError, OSError, ValueError) if isinstance(error, k))
            again = shlex.join(["cmdl", "push", str(self.folder), self.repo_id, *["--private"] * bool(self.private)])
            raise kind(f"{error}\nThe model is still in {self.folder}. Push it later: {again}") from None

    def _work(self) -> None:
        """Upload the waiting snapshots until there are none."""
        while True:
            with self._lock:
                if self._waiting is None:
                    self._thread = None
                    return
                (state, snapshot, message), self._waiting = self._waiting, None
            has_bars = not are_progress_bars_disabled()
            disable_progress_bars()  # they would overwrite the run's progress bars
            try:
                self._address = _upload(snapshot, self.repo_id, self.private, message)
                self._pushed_state = state
            except Exception as error:  # no error may stop the run
                logger.warning("%s: not pushed (%s), tried again later: %s", self.repo_id, message, describe(error))
            finally:
                if has_bars:
                    enable_progress_bars()
                shutil.rmtree(snapshot, ignore_errors=True)


def _upload(
    snapshot: Path, repo_id: str, private: bool | None, message: str, tell: Callable[[str], None] = logger.debug
) -> str:
    """Upload the files of a snapshot, and return the address.

    All files go into one commit, so that nobody loads a partial upload. `HfApi.upload_folder` would split a commit
    that the Hub rejects into several.
    """
    api = HfApi(library_name="cmdl_hf")

    def upload() -> str:
        address = _make_repo(api, repo_id, private, tell)
        paths = held_files(snapshot)
        if _must_keep_card(api, repo_id, snapshot):
            paths.remove(Path(CARD_FILE))
        names = [path.as_posix() for path in paths]
        stale = find_superseded(api.list_repo_files(repo_id), names)
        if stale:
            logger.info("%s: weights that are replaced go: %s", repo_id, ", ".join(stale))
        operations = [CommitOperationAdd(name, snapshot / name) for name in names]
        removals = [CommitOperationDelete(name) for name in stale]
        api.create_commit(repo_id, [*operations, *removals], commit_message=message)
        return address

    return with_retries(upload, repo_id)


def _must_keep_card(api: HfApi, repo_id: str, folder: Path) -> bool:
    """Whether the card on the Hub was edited, and the folder has only a generated card."""
    card = folder / CARD_FILE
    if not card.is_file() or not is_generated(card.read_text(encoding="utf-8")):
        return False
    response = get_session().get(hf_hub_url(repo_id, CARD_FILE, endpoint=api.endpoint), headers=build_hf_headers())
    try:
        hf_raise_for_status(response)
    except EntryNotFoundError:
        return False
    if is_generated(response.text) or not ModelCard(response.text, ignore_metadata_errors=True).text.strip():
        return False
    logger.warning(
        "the model card of %s was changed on the Hub and is kept. To replace it, remove it there, or write your own "
        "card to %s",
        repo_id,
        CARD_FILE,
    )
    return True


def _make_repo(api: HfApi, repo_id: str, private: bool | None, tell: Callable[[str], None]) -> str:
    """Create the repository if there is none, and tell who can see it."""
    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    is_private = api.model_info(repo_id).private
    if private and not is_private:
        raise ValueError(f"{repo_id} exists and is public; make it private in its settings, or choose another name")
    who = "private: only those with access see it" if is_private else "public: everybody can see and download it"
    tell(f"{repo_id} is {who}")
    return str(repo)


def _check_name(repo_id: str) -> None:
    if repo_id.count("/") != 1:
        raise ValueError(f"a model is pushed to organisation/name, found {repo_id!r}")
    validate_repo_id(repo_id)


def _check_token(repo_id: str) -> None:
    if get_token() is None:
        raise not_logged_in(repo_id)
