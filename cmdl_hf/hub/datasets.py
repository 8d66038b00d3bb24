"""Data sets on the Hub: pushing a folder that `cmdl_hf.data.prepare` has written."""

from pathlib import Path

from huggingface_hub import HfApi

from .uploading import with_retries


def check_can_push_dataset(repo_id: str) -> None:
    """Find out whether a data set could be pushed, before hours are spent on preparing it.

    Args:
        repo_id (`str`): `"organisation/name"` on the Hub.

    Raises:
        ValueError: if `repo_id` is no such name.
        OSError: if nobody is logged in, or the Hub cannot be reached.
    """
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"a data set is pushed to organisation/name, found {repo_id!r}")
    HfApi().whoami()


def push_dataset(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Upload a folder of a data set to the Hub, in place of what the data set held there before.

    Args:
        folder (`str` or `Path`): The folder.
        repo_id (`str`): `"organisation/name"`; it is made where it does not exist.
        private (`bool`): Whether only its owners see it, should it have to be made; most benchmarks' terms do not
            allow others to pass their files on.

    Returns:
        `str`: address of the data set.

    Raises:
        PermissionError: if the Hub does not know the user or does not let them; the message names the cure.
        ConnectionError: if the Hub stays out of reach.
    """
    api = HfApi(library_name="cmdl_hf")

    def upload() -> str:
        repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Upload data set",
            delete_patterns="data/*.parquet",  # another number of shards has other names
        )
        return str(repo)

    return with_retries(upload, repo_id)
