"""Who gets a processor first when there are not enough of them: work that nobody waits for stands back."""

import os
import sys
import threading


def stand_back(niceness: int) -> None:
    """Give the calling thread, and those it starts from now on, the niceness 1 to 19.

    On Linux, where every thread has a niceness of its own (sched(7)); elsewhere without effect.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
