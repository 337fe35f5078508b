"""A VictoriaMetrics of the test's own, which speaks InfluxDB's write protocol: started, stopped, asked what it holds."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class VictoriaMetrics:
    """One server on a free loopback port; its data outlive a stop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            "victoria-metrics",
            f"-storageDataPath={self._folder}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-retentionPeriod=100y",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=1):
                return
            time.sleep(0.05)
        raise TimeoutError("VictoriaMetrics did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def samples(self, measurement: str, field: str, **tags: str) -> list[tuple[int, float]]:
        """(ms, value) of a series, every sample it holds, in order of time."""
        urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=10).close()
        selector = ",".join([f'__name__="{measurement}_{field}"', *(f"{name}={json.dumps(value)}" for name, value in tags.items())])
        query = urllib.parse.urlencode({"match[]": f"{{{selector}}}"})
        with urllib.request.urlopen(f"{self.url}/api/v1/export?{query}", timeout=10) as answer:
            lines = [json.loads(line) for line in answer.read().splitlines()]
        return sorted((ts, value) for line in lines for ts, value in zip(line["timestamps"], line["values"], strict=True))


@contextmanager
def victoria_metrics(folder: Path) -> Iterator[VictoriaMetrics]:
    """Raises FileNotFoundError where it is not installed."""
    if shutil.which("victoria-metrics") is None:
        raise FileNotFoundError("victoria-metrics is not installed (make ci-deps)")
    server = VictoriaMetrics(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
