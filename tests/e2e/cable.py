"""A serial cable between a simulated controller and the agent that a test can spoil: a relay between two pseudo terminals, in a thread."""

import os
import random
import select
import threading
import tty
from contextlib import suppress
from pathlib import Path


class Cable:
    """Bytes from `controller` (the link of `fwsim controller`) to `path` and back; `noise` is the share of bytes spoilt."""

    def __init__(self, controller: Path, chance: random.Random, noise: float = 0.0) -> None:
        self._far = os.open(controller, os.O_RDWR | os.O_NOCTTY)
        self._near, self._theirs = os.openpty()
        for end in (self._far, self._theirs):
            tty.setraw(end)
        for end in (self._far, self._near):
            os.set_blocking(end, False)
        self.path = os.ttyname(self._theirs)
        self._chance, self.noise, self._pulled, self._ended = chance, noise, False, False
        self.spoilt = 0
        self._thread = threading.Thread(target=self._run, name="cable", daemon=True)
        self._thread.start()

    def pull(self) -> None:
        """Nothing passes any more; what is said is lost."""
        self._pulled = True

    def plug(self) -> None:
        self._pulled = False

    def close(self) -> None:
        self._ended = True
        self._thread.join(5)
        for end in (self._far, self._near, self._theirs):
            os.close(end)

    def _run(self) -> None:
        across = {self._far: self._near, self._near: self._far}
        while not self._ended:
            for end in select.select(list(across), [], [], 0.05)[0]:
                with suppress(OSError):
                    data = os.read(end, 1024)
                    if not self._pulled:
                        os.write(across[end], self._spoil(data))

    def _spoil(self, data: bytes) -> bytes:
        if not self.noise:
            return data
        kept = bytearray()
        for byte in data:
            if self._chance.random() >= self.noise:
                kept.append(byte)
                continue
            self.spoilt += 1
            if self._chance.random() < 0.5:
                kept.append(byte ^ 1 << self._chance.randrange(8))
        return bytes(kept)
