"""Task images: lock tags to digests, pull by digest, fix permissions once, and keep a record.

The fix is the documented two steps: start the image, `chown -R` its work tree to the agent's
user, commit. In between, git history after the task's commit is removed (`history`) and the
start of the work tree is kept beside it (`snapshot`). Then a fresh container is looked at as the
agent's user (`image_check`). With `--userns=keep-id` the first container of an image
makes a copy of its layers with shifted ids, which takes longer than many a run; it happens here,
once, and is timed here.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from agentsweep.agents.claude_code import invocation
from agentsweep.containers import git_history, git_snapshot, image_check, skopeo
from agentsweep.containers.engine import LABEL, OWNER_LABEL, ContainerSpec, Engine, timed
from agentsweep.containers.image_names import is_loopback
from agentsweep.errors import ConfigError, InfraError, LastingError
from agentsweep.files import write_durably
from agentsweep.host.processes import owner_tag
from agentsweep.host.scratch import node_lock

PLATFORM = "linux/amd64"
# The fix runs programs of the image (its shell, its git) as root: it may read, write and hand over
# any file of the image, and nothing else.
_FIX_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID")


def pull(engine: Engine, reference: str, digest: str, config_digest: str) -> dict[str, Any]:
    """Pull an image by its locked digest and check that it is the one: the `pulled.json` record.

    Raises ConfigError for an image that is not locked, InfraError when the registry or the
    archive gives something else than the lock says.
    """
    if not digest.startswith("sha256:") or not config_digest.startswith("sha256:"):
        raise ConfigError(
            f"image {reference} is not in the lock file: run `snakemake --cores 1 lock`"
        )
    if engine.image_id(config_digest) == config_digest:
        seconds, image = 0.0, config_digest
    else:
        seconds, image = timed(_pull, engine, reference, digest)
    if image != config_digest:
        raise LastingError(
            f"{reference} is not the locked image (it is {image[:19]}, locked is "
            f"{config_digest[:19]}): if the change is meant, run `snakemake --cores 1 lock`"
        )
    return {
        "schema": 1,
        "reference": reference,
        "digest": digest,
        "config_digest": config_digest,
        "id": image,
        "size_bytes": engine.image_size_bytes(image),
        "pull_s": round(seconds, 3),
    }


def _pull(engine: Engine, reference: str, digest: str) -> str:
    if reference.startswith("docker://"):
        name = _without_tag(reference.removeprefix("docker://"))
        return engine.pull(f"{name}@{digest}", PLATFORM, is_loopback(reference))
    transport, _, path = reference.partition(":")
    if not Path(path).exists():
        raise LastingError(
            f"image archive {path} is missing: build it (for the demo, `make images`)"
        )
    return engine.load_archive(transport, Path(path).resolve())


def fix(
    engine: Engine,
    pulled: dict[str, Any],
    workdir: str,
    uid: int,
    gid: int,
    tag: str,
    base_commit: str | None = None,
) -> dict[str, Any]:
    """Commit an image whose work tree the agent's user owns: the `image.json` record.

    `tag` names it in this node's storage. `base_commit`: where its benchmark says the work tree
    is; the image is refused when it is elsewhere (see `history.scrub`).
    Times are seconds per step; `idmap_s` is null where no ID-mapped copy is made.
    """
    if engine.image_id(pulled["id"]) is None:
        pull(engine, pulled["reference"], pulled["digest"], pulled["config_digest"])
    config = engine.image_config(pulled["id"])
    image_check.refuse_volumes(config, pulled["reference"], workdir)
    info, user, before = engine.info(), f"{uid}:{gid}", engine.image_id(tag)
    steps: dict[str, float | None] = {}
    history, start = _commit_fixed(engine, pulled, (workdir, uid, gid), tag, base_commit, steps)
    if before and before != engine.image_id(tag):
        # The commit took its name away. A container that still runs from it keeps it.
        engine.call("rmi", before, check=False)
    steps["idmap_s"] = warm(engine, tag)
    looked = f"agentsweep-check-{pulled['id'][7:19]}-{os.getpid()}"
    steps["check_s"], checked = timed(
        image_check.check, engine, looked, tag, pulled["reference"], workdir, user
    )
    return {
        "schema": 1,
        **{key: pulled[key] for key in ("reference", "digest", "config_digest")},
        "base_id": pulled["id"],
        "base_size_bytes": pulled["size_bytes"],
        "id": engine.image_id(tag),
        "tag": tag,
        "size_bytes": engine.image_size_bytes(tag),
        "uid": uid,
        "gid": gid,
        "workdir": workdir,
        "history": history,
        "check": checked,
        "env": invocation.image_environment(config),
        **start,
        "pull_s": pulled["pull_s"],
        "fix_s": round(sum(value for value in steps.values() if value), 3),
        "steps": {key: value and round(value, 3) for key, value in steps.items()},
        "engine": info,
    }


def _commit_fixed(
    engine: Engine,
    pulled: dict[str, Any],
    tree: tuple[str, int, int],
    tag: str,
    base_commit: str | None,
    steps: dict[str, float | None],
) -> tuple[dict[str, Any] | None, dict[str, str | None]]:
    """The steps inside the container that is then committed as `tag`: what was found of the
    history, and the start that is kept. tree: work tree, user and group. Seconds go to `steps`."""
    workdir, uid, gid = tree
    name = f"agentsweep-fix-{pulled['id'][7:19]}-{os.getpid()}"
    root = ContainerSpec(
        name,
        pulled["id"],
        {LABEL: name, OWNER_LABEL: owner_tag()},
        user="0:0",
        kept_capabilities=_FIX_CAPABILITIES,
        memory_bytes=image_check.memory_bytes(),
        pids=image_check.PIDS,
    )
    try:
        steps["create_s"], container_id = timed(engine.create, root)
        steps["start_s"], container = timed(engine.start, container_id, name)
        script = git_snapshot.prepare(workdir, uid, gid)
        steps["chown_s"], _ = timed(
            engine.exec, container.id, "sh", "-c", script, user="0:0", timeout_s=3600
        )
        steps["history_s"], history = timed(
            git_history.scrub,
            *(engine, container.id, pulled["reference"], workdir, uid, gid, base_commit),
        )
        steps["snapshot_s"], start = timed(
            git_snapshot.take_start, engine, container.id, f"{uid}:{gid}", workdir
        )
        steps["commit_s"], _ = timed(engine.commit, container.id, pulled["id"], tag)
    finally:
        engine.remove(name)
    return history, start


def warm(engine: Engine, image: str) -> float | None:
    """Make the ID-mapped copy of an image where runs need one: seconds, or None where they do not.

    The first `--userns=keep-id` container of an image makes it.
    """
    if not engine.maps_users:
        return None
    name = f"agentsweep-idmap-{os.getpid()}"
    labels = {LABEL: name, OWNER_LABEL: owner_tag()}
    try:
        return timed(engine.create, ContainerSpec(name, image, labels, map_user=True))[0]
    finally:
        engine.remove(name)


def is_outdated(record: dict[str, Any]) -> bool:
    """Whether an image was fixed before it kept its start and was checked. It is fixed again where
    a run needs it; sealed runs in it stay what they are.
    """
    return "start_tree" in record and "check" not in record


def ensure(engine: Engine, record: dict[str, Any]) -> dict[str, Any]:
    """The record of an image that is in this node's storage: fixed again where it was removed.

    The digest and the recipe decide what an image is; its id does not, because a commit holds the
    time at which it was made.
    """
    if engine.image_id(record["tag"]) == record["id"] and not is_outdated(record):
        return record
    with node_lock(engine.workdir, record["tag"].rpartition(":")[2]):
        found = engine.image_id(record["tag"])
        again = engine.workdir / f"{record['tag'].rpartition(':')[2]}.image.json"
        with contextlib.suppress(OSError, ValueError):
            known: dict[str, Any] = json.loads(again.read_text(encoding="utf-8"))
            if found and known["id"] == found and not is_outdated(known):
                return known
        pulled = pull(engine, record["reference"], record["digest"], record["config_digest"])
        made = fix(
            engine,
            pulled,
            workdir=record["workdir"],
            uid=record["uid"],
            gid=record["gid"],
            tag=record["tag"],
            base_commit=(record["history"] or {}).get("base_commit"),
        )
        write_durably(again, json.dumps(made).encode())
        return made


def resolve(reference: str) -> dict[str, str | int]:
    """What the lock file says of an image: {digest, config_digest, platform, size_bytes}.

    `digest` is the SHA-256 of the manifest as it is served (OCI image specification, descriptor),
    `config_digest` that of the platform's configuration, which the engines use as image id;
    `size_bytes` the sum of its layers as they are kept there, where the manifest says it.
    """
    if reference.startswith(("oci-archive:", "docker-archive:")):
        path = Path(reference.split(":", 1)[1])
        if not path.exists():
            raise ConfigError(
                f"image archive {path} is missing: build it first (for the demo, `make images`)"
            )
    architecture = PLATFORM.split("/")[1]
    options = ["--override-os", "linux", "--override-arch", architecture]
    tls = ["--tls-verify=false"] if is_loopback(reference) else []
    raw = [*options, "inspect", "--raw", *tls]
    manifest = skopeo.run(*raw, reference, image=reference)
    config = skopeo.run(*raw, "--config", reference, image=reference)
    locked: dict[str, str | int] = {
        "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
        "config_digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
        "platform": PLATFORM,
    }
    try:
        size = _layers_bytes(json.loads(manifest), reference, raw)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InfraError(
            f"{reference}: its manifest cannot be read ({type(error).__name__}): see what "
            f"`skopeo inspect --raw {reference}` prints"
        ) from error
    return locked if size is None else locked | {"size_bytes": size}


def _layers_bytes(manifest: dict[str, Any], reference: str, inspect: list[str]) -> int | None:
    """Bytes of an image's layers, that of our platform in an index; None where it is not said.

    Source of the formats: OCI image specification, manifest and index.
    """
    for entry in manifest.get("manifests", ()):
        platform = entry.get("platform", {})
        is_ours = f"{platform.get('os')}/{platform.get('architecture')}" == PLATFORM
        if is_ours and reference.startswith("docker://"):
            name = _without_tag(reference.removeprefix("docker://"))
            source = f"docker://{name}@{entry['digest']}"
            manifest = json.loads(skopeo.run(*inspect, source, image=source))
            break
    layers = manifest.get("layers")
    return None if layers is None else sum(layer["size"] for layer in layers)


def _without_tag(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + last.split("@")[0].split(":")[0]
