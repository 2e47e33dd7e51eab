"""Memory that a process has freed, and that the C library keeps for later."""

import ctypes
from contextlib import suppress

LARGE = 2**20  # elements of a tensor whose making leaves so much behind that giving it back pays


def give_back() -> None:
    """Give it back to the system, where the library is glibc; elsewhere nothing happens.

    Between what stays, large temporaries of a loop else pile up to several times of that.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
