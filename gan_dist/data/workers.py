"""Start processes that load, pack or index for another one, and end them with it."""

import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import threading
from typing import Any

from gan_dist.errors import InputError

_LONGEST = 70
"""Letters of a temporary folder: the socket within has 32 more, and its path must not exceed 107."""


def context(method: str) -> Any:
    """Return multiprocessing's context of this start method, with sockets in a folder whose path is short enough.

    Schedulers and workflow tools set TMPDIR to paths that are too long for sockets.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST:
        before = tempfile.tempdir
        tempfile.tempdir = "/tmp"
        try:
            multiprocessing.util.get_temp_dir()  # made once, kept for all that this process starts, removed at its end
        except OSError as error:
            raise InputError(
                f"TMPDIR = {folder} is too long for sockets ({_LONGEST} letters are allowed), and /tmp cannot be written "
                f"({error.strerror}); set TMPDIR to a shorter path"
            ) from None
        finally:
            tempfile.tempdir = before
    return multiprocessing.get_context(method)


def end_with_parent(_worker: int = 0) -> None:
    """End this process as soon as the one that it works for is gone, however that ended.

    Otherwise a worker of a fork server would work on, then wait without end and keep its memory: its parent is the server,
    which lives as long as a worker does.
    """

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the one that it works for decides

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
