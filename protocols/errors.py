"""Error families, named by what the caller can do next, and the one list of refusal reasons."""

import enum
from typing import Self


class PlatformError(Exception):
    """Root of everything we raise on purpose."""


class TryAgain(PlatformError):
    """Worth retrying as is: something was away, busy or too slow."""


class Broken(PlatformError):
    """A bug or corruption: retrying changes nothing, somebody has to look."""


class Reason(enum.StrEnum):
    """Why something was refused. Values are counter labels and quarantine reasons: stable, never reworded."""

    # MQTT
    MALFORMED_PACKET = "malformed_packet"
    PACKET_TOO_LARGE = "packet_too_large"
    PROTOCOL_ERROR = "protocol_error"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNSUPPORTED_QOS = "unsupported_qos"
    BAD_CREDENTIALS = "bad_credentials"
    NOT_AUTHORISED = "not_authorised"
    BAD_CERTIFICATE = "bad_certificate"
    REGISTRATION_CLOSED = "registration_closed"
    ALREADY_ACTIVE = "already_active"
    FOREIGN_TOPIC = "foreign_topic"
    UNKNOWN_TOPIC = "unknown_topic"
    QUOTA_EXCEEDED = "quota_exceeded"
    # connections
    CONNECT_TIMEOUT = "connect_timeout"
    KEEPALIVE_TIMEOUT = "keepalive_timeout"
    SLOW_WRITER = "slow_writer"
    SLOW_READER = "slow_reader"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    TOO_MANY_CONNECTS = "too_many_connects"
    # documents and values
    BAD_JSON = "bad_json"
    BAD_ENVELOPE = "bad_envelope"
    BAD_THING_MODEL = "bad_thing_model"
    UNKNOWN_IDENTIFIER = "unknown_identifier"
    UNKNOWN_EVENT = "unknown_event"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    INTEGER_TOO_LARGE = "integer_too_large"
    BAD_TIME = "bad_time"
    TOO_MANY = "too_many"
    TOO_MANY_EVENTS = "too_many_events"
    TOO_MANY_DEVICES = "too_many_devices"
    TOO_MANY_DESIRED = "too_many_desired"
    MISSING_PARAMETER = "missing_parameter"
    NO_RAW_TABLE = "no_raw_table"
    BAD_RAW = "bad_raw"
    NOT_WRITABLE = "not_writable"
    NOT_ALLOWED = "not_allowed"
    # frames
    BAD_FRAME = "bad_frame"
    BAD_CHECKSUM = "bad_checksum"
    FOREIGN_DEVICE = "foreign_device"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_PRODUCT = "unknown_product"
    # field buses
    BAD_REGISTER = "bad_register"
    # configuration
    BAD_CONFIGURATION = "bad_configuration"
    BAD_MODEL = "bad_model"
    BAD_TRAINING_DATA = "bad_training_data"
    # ourselves
    UNEXPECTED_ERROR = "unexpected_error"
    POISON = "poison"


class Refused(PlatformError):
    """Change the request first. `reason` is for counters and programs, the message tells a person what to change."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def settled(self) -> Self:
        """The error as a value: without the frames that raised it, which would keep what they hold alive in a cycle."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)
