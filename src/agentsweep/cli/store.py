"""`agentsweep store`: look into the run store."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agentsweep.cli.progress import say
from agentsweep.errors import AgentsweepError

if TYPE_CHECKING:
    from agentsweep.runs.store import Store


def add_store(parser: argparse.ArgumentParser) -> None:
    _store(parser, Path("store"))
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list", help="every attempt: a table on a terminal, else tab-separated lines"
    )
    listing.set_defaults(command=_store_list)
    show = actions.add_parser("show", help="what one attempt measured, and its files")
    show.add_argument("attempt", help="<hash>-<n>, or <hash> for all attempts of a spec")
    show.add_argument("--json", action="store_true", help="print the whole result.json instead")
    show.set_defaults(command=_store_show)
    remove = actions.add_parser("remove", help="delete the attempts that you name, and no others")
    remove.add_argument("attempt", nargs="+", help="<hash>-<n>, or <hash> for all of a spec")
    remove.add_argument("--yes", action="store_true", help="delete sealed attempts too")
    remove.set_defaults(command=_store_remove)
    verify = actions.add_parser(
        "verify", help="compare sealed attempts and gradings, file by file, with their seals"
    )
    verify.add_argument("attempt", nargs="*", help="<hash>-<n>, or <hash> (default: all)")
    verify.set_defaults(command=_store_verify)
    for action in (listing, show, remove, verify):
        # On either side of the action; the one beside it must not undo the one before it.
        _store(action, argparse.SUPPRESS)


def _store(parser: argparse.ArgumentParser, default: Path | str) -> None:
    parser.add_argument(
        "--store",
        type=Path,
        default=default,
        help="the store's directory, `paths.store` of the configuration (default: store)",
    )


def _open_store(arguments: argparse.Namespace) -> "Store":
    from agentsweep.runs.store import Store

    if not arguments.store.is_dir():
        raise AgentsweepError(
            f"{arguments.store}: there is no such directory: run a sweep first, or name the store "
            "with --store"
        )
    return Store(arguments.store)


def _store_list(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import store_view

    found = list(store_view.rows(_open_store(arguments)))
    print(store_view.table(found, for_people=sys.stdout.isatty()))


def _store_show(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import store_view

    attempts = _open_store(arguments).resolve(arguments.attempt)
    if arguments.json:
        for attempt in attempts:
            print((attempt.path / "result.json").read_text(encoding="utf-8").rstrip())
        return
    print("\n\n".join(store_view.describe(attempt) for attempt in attempts))


def _store_remove(arguments: argparse.Namespace) -> None:
    from agentsweep.runs.store import SEALED, SUPERSEDED

    store = _open_store(arguments)
    named = {a.path: a for name in arguments.attempt for a in store.resolve(name)}.values()
    for attempt in named:
        if attempt.state in (SEALED, SUPERSEDED) and not arguments.yes:
            raise AgentsweepError(
                f"{attempt.id} is {attempt.state} and may have cost money: add --yes to delete it "
                "for ever"
            )
        if attempt.state == "partial" and store.is_locked(attempt.spec_sha256):
            raise AgentsweepError(
                f"{attempt.id} is being written by a run: stop that run first, or wait for it"
            )
    for attempt in named:
        store.remove(attempt)
        print(f"removed {attempt.id} ({attempt.state})")


def _store_verify(arguments: argparse.Namespace) -> int:
    from agentsweep.cli import store_verify

    store = _open_store(arguments)
    return 1 if store_verify.verify(store, arguments.attempt, say) else 0


# How each command gets its arguments.
ADD = {
    "store": add_store,
}
