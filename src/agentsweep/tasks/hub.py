"""Data sets on the Hugging Face hub, at a pinned commit: fetched once, then read from the cache.

The client library's own cache is used (HF_HOME, HF_HUB_CACHE), and its settings hold (HF_ENDPOINT
for a mirror). No token is ever sent: a data set that needs one could not be had by whoever repeats
the sweep. huggingface_hub is loaded only where a configuration names a data set of the hub.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agentsweep import yamlfile
from agentsweep.errors import ConfigError, InfraError
from agentsweep.tasks.row_files import SUFFIXES

_CARD = "README.md"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set at a commit (40 hex digits); `config` None means its default."""

    name: str
    split: str
    revision: str
    config: str | None = None

    def __str__(self) -> str:
        return f"{self.name}, split {self.split}, at {self.revision[:12]}"


def cached(wanted: HubSplit) -> list[Path]:
    """The split's files in the local cache; ConfigError where they are not (all) there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    missing = ConfigError(
        f"{wanted} is not in the local cache: run `agentsweep fetch-tasks` with the same --config"
    )
    try:
        folder = Path(
            snapshot_download(
                wanted.name,
                repo_type="dataset",
                revision=wanted.revision,
                token=False,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        raise missing from None
    except HFValidationError:
        raise ConfigError(f"{wanted.name!r} is no name on the hub; write owner/name") from None
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    card = folder / _CARD
    chosen = split_files(names, card.read_text("utf-8") if card.is_file() else "", wanted)
    if not chosen or not _all_shards(chosen):
        raise missing
    return [folder / name for name in chosen]


def fetch(wanted: HubSplit) -> list[Path]:
    """Download the split's files into the local cache; those that are there stay.

    Raises ConfigError for what the hub does not have, InfraError where it cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi(token=False)
    download = functools.partial(
        api.hf_hub_download, wanted.name, repo_type="dataset", revision=wanted.revision
    )
    try:
        listed = api.dataset_info(wanted.name, revision=wanted.revision).siblings
        names = [file.rfilename for file in listed or ()]
        card = Path(download(_CARD)) if _CARD in names else None
        chosen = split_files(names, card.read_text("utf-8") if card else "", wanted)
        if not chosen:
            raise ConfigError(f"{wanted} has no {', '.join(SUFFIXES)} file")
        paths = [Path(download(name)) for name in chosen]
    except HFValidationError:
        raise ConfigError(f"{wanted.name!r} is no name on the hub; write owner/name") from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"{wanted.name} is not on the hub, or not for everyone (no token is sent)"
        ) from None
    except RevisionNotFoundError:
        raise ConfigError(f"{wanted.name} has no commit {wanted.revision}") from None
    except ConfigError:
        raise
    # The client lets through the errors of its HTTP library, which differs between its versions.
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InfraError(f"{wanted} cannot be fetched from {api.endpoint}: {said[0]}") from None
    if any(wanted.revision not in path.parts for path in paths):
        raise InfraError(f"{wanted} cannot be fetched: the hub answered with another commit")
    return paths


def split_files(names: Iterable[str], card: str, wanted: HubSplit) -> list[str]:
    """The files of a split among those of a data set, sorted.

    They are what the front matter of its README says (`configs`, `data_files`), else those with
    the split's name as a word in their own (`data/test-00000-of-00002.parquet`), as the hub has it
    (https://huggingface.co/docs/hub/datasets-data-files-configuration).
    """
    usable = sorted(name for name in names if name.endswith(SUFFIXES))
    patterns = _patterns(card, wanted)
    if patterns is None:
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(wanted.split)}(?![A-Za-z0-9])")
        below = f"{wanted.config}/" if wanted.config else ""
        return [name for name in usable if name.startswith(below) and word.search(name)]
    return [name for name in usable if any(pattern.fullmatch(name) for pattern in patterns)]


def _patterns(card: str, wanted: HubSplit) -> list[re.Pattern[str]] | None:
    """What a README says of a split's files; None where it says nothing of files."""
    matter = re.match(r"---\r?\n(.*?)\r?\n---\s", f"{card}\n", re.DOTALL)
    try:
        if matter:
            yamlfile.check(matter[1])
        said = yaml.safe_load(matter[1]) if matter else None
    # Beside its own errors, what a date or a tag promises and the text does not keep.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        said = None
    configs = said.get("configs") if isinstance(said, Mapping) else None
    by_name = {
        _word(entry.get("config_name", "default")): entry
        for entry in (configs if isinstance(configs, list) else [])
        if isinstance(entry, Mapping) and entry.get("data_files")
    }
    if not by_name:
        return None
    files = by_name[_config(by_name, wanted)]["data_files"]
    globs = []
    for entry in files if isinstance(files, list) else [files]:
        if isinstance(entry, str):
            # Files without a split are all of `train`.
            entry = {"split": "train", "path": entry}
        if isinstance(entry, Mapping) and entry.get("split") == wanted.split:
            path = entry.get("path") or []
            globs += path if isinstance(path, list) else [path]
    return [_glob(_word(glob)) for glob in globs]


def _word(value: object) -> str:
    """A name, which may be written as a number; nothing for what is no scalar."""
    return str(value) if isinstance(value, str | int | float) else ""


def _config(by_name: Mapping[str, Mapping[str, Any]], wanted: HubSplit) -> str:
    if wanted.config is not None:
        if wanted.config not in by_name:
            raise ConfigError(
                f"{wanted.name} has no configuration {wanted.config!r}; it has {', '.join(by_name)}"
            )
        return wanted.config
    named = [name for name, entry in by_name.items() if entry.get("default") is True]
    only = list(by_name) if len(by_name) == 1 else []
    for name in [*named, "default", *only]:
        if name in by_name:
            return name
    raise ConfigError(f"{wanted.name} needs `config`; it has {', '.join(by_name)}")


def _glob(glob: str) -> re.Pattern[str]:
    """`*` ends at a slash and `**` does not, which fnmatch cannot say."""
    parts = re.split(r"(\*\*/?|\*|\?)", glob.removeprefix("./"))
    meaning = {"**": ".*", "**/": "(.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part) or re.escape(part) for part in parts))


def _all_shards(names: Iterable[str]) -> bool:
    """Whether no part is missing, as it is after a download that was interrupted."""
    shards: dict[str, set[str]] = {}
    for name in names:
        match = _SHARD.search(name)
        if match:
            stem = f"{name[: match.start()]}-of-{match[2]}"
            shards.setdefault(stem, set()).add(match[1])
    return all(len(found) == int(stem[-5:]) for stem, found in shards.items())
