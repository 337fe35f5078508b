"""The only place of the cloud that reads the environment. Every setting is `HEARTHLINE_<NAME>`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from protocols.errors import Reason, Refused, TryAgain
from protocols.mqtt.lobby import Bounds

MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """Defaults suit one small machine."""

    model_config = SettingsConfigDict(env_prefix="HEARTHLINE_", frozen=True)

    dir: Annotated[Path, Field(description="Data directory: databases, streams, secrets.")] = Path("hearthline-data")
    host: Annotated[str, Field(description="Address the MQTT and API ports listen on.")] = "127.0.0.1"
    mqtt_port: Annotated[int, Field(ge=0, le=65535, description="0 takes any free port.")] = 1883
    mqtts_port: Annotated[
        int | None, Field(ge=0, le=65535, description="Port for MQTT over TLS, beside the plain one; none when unset.")
    ] = None
    tls_names: Annotated[str, Field(description="Host names and addresses that gateways call us by, separated by commas.")] = (
        "localhost,127.0.0.1"
    )
    tls_days: Annotated[float, Field(gt=0, le=825, description="Life of the server's certificate; it is renewed after two thirds.")] = 90
    device_host: Annotated[
        str | None, Field(description="Host that a device is told which asks where to connect to; the first TLS name when unset.")
    ] = None
    device_port: Annotated[int | None, Field(ge=1, le=65535, description="And the port; that of plain MQTT when unset.")] = None
    mqtt_connections: Annotated[
        int, Field(ge=1, description="Open device connections; beyond, the oldest that was not let in is closed, else the new one.")
    ] = Bounds().connections
    mqtt_strangers: Annotated[int, Field(ge=1, description="Of these not let in yet; beyond, the oldest is closed.")] = Bounds().strangers
    mqtt_connect_s: Annotated[float, Field(gt=0, description="A connection without a CONNECT by then is closed.")] = Bounds().connect_s
    mqtt_packet_s: Annotated[float, Field(gt=0, description="A packet that was begun is complete by then, or its connection closed.")] = (
        Bounds().packet_s
    )
    mqtt_unread_s: Annotated[float, Field(gt=0, description="A connection that reads nothing it is sent for so long is closed.")] = (
        Bounds().unread_s
    )
    mqtt_session_s: Annotated[
        int, Field(ge=0, le=604_800, description="A session that a device wants kept outlives its connection by no more; 0 keeps none.")
    ] = Bounds().session_s
    mqtt_kept_mib: Annotated[
        int, Field(ge=1, description="Memory for all kept sessions; beyond, the one that has waited longest ends.")
    ] = Bounds().kept_bytes // MEBIBYTE
    api_port: Annotated[int, Field(ge=0, le=65535, description="0 takes any free port.")] = 8080
    public_url: Annotated[
        str | None, Field(description="Where devices reach the API, without a slash at its end; this host's API port when unset.")
    ] = None
    firmware_mib: Annotated[int, Field(ge=1, le=4096, description="The largest firmware image.")] = 256
    database_url: Annotated[str | None, Field(description="SQLAlchemy URL; SQLite in the data directory when unset.")] = None
    nats_url: Annotated[str | None, Field(description="A NATS server of your own; a child process when unset.")] = None
    nats_token: Annotated[str | None, Field(repr=False, description="Its token; the one in the data directory when unset.")] = None
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    stream_mib: Annotated[int, Field(ge=16, description="Uplink stream; when it is full, devices wait.")] = 4096
    store_memory_mib: Annotated[int, Field(ge=128, description="DuckDB's memory limit.")] = 1024
    store_threads: Annotated[int, Field(ge=1, le=64, description="DuckDB's threads.")] = 1
    query_timeout_s: Annotated[float, Field(gt=0, description="A telemetry query ends after this.")] = 30.0
    keep_days: Annotated[float | None, Field(gt=0, description="Telemetry is deleted so many days after it came; never when unset.")] = None
    influx_url: Annotated[str | None, Field(description="Rows go to this InfluxDB 2; into the embedded store when unset.")] = None
    influx_token: Annotated[str, Field(repr=False, description="A token that may read and write the bucket.")] = ""
    influx_org: Annotated[str, Field(description="The organisation the bucket belongs to.")] = "hearthline"
    influx_bucket: Annotated[str, Field(description="The bucket, with the retention that rows are to have.")] = "telemetry"
    crash_dir: Annotated[Path | None, Field(description="Tests only: crash points are armed by files in here.")] = None

    @classmethod
    def read(cls) -> "Settings":
        """From the environment. Raises Refused naming the variable that is wrong."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            variable = "HEARTHLINE_" + "_".join(str(part) for part in first["loc"]).upper()
            raise Refused(Reason.BAD_CONFIGURATION, f"{variable}: {first['msg']}") from error

    def for_directory(self, directory: Path) -> "Settings":
        """These settings with another, absolute data directory."""
        return self.model_copy(update={"dir": directory.absolute()})

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.dir / 'meta.db'}"

    @property
    def stream_bytes(self) -> int:
        return self.stream_mib * MEBIBYTE

    @property
    def run_dir(self) -> Path:
        return self.dir / "run"

    @property
    def secret_key_file(self) -> Path:
        return self.dir / "secret.key"

    @property
    def artefact_dir(self) -> Path:
        return self.dir / "artefacts"

    @property
    def api_address_file(self) -> Path:
        """Where the API listens, written by the role that does."""
        return self.run_dir / "api.address"

    def base_url(self) -> str:
        """Where devices download from. Raises TryAgain before the API has ever listened."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        try:
            return self.api_address_file.read_text().strip()
        except FileNotFoundError as error:
            raise TryAgain("the API has not said where it listens; set HEARTHLINE_PUBLIC_URL") from error

    @property
    def tls_dir(self) -> Path:
        return self.dir / "tls"

    @property
    def names(self) -> tuple[str, ...]:
        """`tls_names` one by one."""
        return tuple(name for name in (part.strip() for part in self.tls_names.split(",")) if name)

    @property
    def device_address(self) -> tuple[str, int]:
        """What a device is told that asks where to connect to."""
        return self.device_host or next(iter(self.names), "localhost"), self.device_port or self.mqtt_port

    @property
    def nats_token_file(self) -> Path:
        return self.dir / "nats.token"

    @property
    def nats_address_file(self) -> Path:
        """Where `up` leaves the URL of its NATS child for roles that are started by hand."""
        return self.run_dir / "nats.url"
