"""A real nats-server for tests that talk to it in their own event loop."""

import subprocess
from pathlib import Path

from cloud.foundation import nats_server
from cloud.foundation.bus import Bus

TOKEN = 'token with "quotes"'


class NatsChild:
    """Killed and started again at will, on the same port and data."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = nats_server.free_port()
        self._configuration = nats_server.write_configuration(directory, self.port, TOKEN, max_file_store=1 << 30)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = subprocess.Popen(nats_server.command(self._configuration))
        await nats_server.wait_ready(self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def connect(self, name: str = "test") -> Bus:
        return await Bus.connect(f"nats://127.0.0.1:{self.port}", TOKEN, name)
