"""Result codes of the envelope (alink.md par. 11), and which of them answers a refusal."""

import enum

from protocols.errors import Reason, Refused


class Code(enum.IntEnum):
    """Codes we send."""

    DONE = 200
    FAILED = 400
    TOO_MANY_REQUESTS = 429
    BAD_PARAMS = 460
    SERVER_ERROR = 500
    EVENT_UNKNOWN = 5160
    DEVICE_UNKNOWN = 6100
    TOO_MANY_PROPERTIES = 6106
    TOPIC_UNKNOWN = 6203
    DEVICE_DISABLED = 6204
    NOT_JSON = 6207
    PRODUCT_UNKNOWN = 6250
    REGISTRATION_CLOSED = 6288
    ALREADY_ACTIVE = 6289
    SIGN_METHOD_UNKNOWN = 6292
    PROPERTY_UNKNOWN = 6320
    BAD_TIME = 6326
    SIGNATURE_WRONG = 6600


_CODES = {
    Reason.BAD_JSON: Code.NOT_JSON,
    Reason.BAD_ENVELOPE: Code.BAD_PARAMS,
    Reason.TOO_MANY: Code.TOO_MANY_PROPERTIES,
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


def code_of(refused: Refused) -> Code:
    """The code of a reply to a message refused as a whole."""
    return _CODES.get(refused.reason, Code.FAILED)


def explain(refused: Refused) -> str:
    """The text beside an identifier in a reply's `data`, in the vendor's manner."""
    if refused.reason is Reason.UNKNOWN_IDENTIFIER:
        return "tsl parse: params not exist"
    return f"tsl parse: {refused}"
