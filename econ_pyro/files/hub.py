"""Repositories on the Hugging Face hub: all that this package ever downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from econ_pyro.errors import EconError

HUB = "hf:"


def download(repository: str, files: Sequence[str], extra: str = "hub") -> Path:
    """The folder of a repository's files, which are downloaded unless they are in the hub's cache.

    Args:
        repository: ``OWNER/NAME``, or ``OWNER/NAME@REVISION``.
        files: patterns of their names.
        extra: of this package, which installs what is needed.

    Raises:
        EconError: there is no such repository, no network, or no huggingface_hub.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError, HTTPError
    except ImportError:
        raise EconError(
            f"the package huggingface_hub, for {HUB}{repository}",
            "none installed",
            f"pip install 'econ-pyro[{extra}]'",
        ) from None
    name, _, revision = repository.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=list(files)
        )
    except (HFValidationError, HTTPError, OSError) as error:
        raise EconError(
            "a model on the Hugging Face hub, or in its cache, as OWNER/NAME",
            f"{repository} ({str(error).splitlines()[0][:150]})",
            "check the name and the network; HF_HUB_OFFLINE=1 restricts the search to the cache",
        ) from None
    return Path(found)
