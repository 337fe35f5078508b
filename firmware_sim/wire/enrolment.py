"""How a device without a secret of its own comes to one (alink.md par. 2.2): it proves its product's and keeps what it is given."""

import asyncio
import os
import secrets
from pathlib import Path

import aiomqtt
import msgspec

from firmware_sim.process import say
from protocols.alink.credentials import Connection, sign
from protocols.alink.registration import Grant, ask, show_token
from protocols.errors import Reason, Refused

ANSWER_S = 10.0
FILE = "credentials.json"


class _Given(msgspec.Struct):
    """What `/ext/register` and `/ext/regnwl` push."""

    productKey: str  # noqa: N815  # the wire's own spelling
    deviceName: str  # noqa: N815
    deviceSecret: str = ""  # noqa: N815
    clientId: str = ""  # noqa: N815
    deviceToken: str = ""  # noqa: N815


class Enrolment:
    """The CONNECT fields of a device, which registers when it has none. A process that is killed before it kept them asks again."""

    def __init__(self, key: tuple[str, str], product_secret: str, host: str, port: int, folder: Path, *, token: bool = False) -> None:
        self._key, self._product_secret, self._token = key, product_secret, token
        self._host, self._port, self._file = host, port, folder / FILE
        self._grant = _read(self._file)

    async def __call__(self) -> Connection:
        """Raises aiomqtt.MqttError when the server cannot be reached, refuses, or says nothing within 10 s."""
        if self._grant is None:
            given = await self._register()
            _keep(self._file, given)  # first the disk, then the server learns that it was kept: it sees the device connect
            self._grant = given
            say("registered", device=self._key[1], token=bool(given.device_token))
        if self._grant.device_token:
            return show_token(self._grant)
        return sign(*self._key, self._grant.device_secret)

    async def _register(self) -> Grant:
        fields = ask(*self._key, self._product_secret, random=secrets.token_hex(8), token=self._token)
        client = aiomqtt.Client(
            self._host, self._port, username=fields.username, password=fields.password.decode(), identifier=fields.client_id
        )
        try:
            async with client, asyncio.timeout(ANSWER_S):
                async for message in client.messages:
                    grant = _grant(bytes(message.payload))
                    if str(message.topic) == grant.topic and (grant.product_key, grant.device_name) == self._key:
                        return grant
        except TimeoutError:
            raise aiomqtt.MqttError(f"no registration within {ANSWER_S:g} s") from None
        except Refused as error:
            raise aiomqtt.MqttError(str(error)) from error
        raise aiomqtt.MqttError("the connection ended before the registration")


def _grant(payload: bytes) -> Grant:
    try:
        given = msgspec.json.decode(payload, type=_Given)
    except msgspec.MsgspecError as error:
        raise Refused(Reason.BAD_JSON, f"not a registration: {error}") from error
    return Grant(given.productKey, given.deviceName, given.deviceSecret, given.clientId, given.deviceToken)


def _read(file: Path) -> Grant | None:
    try:
        return _grant(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, Refused) as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"{file}: {error}; remove it, and the device registers again") from error


def _keep(file: Path, grant: Grant) -> None:
    """Whole or not at all: a temporary file, fsync, rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(grant.to_bytes())
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
