"""Requests to the Hub that outlast its bad minutes, and words for what it refuses."""

import json
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

RETRY_WAITS = (2.0, 10.0, 30.0, 60.0)
"""Seconds before each further attempt.

huggingface_hub repeats parts of an upload itself, for about 23 s: asking how to upload, sending large files, and the
commits of `upload_folder`. It repeats neither making the repository, checking the card and the commit of
`create_commit` nor any commit that another one got ahead of (412).
"""

_PASSING_STATUSES = {408, 409, 412, 429}
"""Statuses below 500 that another attempt may not meet."""

_Result = TypeVar("_Result")


def with_retries(attempt: Callable[[], _Result], repo_id: str) -> _Result:
    """Do something on the Hub, again and again where only the Hub or the way to it is in trouble.

    Server errors, cut connections, timeouts and commits that others got ahead of are tried again after `RETRY_WAITS`.

    Args:
        attempt (`Callable`): What to do; it must be harmless to do it twice.
        repo_id (`str`): The repository, which messages name.

    Returns:
        What `attempt` returns.

    Raises:
        PermissionError: if the Hub does not know the user or does not let them (401, 403, 404).
        ConnectionError: if the trouble lasts, or huggingface_hub is told to be offline.
    """
    for wait in (*RETRY_WAITS, None):
        try:
            return attempt()
        except (HTTPError, json.JSONDecodeError, RuntimeError, OSError) as error:  # RuntimeError: hf_xet's
            if not is_passing(error):
                raise explain(error, repo_id) from None
            reason = describe(error)
        if wait is not None:
            logger.warning("%s: %s; trying again in %g s", repo_id, reason, wait)
            time.sleep(wait)
    raise ConnectionError(
        f"{repo_id}: {reason}; gave up after {len(RETRY_WAITS) + 1} attempts. Check the network and HF_ENDPOINT "
        f"({constants.ENDPOINT}), then try again"
    )


def is_passing(error: Exception) -> bool:
    """Whether another attempt may do better."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in _PASSING_STATUSES
    if isinstance(error, LocalTokenNotFoundError | OfflineModeIsEnabled):
        return False
    # What is left of OSError are files on this machine. huggingface_hub reads a JSON answer before its status.
    is_local = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError | HTTPError)
    return not is_local


def explain(error: Exception, repo_id: str) -> Exception:
    """Turn what huggingface_hub raised into an error that names the cure; what needs none is returned as it is."""
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"{repo_id} cannot be reached while HF_HUB_OFFLINE is set; unset it")
    if isinstance(error, LocalTokenNotFoundError):
        return not_logged_in(repo_id)
    if not isinstance(error, HfHubHTTPError):
        return error
    status = error.response.status_code
    namespace = repo_id.split("/")[0]
    if status == 401:
        return PermissionError(
            f"{repo_id}: the Hub does not accept the token (401); log in anew with `hf auth login`. "
            "Where the variable HF_TOKEN is set, it is taken first"
        )
    if status == 403:
        return PermissionError(
            f"{repo_id}: the token may not write there (403); let {namespace} give you the right to write, or log in "
            "with `hf auth login` and a token that has it"
        )
    if status == 404:
        return PermissionError(
            f"{repo_id}: the Hub shows the token no such repository (404); check the name, or log in with "
            f"`hf auth login` as someone who may write to {namespace}"
        )
    return OSError(f"{repo_id}: {describe(error)}")


def not_logged_in(repo_id: str) -> PermissionError:
    """The error for want of a token."""
    return PermissionError(
        f"{repo_id}: nobody is logged in to the Hub; run `hf auth login` with a token that may write to "
        f"{repo_id.split('/')[0]}, or set HF_TOKEN"
    )


def describe(error: Exception) -> str:
    """Put an error into one line, without the token whatever the Hub answered."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HfHubHTTPError):
        request = f"{error.response.request.method} {error.response.request.url.path}"
        text = f"the Hub answered {request} with {error.response.status_code}: {error.server_message or 'no reason'}"
    token = get_token()
    return text.replace(token, "<token>") if token else text
