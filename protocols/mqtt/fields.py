"""The data representations of MQTT: integers, strings, binary data, variable byte integers (MQTT 5 par. 1.5; 3.1.1 par. 1.5, 2.2.3)."""

from functools import lru_cache

from protocols.errors import Reason, Refused

MAX_VARIABLE_BYTE_INTEGER = 268_435_455


def malformed(message: str) -> Refused:
    """A `Refused` for bytes that are no MQTT (MQTT 5 par. 4.13, 0x81)."""
    return Refused(Reason.MALFORMED_PACKET, message)


def protocol_error(message: str) -> Refused:
    """A `Refused` for a well-formed packet that has no place here (MQTT 5 par. 4.13, 0x82)."""
    return Refused(Reason.PROTOCOL_ERROR, message)


def decode_text(raw: bytes) -> str:
    """A UTF-8 string without NUL and surrogates (par. 1.5.4); raises `Refused`."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise malformed("a string is not UTF-8") from None
    if "\0" in text:
        raise malformed("a string holds NUL")
    return text


def check_topic_name(topic: str) -> str:
    """A topic to publish to: not empty, no wildcard, no NUL (par. 4.7.1, 4.7.3); raises `Refused`."""
    if not topic:
        raise malformed("a topic is empty")
    if "+" in topic or "#" in topic:
        raise malformed("a topic to publish to holds a wildcard")
    return topic


def check_topic_filter(text: str) -> str:
    """A filter: `+` fills a level, `#` fills the last one (par. 4.7.1); raises `Refused`."""
    if not text:
        raise malformed("a topic filter is empty")
    if "+" in text or "#" in text:
        levels = text.split("/")
        if any(("+" in level or "#" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]:
            raise malformed("a wildcard does not stand alone in its level, or `#` is not the last one")
    return text


def encode_binary(value: bytes) -> bytes:
    """Two bytes of length and the bytes (par. 1.5.6); raises `Refused` beyond 65,535."""
    if len(value) > 65_535:
        raise malformed(f"{len(value)} bytes do not fit a field of 65,535")
    return len(value).to_bytes(2, "big") + value


def encode_text(text: str) -> bytes:
    """A UTF-8 string (par. 1.5.4); raises `Refused` for NUL, surrogates or more than 65,535 bytes."""
    if "\0" in text:
        raise malformed("a string holds NUL")
    try:
        return encode_binary(text.encode())
    except UnicodeEncodeError:
        raise malformed("a string holds a surrogate") from None


@lru_cache(maxsize=4096)
def encode_topic_name(topic: str) -> bytes:
    """A checked topic, remembered because servers and devices publish to few topics often; raises `Refused`."""
    return encode_text(check_topic_name(topic))


def encode_variable(value: int) -> bytes:
    """A variable byte integer in its shortest form (par. 1.5.5); raises `Refused` beyond 268,435,455."""
    if value < 128:
        return bytes((value,))
    if value < 16_384:
        return bytes((value & 127 | 128, value >> 7))
    if value < 2_097_152:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    if value <= MAX_VARIABLE_BYTE_INTEGER:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128, value >> 21))
    raise Refused(Reason.PACKET_TOO_LARGE, f"{value} does not fit a variable byte integer")


class Fields:
    """A cursor over the body of one packet; each read raises `Refused` where the field is short or bad."""

    __slots__ = ("at", "body")

    def __init__(self, body: bytes, at: int = 0) -> None:
        self.body = body
        self.at = at

    def _take(self, size: int) -> int:
        start = self.at
        self.at = start + size
        if self.at > len(self.body):
            raise malformed("a packet ends inside a field")
        return start

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.body) - self.at

    def byte(self) -> int:
        """One byte (par. 1.5.1)."""
        return self.body[self._take(1)]

    def two(self) -> int:
        """Two byte integer (par. 1.5.2)."""
        start = self._take(2)
        return self.body[start] << 8 | self.body[start + 1]

    def four(self) -> int:
        """Four byte integer (par. 1.5.3)."""
        start = self._take(4)
        return int.from_bytes(self.body[start : start + 4], "big")

    def variable(self) -> int:
        """Variable byte integer, at most four bytes and in its shortest form (par. 1.5.5)."""
        value = 0
        for shift in (0, 7, 14, 21):
            digit = self.byte()
            value |= (digit & 127) << shift
            if digit < 128:
                if shift and not digit:
                    raise malformed("a variable byte integer is longer than it needs to be")
                return value
        raise malformed("a variable byte integer has more than four bytes")

    def raw(self, size: int) -> bytes:
        """`size` bytes as they are."""
        start = self._take(size)
        return self.body[start : self.at]

    def binary(self) -> bytes:
        """Binary data with two bytes of length (par. 1.5.6)."""
        return self.raw(self.two())

    def text(self) -> str:
        """UTF-8 string (par. 1.5.4)."""
        return decode_text(self.binary())

    def packet_id(self) -> int:
        """Packet identifier, never 0 (par. 2.2.1)."""
        value = self.two()
        if not value:
            raise malformed("a packet identifier is 0")
        return value

    def finish(self) -> None:
        """Refuse bytes behind the last field."""
        if self.left:
            raise malformed(f"{self.left} bytes behind the last field")
