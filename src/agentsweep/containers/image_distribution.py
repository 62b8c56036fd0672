"""Images for many nodes, each with a storage of its own: made once, then loaded where missing.

`images.distribute` says how: `archive` keeps each image as a file on storage that all nodes see,
`registry` in a registry that all nodes reach. In either case a small record of each, in
`images.archive_directory`, names the image by the digest of its configuration, which is its id in
every storage: what a node loads must have that id. Where there is no record yet, the first node
that needs the image makes it and keeps it for the others.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep import untrusted
from agentsweep.containers import images
from agentsweep.containers.engine import Engine, timed
from agentsweep.containers.image_names import is_loopback
from agentsweep.errors import InfraError
from agentsweep.files import disk_errors, write_durably
from agentsweep.host.scratch import node_lock

# What makes a fixed image what it is; its id holds the time of its commit, too.
_RECIPE = ("reference", "digest", "workdir", "uid", "gid", "tag")


@dataclass(frozen=True)
class Place:
    """Where images are kept for all nodes: `registry` is a repository, None for archives."""

    directory: Path
    registry: str | None = None


def place_of(
    distribute: str, archive_directory: str | None, registry: str | None, results: str | Path
) -> Place | None:
    """The place that the section `images` of a configuration names; None where images are local."""
    if distribute == "local":
        return None
    directory = Path(archive_directory or Path(results) / "image-archives")
    repository = registry if distribute == "registry" else None
    return Place(directory.absolute(), repository and repository.removeprefix("docker://"))


def pull(
    engine: Engine, reference: str, digest: str, config_digest: str, place: Place | None
) -> dict[str, Any]:
    """`images.pull`, by way of the place: its source is asked once, and not by every node.

    An image archive is already a file that all nodes can read.
    """
    wanted = (engine, reference, digest, config_digest)
    is_locked = digest.startswith("sha256:") and config_digest.startswith("sha256:")
    from_registry = reference.startswith("docker://") and is_locked
    if place is None or not from_registry or engine.image_id(config_digest) == config_digest:
        return images.pull(*wanted)
    key = f"base-{config_digest[7:19]}"
    kept = _kept(place, key)
    if kept is None:
        with node_lock(place.directory, key):
            kept = _kept(place, key)
            if kept is None:
                pulled = images.pull(*wanted)
                _keep(engine, place, key, {"id": config_digest})
                return pulled
    seconds, _ = timed(_load, engine, place, key, kept)
    return images.pull(*wanted) | {"pull_s": round(seconds, 3)}


def publish(engine: Engine, record: dict[str, Any], place: Place | None) -> None:
    """Keep a fixed image for all nodes, in place of one that was kept before."""
    if place is not None:
        key = _key(record)
        with node_lock(place.directory, key):
            _keep(engine, place, key, record)


def ensure(engine: Engine, record: dict[str, Any], place: Place | None) -> dict[str, Any]:
    """The record of a fixed image that is in this node's storage now.

    `record` is what the workflow knows of it. What the place keeps counts where that was fixed at
    another time. InfraError where what is loaded is not the image that its record names.
    """
    if place is None:
        return images.ensure(engine, record)
    key = _key(record)
    kept = _kept_fix(place, key, record)
    if kept is None:
        # The file system is shared, and so is this lock, where it has locks.
        with node_lock(place.directory, key):
            kept = _kept_fix(place, key, record)
            if kept is None:
                if engine.image_id(record["id"]) is None:
                    reference, digest = record["reference"], record["digest"]
                    pull(engine, reference, digest, record["config_digest"], place)
                made = images.ensure(engine, record)
                _keep(engine, place, key, made)
                return made
    _load(engine, place, key, kept)
    return {name: value for name, value in kept.items() if name != "kept"}


def _kept_fix(place: Place, key: str, record: dict[str, Any]) -> dict[str, Any] | None:
    kept = _kept(place, key)
    if kept is None or any(kept.get(name) != record[name] for name in _RECIPE):
        return None
    return None if images.is_outdated(kept) else kept


def _key(record: dict[str, Any]) -> str:
    return str(record["tag"]).rpartition(":")[2]


def _record_path(place: Place, key: str) -> Path:
    return place.directory / f"{key}.json"


def _kept(place: Place, key: str) -> dict[str, Any] | None:
    """The record of what is kept; None where there is none, of this kind of place."""
    try:
        kept = untrusted.read_json(_record_path(place, key))
        if not isinstance(kept, dict):
            return None
        source = kept["kept"]
        if not isinstance(source, str):
            return None
        if place.registry is not None:
            return kept if source.startswith(f"{place.registry}@") else None
        return kept if (place.directory / source).is_file() else None
    # Also of a name that no file can have.
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(engine: Engine, place: Place, key: str, record: dict[str, Any]) -> None:
    place.directory.mkdir(parents=True, exist_ok=True)
    before = _kept(place, key)
    kept = _pushed(engine, place, key, record) if place.registry else _saved(place, engine, record)
    path = _record_path(place, key)
    with disk_errors(path):
        write_durably(path, json.dumps(record | {"kept": kept}, indent=1, sort_keys=True).encode())
    if place.registry is None and before and before["kept"] != kept:
        (place.directory / before["kept"]).unlink(missing_ok=True)


def _saved(place: Place, engine: Engine, record: dict[str, Any]) -> str:
    """Write an image to a file; returns its name, which the id decides."""
    name = f"{record['id'].removeprefix('sha256:')}.tar"
    part = place.directory / f"{name}.{os.uname().nodename}.{os.getpid()}.part"
    try:
        engine.save(record.get("tag", record["id"]), part)
        with disk_errors(part):
            part.replace(place.directory / name)
    finally:
        part.unlink(missing_ok=True)
    return name


def _pushed(engine: Engine, place: Place, key: str, record: dict[str, Any]) -> str:
    """Push an image to the registry; returns its name there, by digest."""
    digest = engine.push(record["id"], f"{place.registry}:{key}", _is_plain(place))
    return f"{place.registry}@{digest}"


def _load(engine: Engine, place: Place, key: str, kept: dict[str, Any]) -> None:
    """Bring what is kept into this node's storage, once for all processes of the node."""
    if engine.image_id(kept["id"]) == kept["id"]:
        return
    with node_lock(engine.workdir, key):
        if engine.image_id(kept["id"]) == kept["id"]:
            return
        if place.registry is not None:
            source = kept["kept"]
            engine.pull(source, images.PLATFORM, _is_plain(place))
        else:
            source = str(place.directory / kept["kept"])
            engine.load(Path(source))
        if engine.image_id(kept["id"]) != kept["id"]:
            raise InfraError(
                f"{source} is not the image {kept['id'][:19]} that its record names: delete "
                f"{_record_path(place, key)}, and the next run makes it anew"
            )
        if "tag" in kept:
            engine.call("tag", kept["id"], kept["tag"])
            images.warm(engine, kept["id"])


def _is_plain(place: Place) -> bool:
    return is_loopback(f"docker://{place.registry}")
