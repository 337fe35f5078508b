"""What a CONNECT asks for and what it is given: bounded by our limits, or declined by name (MQTT 5 par. 3.1.2.11, 3.2.2.3)."""

from dataclasses import dataclass, replace
from functools import lru_cache

from protocols.mqtt.events import Limits
from protocols.mqtt.fields import protocol_error
from protocols.mqtt.packets import MQTT_5, Connect, ConnectCode, ReasonCode
from protocols.mqtt.properties import Properties

_FOR_EVER = 0xFFFF_FFFF  # a session expiry of par. 3.1.2.11.2, and what an unclean session of 3.1.1 means


@dataclass(frozen=True, slots=True)
class Terms:
    """Of a connection. `expiry_s`: how long its session outlives it, `window`: QoS 1 messages it is sent without PUBACK."""

    limits: Limits
    expiry_asked: int
    expiry_s: int
    clean: bool
    nameless: bool
    window: int
    explains: bool

    @classmethod
    def of(cls, connect: Connect, limits: Limits) -> "Terms":
        """What this CONNECT comes to; connections that ask for the same share it."""
        asked = connect.properties  # empty before MQTT 5
        before = 0 if connect.clean_start else _FOR_EVER
        expiry = (asked.session_expiry_interval or 0) if connect.version == MQTT_5 else before
        explains = asked.request_problem_information != 0  # par. 3.1.2.11.7
        return _terms(limits, expiry, connect.clean_start, not connect.client_id, asked.receive_maximum or limits.in_flight, explains)

    def goodbye(self, expiry: int | None) -> "Terms":
        """DISCONNECT may change how long the session is kept; raises `Refused` if CONNECT asked for none (par. 3.14.2.2.2)."""
        if expiry and not self.expiry_asked:
            raise protocol_error("DISCONNECT asks for a session that CONNECT did not ask for")
        return self if expiry is None else replace(self, expiry_s=min(expiry, self.limits.session_s))

    def told(self, receive_maximum: int | None, server_keepalive: int | None, client_id: str | None) -> Properties:
        """What CONNACK says to an MQTT 5 client; `client_id` is for one that has none."""
        return Properties(
            session_expiry_interval=self.expiry_s,
            receive_maximum=receive_maximum,
            maximum_qos=1,
            retain_available=0,
            maximum_packet_size=self.limits.packet_bytes,
            assigned_client_identifier=client_id if self.nameless else None,
            topic_alias_maximum=self.limits.topic_aliases or None,
            subscription_identifier_available=0,
            shared_subscription_available=0,
            server_keep_alive=server_keepalive,
        )


@lru_cache(maxsize=256)
def _terms(limits: Limits, expiry: int, clean: bool, nameless: bool, window: int, explains: bool) -> Terms:
    return Terms(limits, expiry, min(expiry, limits.session_s), clean, nameless, min(limits.in_flight, window), explains)


def declined(connect: Connect) -> tuple[int, str] | None:
    """The code and the words for a CONNECT that asks for what is not here."""
    if connect.version < MQTT_5:
        if not connect.client_id and (connect.version == 3 or not connect.clean_start):  # 3.1.1 par. 3.1.3.1
            return ConnectCode.CLIENT_ID_REJECTED, "an empty client id needs a clean session"
        return None
    if connect.properties.authentication_method is not None:
        return ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not spoken here: sign the password"
    if connect.will is not None and connect.will.qos > 1:
        return ReasonCode.QOS_NOT_SUPPORTED, "QoS 2 is not spoken here: take QoS 1 for the will"
    if connect.will is not None and connect.will.retain:
        return ReasonCode.RETAIN_NOT_SUPPORTED, "retained messages are not kept here: clear the will's retain flag"
    return None
