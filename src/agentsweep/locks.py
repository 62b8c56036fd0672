"""File locks that go with their process, however it ends (flock(2))."""

import fcntl


def take(handle: int) -> bool:
    """Lock an open file for oneself; False, at once, where another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
