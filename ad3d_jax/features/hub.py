"""Weights by name from the Hugging Face hub: pinned, from its cache, never a pickle."""

import errno
import re
from pathlib import Path
from typing import NamedTuple

from absl import logging

from ad3d_jax.features.known import KNOWN
from ad3d_jax.features.weights import WeightFile

FILE = "model.safetensors"
NAME = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)"
    r"(@(?P<revision>\w[\w./-]*))?"
    r"(:(?P<file>\w[\w./-]*))?"
)


class HubName(NamedTuple):
    """What a name such as timm/resnet18.tv_in1k, or OWNER/NAME@REVISION:FILE, means."""

    repository: str
    revision: str
    file: str

    def __str__(self) -> str:
        file = "" if self.file == FILE else f":{self.file}"
        return f"{self.repository}@{self.revision}{file}"


def parse(value: str) -> HubName | None:
    """Returns the parts of a name on the hub, or None where it is none.

    Without a revision it is the one of the table of known sets, else "main"; without a
    file it is model.safetensors.
    """
    match = NAME.fullmatch(value)
    if match is None:
        return None
    repository, revision, file = match.group("repository", "revision", "file")
    known = KNOWN.get(repository)
    return HubName(
        repository,
        revision or (known.revision if known else "main"),
        file or FILE,
    )


def find(name: HubName, field: str) -> Path:
    """Returns the path of a file of the hub in its cache, downloaded where it must be.

    `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and the other variables of
    huggingface_hub hold; a progress bar shows.

    Args:
        name: from `parse`.
        field: of the configuration, such as "weights.backbone"; for messages.

    Raises:
        ValueError: the file is no safetensors, is not there, or cannot be had; one
            sentence says what to do.
    """
    if not name.file.endswith(".safetensors"):
        raise ValueError(
            f"{field}: expected a .safetensors file of {name.repository}, found"
            f" {name.file!r}; other formats may run code when they are opened"
        )
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(name.repository, name.file, revision=name.revision)
    except Exception as error:  # among them those of whatever HTTP library it uses
        raise ValueError(f"{field}: {_reason(error, name, field)}") from error
    return Path(path)


def _reason(error: Exception, name: HubName, field: str) -> str:
    """Returns why a file could not be had, and what to do, as one sentence."""
    from huggingface_hub import constants, errors, hf_hub_url

    flag = f"--config.{field}="
    url = hf_hub_url(name.repository, name.file, revision=name.revision)
    bring = f"bring {url} and name it by {flag}FILE"
    match error:
        case errors.GatedRepoError():
            return f"{name} asks for a login: log in with `hf auth login`, or {bring}"
        case errors.RepositoryNotFoundError():
            return (
                f"{name.repository} is no file or folder here and no repository on"
                f" {constants.ENDPOINT}: check the name, or name a file by {flag}FILE"
            )
        case errors.RevisionNotFoundError():
            return (
                f"{name.repository} has no revision {name.revision!r}: name another by"
                f" {flag}{name.repository}@REVISION"
            )
        case errors.RemoteEntryNotFoundError():
            return (
                f"{name.repository} holds no {name.file} at revision {name.revision},"
                " and other formats may run code when they are opened: name a file of"
                f" it by {flag}{name.repository}:FILE, or convert one with"
                " `python -m experiments.convert_torch` and name the result by"
                f" {flag}FILE"
            )
        case errors.LocalEntryNotFoundError():
            why = (
                "HF_HUB_OFFLINE is set"
                if constants.HF_HUB_OFFLINE
                else f"{constants.ENDPOINT} cannot be reached"
            )
            return f"{name} is not in {constants.HF_HUB_CACHE} and {why}: {bring}"
        case OSError(errno=errno.ENOSPC):
            return (
                f"no space is left in {constants.HF_HUB_CACHE} for {name}: free some,"
                f" set HF_HUB_CACHE to another folder, or {bring}"
            )
    first, *_ = str(error).splitlines() or [type(error).__name__]
    return (
        f"{name} could not be fetched ({first}), nothing of it was kept: start again,"
        f" or {bring}"
    )


def check_digest(name: HubName, file: WeightFile, field: str) -> None:
    """Checks that a file of the hub is the one that is known by its name.

    Where none is known, the digest that was found is told.

    Args:
        name: from `parse`.
        file: what was found there.
        field: of the configuration, for messages.

    Raises:
        ValueError: the digest differs from the known one at this revision.
    """
    known = KNOWN.get(name.repository)
    expected = known.sha256 if known and name.file == FILE else ""
    if file.sha256 == expected:
        return
    if expected and name.revision == known.revision:
        raise ValueError(
            f"{field}: expected {name} with the SHA-256 {expected}, found"
            f" {file.sha256}; remove {file.path} and {file.path.resolve()}, and start"
            " again"
        )
    logging.warning(
        "%s: which digest %s has is not known here; found the SHA-256 %s at commit %s",
        field,
        name,
        file.sha256,
        file.path.parents[name.file.count("/")].name,
    )
