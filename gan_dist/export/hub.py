"""Upload an export to the Hugging Face hub."""

from pathlib import Path
from typing import Any

from gan_dist.errors import InputError

_HOW = "run `hf auth login`, or set HF_TOKEN to a token that may write"


def check(name: str) -> None:
    """Raise InputError for a name that the hub cannot have, and where this machine has no token for it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise InputError(f"--push {name}: that is no name of a repository; give OWNER/NAME") from None
    if get_token() is None:
        raise InputError(f"--push {name}: this machine has no token for the hub; {_HOW}")


def push(folder: Path, name: str, private: bool = True) -> str:
    """Upload a folder in one commit, and return its address. Raises InputError where the hub refuses.

    Files that an earlier export had, and this one has not, are deleted there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api: Any = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="gan-dist export",
            delete_patterns=["model.*", "encoder.*", "walk.*"],
        )
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        why = f"the token may not write there; {_HOW}" if status in (401, 403) else _line(error)
        raise InputError(f"--push {name}: the hub refused ({status}): {why}; {folder} is written") from None
    except Exception as error:  # no network, among others: its kind is that of the HTTP library of the day
        raise InputError(f"--push {name}: the hub cannot be reached: {_line(error)}; {folder} is written") from None
    return str(getattr(address, "url", address))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
