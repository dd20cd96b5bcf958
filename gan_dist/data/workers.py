"""What every process needs that works for another one: loading, packing, indexing."""

import multiprocessing
import os
import threading


def end_with_parent(_worker: int = 0) -> None:
    """End this process as soon as the one that it works for is gone, however that ended.

    A worker of a fork server would else work on, then wait for ever with its memory: its parent is the server, and
    that lives as long as a worker does.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
