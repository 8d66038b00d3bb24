"""Requests to the Hub: repeat them after temporary failures, and explain the errors."""

import json
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

RETRY_WAITS = (2.0, 10.0, 30.0, 60.0)
"""Seconds to wait before each further attempt.

huggingface_hub itself repeats some parts of an upload for about 23 s: the request how to upload, the transfer of
large files, and the commits of `upload_folder`. It does not repeat the creation of the repository, the check of the
card, the commit of `create_commit`, or a commit that lost against another one (412).
"""

_PASSING_STATUSES = {408, 409, 412, 429}
"""HTTP statuses below 500 after which another attempt may succeed."""

_Result = TypeVar("_Result")


def with_retries(attempt: Callable[[], _Result], repo_id: str) -> _Result:
    """Call a function that uses the Hub, and repeat it after temporary failures of the Hub or the network.

    Server errors, lost connections, timeouts and conflicting commits are tried again after `RETRY_WAITS`.

    Args:
        attempt (`Callable`): The function. It must be safe to call it twice.
        repo_id (`str`): The repository, for messages.

    Returns:
        The result of `attempt`.

    Raises:
        PermissionError: if the Hub does not accept the token, or the token lacks a right (401, 403, 404).
        ConnectionError: if all attempts fail, or huggingface_hub is in offline mode.
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
    """Whether the failure is temporary, so that another attempt may succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in _PASSING_STATUSES
    if isinstance(error, LocalTokenNotFoundError | OfflineModeIsEnabled):
        return False
    # All other OSErrors concern local files. huggingface_hub parses a JSON answer before it checks the status.
    is_local = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError | HTTPError)
    return not is_local


def explain(error: Exception, repo_id: str) -> Exception:
    """Turn an error of huggingface_hub into one that names the cure. Other errors are returned unchanged."""
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"{repo_id} cannot be reached while HF_HUB_OFFLINE is set; unset it")
    if isinstance(error, LocalTokenNotFoundError):
        return not_logged_in(repo_id)
    if not isinstance(error, HfHubHTTPError):
        if not isinstance(error, HTTPError):
            return error
        return ConnectionError(
            f"{repo_id}: the Hub cannot be reached ({describe(error)}); check the network and HF_ENDPOINT "
            f"({constants.ENDPOINT})"
        )
    status = error.response.status_code
    namespace = repo_id.split("/")[0]
    if status == 401:
        return PermissionError(
            f"{repo_id}: the Hub does not accept the token (401); log in again with `hf auth login`. "
            "If the variable HF_TOKEN is set, its token is used instead"
        )
    if status == 403:
        return PermissionError(
            f"{repo_id}: the token may not write there (403); ask {namespace} for the right to write, or log in with "
            "`hf auth login` and a token that has it"
        )
    if status == 404:
        return PermissionError(
            f"{repo_id}: the token finds no such repository on the Hub (404); check the name, or log in with "
            f"`hf auth login` as a user who may write to {namespace}"
        )
    return OSError(f"{repo_id}: {describe(error)}")


def not_logged_in(repo_id: str) -> PermissionError:
    """Make the error for a missing token."""
    return PermissionError(
        f"{repo_id}: you are not logged in to the Hub; run `hf auth login` with a token that may write to "
        f"{repo_id.split('/')[0]}, or set HF_TOKEN"
    )


def describe(error: Exception) -> str:
    """Format an error as one line, and remove the token from it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HfHubHTTPError):
        request = f"{error.response.request.method} {error.response.request.url.path}"
        text = f"the Hub answered {request} with {error.response.status_code}: {error.server_message or 'no reason'}"
    token = get_token()
    return text.replace(token, "<token>") if token else text
