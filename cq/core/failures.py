"""What the system refuses in the middle of a command, in one sentence with the path and the remedy."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOES_ON = "the same command then goes on."
REMEDIES = {
    errno.ENOENT: f"Put it back, or name what is there; {GOES_ON}",
    errno.EACCES: f"Make it yours, or choose another place; {GOES_ON}",
    errno.EPERM: f"Make it yours, or choose another place; {GOES_ON}",
    errno.EROFS: f"Choose a place that can be written; {GOES_ON}",
    errno.EISDIR: f"Name a file, in it or elsewhere; {GOES_ON}",
    errno.ENOTDIR: f"A file stands where a folder is needed: move it, or choose another place; {GOES_ON}",
    errno.EEXIST: f"Move what is there, or choose another place; {GOES_ON}",
    errno.EMFILE: f"Raise the limit (ulimit -n); {GOES_ON}",
}
ANY_REMEDY = f"Make room, or choose another folder; {GOES_ON}"


def sentence(error: BaseException) -> str:
    """One line of what went wrong and what to do; for errors of ours what they say themselves."""
    if isinstance(error, OSError) and error.strerror:
        if error.errno == errno.ENOENT and not error.filename:  # all but the working folder are named
            return f"the working folder is gone. Change to one that is there; {GOES_ON}"
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. {REMEDIES.get(error.errno or 0, ANY_REMEDY)}"
    if out_of_memory(error):
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        return (
            f"out of memory ({reason}). Lower sample.batch_size, calibrate.batch_size or quantize.batch_size, or set "
            f"budget.max_memory, which fits them; what is finished is kept, and {GOES_ON}"
        )
    return str(error) or type(error).__name__


def mendable(error: BaseException) -> bool:
    """Whether the user can remove the cause; the traceback of any other error is ours to read."""
    return isinstance(error, ValueError | OSError) or out_of_memory(error)


def out_of_memory(error: BaseException) -> bool:
    """PyTorch has an error of its own for a GPU, and none for a CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search(r"out of memory|can't allocate memory", str(error), re.I))
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the block cannot write is an OSError that names `path`: the system's own often names nothing, and
    safetensors has errors of its own."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
