"""Upload of exported tickets to the Hugging Face hub. Needs the extra `hub`, and `hf auth login`."""

from pathlib import Path

from lthcore.errors import LabError, one_line
from lthcore.tickets.export import card_of


def push_ticket(path: Path, repository: str) -> str:
    """Upload an exported ticket, and its card as README.md, to a model repository `owner/name`; return its address.

    Creates the repository if it does not exist. Raises LabError if huggingface_hub is missing or the upload fails.
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
    except Exception as error:  # no login, network or permission: the hub's HTTP library may raise anything
        raise LabError(f"hub: {repository} was not written ({one_line(error)}); {path} is there") from None
    return str(address)
