"""Commands about task images: lock, pull, fix."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from agentsweep.cli import configuration, records
from agentsweep.cli.progress import say

if TYPE_CHECKING:
    from agentsweep.containers.engine import Engine
    from agentsweep.containers.image_distribution import Place

_PULLED_KEYS = ("reference", "digest", "config_digest", "id", "size_bytes", "pull_s")


def add_lock(parser: argparse.ArgumentParser) -> None:
    configuration.add_arguments(parser)
    parser.set_defaults(command=_lock)


def add_image_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--config-digest", required=True)
    _engine(parser)
    _images(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(command=_image_pull, is_job=True)


def add_image_fix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pulled", type=Path, required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--gid", type=int, required=True)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--base-commit", help="the commit that the benchmark says it is at")
    _engine(parser)
    _images(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(command=_image_fix, is_job=True)


def _lock(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import image_lock, images

    config = configuration.load(arguments)
    path = Path(config.images.lock)
    found = {}
    for reference in config.references_to_lock():
        say(f"looking up {reference}")
        found[reference] = images.resolve(reference)
    changed = image_lock.update(path, found)
    say(f"{path}: {changed} of {len(found)} images changed")


def _image_pull(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import image_distribution

    engine = _find_engine(arguments)
    say(f"pulling {arguments.reference}")
    wanted = (arguments.reference, arguments.digest, arguments.config_digest)
    record = image_distribution.pull(engine, *wanted, _place(arguments))
    records.write(arguments.out, record | {"engine": engine.info()})
    say(f"pulled {record['id']} in {record['pull_s']} s")


def _image_fix(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import image_distribution, images

    cure = "pull the image again with `agentsweep image-pull`"
    pulled = records.read(arguments.pulled, _PULLED_KEYS, cure)
    say(f"giving {arguments.workdir} to user {arguments.uid} in {pulled['reference']}")
    engine, place = _find_engine(arguments), _place(arguments)
    # It may have been pulled on another node.
    named = pulled["reference"], pulled["digest"], pulled["config_digest"]
    image_distribution.pull(engine, *named, place)
    record = images.fix(
        engine,
        pulled,
        arguments.workdir,
        arguments.uid,
        arguments.gid,
        arguments.tag,
        arguments.base_commit,
    )
    image_distribution.publish(engine, record, place)
    records.write(arguments.out, record)
    say(f"made {record['tag']} in {record['fix_s']} s")


def _place(arguments: argparse.Namespace) -> "Place | None":
    from agentsweep.containers import image_distribution

    if arguments.keep_in is None:
        return None
    return image_distribution.Place(arguments.keep_in.absolute(), arguments.registry)


def _find_engine(arguments: argparse.Namespace) -> "Engine":
    from agentsweep.containers import engines
    from agentsweep.host import scratch

    engine = engines.find_engine(arguments.engine, arguments.runtime, scratch.engine_dir())
    say(engines.chosen(engine, arguments.engine))
    return engine


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", choices=("auto", "podman", "docker"))
    parser.add_argument("--runtime", default="auto")


def _images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-in",
        type=Path,
        metavar="DIR",
        help="keep the image there for all nodes (`images.archive_directory`)",
    )
    parser.add_argument(
        "--registry", metavar="REPOSITORY", help="keep it there, and only its record in --keep-in"
    )


# How each command gets its arguments.
ADD = {
    "lock": add_lock,
    "image-pull": add_image_pull,
    "image-fix": add_image_fix,
}
