"""Result codes of the envelope (alink.md par. 11), and which of them answers a refusal."""

import enum
from dataclasses import dataclass

from protocols.errors import Reason, Refused


class Code(enum.IntEnum):
    """Codes we send."""

    DONE = 200
    FAILED = 400
    BAD_TOPOLOGY_SIGN = 401
    CONNECTED_ELSEWHERE = 427
    TOO_MANY_SUB_DEVICES = 428
    TOO_MANY_REQUESTS = 429
    BAD_PARAMS = 460
    SERVER_ERROR = 500
    NO_SUB_SESSION = 520
    SUB_DELETED = 521
    SUB_DISABLED = 522
    EVENT_UNKNOWN = 5160
    DEVICE_UNKNOWN = 6100
    TOO_MANY_DESIRED = 6104
    TOO_MANY_PROPERTIES = 6106
    TOPIC_UNKNOWN = 6203
    DEVICE_DISABLED = 6204
    NOT_JSON = 6207
    PRODUCT_UNKNOWN = 6250
    BAD_SUB_SIGN = 6287
    REGISTRATION_CLOSED = 6288
    ALREADY_ACTIVE = 6289
    SIGN_METHOD_UNKNOWN = 6292
    PARAMETER_MISSING = 6302
    PROPERTY_UNKNOWN = 6320
    BAD_TIME = 6326
    TOO_MANY_EVENTS = 6356
    TOO_MANY_PACKED = 6357
    TOPOLOGY_FULL = 6400
    NOT_IN_TOPOLOGY = 6401
    WITH_ITSELF = 6402
    SIGNATURE_WRONG = 6600
    OTHER_GATEWAY = 6619
    NO_CONFIGURATION = 6710
    CONFIGURATION_OFF = 6713
    NO_RAW_TABLE = 26001
    BAD_RAW = 26006


_CODES = {
    Reason.BAD_JSON: Code.NOT_JSON,
    Reason.BAD_ENVELOPE: Code.BAD_PARAMS,
    Reason.MISSING_PARAMETER: Code.PARAMETER_MISSING,
    Reason.TOO_MANY: Code.TOO_MANY_PROPERTIES,
    Reason.TOO_MANY_EVENTS: Code.TOO_MANY_EVENTS,
    Reason.TOO_MANY_DEVICES: Code.TOO_MANY_PACKED,
    Reason.TOO_MANY_DESIRED: Code.TOO_MANY_DESIRED,
    Reason.NO_RAW_TABLE: Code.NO_RAW_TABLE,
    Reason.BAD_RAW: Code.BAD_RAW,
    Reason.UNKNOWN_TOPIC: Code.TOPIC_UNKNOWN,
    Reason.UNKNOWN_IDENTIFIER: Code.PROPERTY_UNKNOWN,
    Reason.UNKNOWN_EVENT: Code.EVENT_UNKNOWN,
    Reason.UNKNOWN_DEVICE: Code.DEVICE_UNKNOWN,
    Reason.UNKNOWN_PRODUCT: Code.PRODUCT_UNKNOWN,
    Reason.BAD_TIME: Code.BAD_TIME,
    Reason.QUOTA_EXCEEDED: Code.TOO_MANY_REQUESTS,
    Reason.WRONG_TYPE: Code.BAD_PARAMS,
    Reason.OUT_OF_RANGE: Code.BAD_PARAMS,
    Reason.INTEGER_TOO_LARGE: Code.BAD_PARAMS,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request is answered; `data` is raw JSON."""

    code: Code = Code.DONE
    data: bytes = b"{}"
    message: str = "success"


def code_of(refused: Refused) -> Code:
    """The code of a reply to a message refused as a whole."""
    return _CODES.get(refused.reason, Code.FAILED)


def explain(refused: Refused) -> str:
    """The text beside an identifier in a reply's `data`, in the vendor's manner."""
    if refused.reason is Reason.UNKNOWN_IDENTIFIER:
        return "tsl parse: params not exist"
    return f"tsl parse: {refused}"
