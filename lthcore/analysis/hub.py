"""The Hugging Face hub: exported tickets to where others find them. Needs the extra `hub`, and `hf auth login`."""

from pathlib import Path

from lthcore.analysis.take_home import card_of
from lthcore.errors import LabError, one_line


def push_ticket(path: Path, repository: str) -> str:
    """Upload an exported ticket, and its card as README.md, to a model repository `owner/name`; return its address.

    The repository is made where there is none. Raises LabError where huggingface_hub is missing or the hub says no.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise LabError("hub: huggingface_hub is not installed here; pip install 'lthcore[hub]'") from None
    hub = HfApi()
    try:
        address = hub.create_repo(repository, exist_ok=True)
        for file, name in ((path, path.name), (card_of(path), "README.md")):
            hub.upload_file(path_or_fileobj=file, path_in_repo=name, repo_id=repository)
    except Exception as error:  # no login, no network, no permission: by whatever its HTTP library raises
        raise LabError(f"hub: {repository} was not written ({one_line(error)}); {path} is there") from None
    return str(address)
