"""Data sets on the Hub: pushing a folder that `cmdl_hf.data.prepare` has written."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from .sending import list_dataset_files, snapshot_of
from .uploading import explain, with_retries


def check_can_push_dataset(repo_id: str) -> None:
    """Check that a data set can be pushed, before it is prepared, which takes long.

    Args:
        repo_id (`str`): `"organisation/name"` on the Hub.

    Raises:
        ValueError: if `repo_id` is not of this form.
        OSError: if you are not logged in, or the Hub cannot be reached.
    """
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"a data set is pushed to organisation/name, found {repo_id!r}")
    try:
        HfApi().whoami()
    except (HTTPError, OSError) as error:
        raise explain(error, repo_id) from None


def push_dataset(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Upload the folder of a data set to the Hub, and replace the data files of an earlier upload.

    The Parquet files of `data/` go there, the classes and the card; nothing else of the folder does.

    Args:
        folder (`str` or `Path`): The folder.
        repo_id (`str`): `"organisation/name"`. It is created if it does not exist.
        private (`bool`): Whether a new repository is private. The terms of most benchmarks do not allow you to share
            their files.

    Returns:
        `str`: address of the data set.

    Raises:
        ValueError: if the folder holds links, pipes or the like.
        PermissionError: if the Hub does not accept the token, or the token has no right to write.
        ConnectionError: if the Hub cannot be reached after several attempts.
    """
    api = HfApi(library_name="cmdl_hf")
    folder = Path(folder)

    def upload(snapshot: Path) -> str:
        repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=snapshot,
            repo_type="dataset",
            commit_message="Upload data set",
            delete_patterns="data/*.parquet",  # a different number of shards has different file names
        )
        return str(repo)

    with snapshot_of(folder, list_dataset_files(folder)) as snapshot:
        return with_retries(lambda: upload(snapshot), repo_id)
