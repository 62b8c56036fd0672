"""Timers that can be polled beside other descriptors: timerfd_create(2)."""

import ctypes
import os
import sys
import time


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


_TFD_TIMER_ABSTIME = 1
_libc = ctypes.CDLL(None, use_errno=True)


class PeriodicTimer:
    """Absolute deadlines on CLOCK_MONOTONIC at a fixed distance.

    The kernel counts the deadlines that nobody waited for, so that a process that was stopped
    learns how many it missed and never has to catch up.
    """

    def __init__(self) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.descriptor = _libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def start(self, period_ns: int) -> int:
        """Begin; returns the time in ns from which deadline k lies k periods away."""
        zero_ns = time.monotonic_ns()
        self._set(zero_ns + period_ns, period_ns)
        return zero_ns

    def stop(self) -> None:
        """No more deadlines."""
        self._set(0, 0)

    def expired(self) -> int:
        """Deadlines since the last call; 0 when there was none."""
        try:
            return int.from_bytes(os.read(self.descriptor, 8), sys.byteorder)
        except BlockingIOError:
            return 0

    def _set(self, first_ns: int, period_ns: int) -> None:
        setting = _Itimerspec(
            _Timespec(*divmod(period_ns, 10**9)), _Timespec(*divmod(first_ns, 10**9))
        )
        if _libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
