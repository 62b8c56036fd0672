"""Which files a patch touches."""

from agentsweep.tasks import diff_headers


def touched(patch: str) -> dict[str, bool]:
    """The paths that a patch touches, in its order, and whether each is there afterwards.

    Both names of a moved file count.
    """
    found: dict[str, bool] = {}
    for header in diff_headers.read(patch):
        if header.old is not None:
            found[header.old] = header.new is not None and not header.moved
        if header.new is not None:
            found[header.new] = True
    return found
