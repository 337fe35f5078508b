"""The --devices file: who the simulated appliances are."""

import csv
from pathlib import Path

import msgspec

from firmware_sim.wire.alink_device import Identity
from protocols.errors import Reason, Refused


class DeviceSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a --devices file; `kind` is for homes (a library thing model), `columns` for replays (header -> identifier).

    `behind` is for a swarm of gateways: (product key, device name) of the devices whose readings are in its frames. A device with a
    `product_secret` in place of its own registers: it is given its secret, or with `token` a client id and a token.
    """

    product_key: str
    device_name: str
    device_secret: str = ""
    product_secret: str = ""
    token: bool = False
    kind: str = ""
    host: str | None = None
    port: int | None = None
    columns: dict[str, str] = {}
    behind: tuple[tuple[str, str], ...] = ()

    def identity(self) -> Identity:
        return Identity(self.product_key, self.device_name, self.device_secret)


def read_devices(path: Path) -> list[DeviceSpec]:
    """The devices of a JSON file (a list, or one object); raises Refused naming what is wrong."""
    try:
        data = path.read_bytes()
        one_or_many = msgspec.json.decode(data, type=DeviceSpec | list[DeviceSpec])
    except (OSError, msgspec.MsgspecError) as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"{path}: {error}") from error
    return one_or_many if isinstance(one_or_many, list) else [one_or_many]


def read_secrets(path: Path, product_key: str) -> list[DeviceSpec]:
    """The devices of a CSV file with the columns device_name and device_secret, as `hearthline device import --out` writes it.

    Raises Refused naming what is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            specs = [DeviceSpec(product_key, row["device_name"], row["device_secret"]) for row in csv.DictReader(file, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"{path}: {error}") from error
    except KeyError as error:
        raise Refused(Reason.BAD_CONFIGURATION, f"{path} has no column {error}: give the file of `device import --out`") from error
    if not all(spec.device_name and spec.device_secret for spec in specs):
        raise Refused(Reason.BAD_CONFIGURATION, f"{path}: every row needs a device_name and a device_secret")
    return specs
