"""What a CONNECT asks for and what it is given: bounded by our limits, or declined by name (MQTT 5 par. 3.1.2.11, 3.2.2.3)."""

from protocols.mqtt.events import Limits
from protocols.mqtt.fields import protocol_error
from protocols.mqtt.packets import MQTT_5, Connect, ConnectCode, ReasonCode
from protocols.mqtt.properties import Properties

_FOR_EVER = 0xFFFF_FFFF  # a session expiry of par. 3.1.2.11.2, and what an unclean session of 3.1.1 means


class Terms:
    """Of one connection. `expiry_s`: how long its session outlives it, `window`: QoS 1 messages it is sent without PUBACK."""

    __slots__ = ("_expiry_asked", "_limits", "clean", "expiry_s", "explains", "nameless", "window")

    def __init__(self, connect: Connect, limits: Limits) -> None:
        asked = connect.properties  # empty before MQTT 5
        before = 0 if connect.clean_start else _FOR_EVER
        self._limits = limits
        self._expiry_asked = (asked.session_expiry_interval or 0) if connect.version == MQTT_5 else before
        self.expiry_s = min(self._expiry_asked, limits.session_s)
        self.clean = connect.clean_start
        self.nameless = not connect.client_id
        self.window = min(limits.in_flight, asked.receive_maximum or limits.in_flight)
        self.explains = asked.request_problem_information != 0  # par. 3.1.2.11.7

    def goodbye(self, expiry: int | None) -> None:
        """DISCONNECT may change how long the session is kept; raises `Refused` if CONNECT asked for none (par. 3.14.2.2.2)."""
        if expiry and not self._expiry_asked:
            raise protocol_error("DISCONNECT asks for a session that CONNECT did not ask for")
        if expiry is not None:
            self.expiry_s = min(expiry, self._limits.session_s)

    def told(self, receive_maximum: int | None, server_keepalive: int | None, client_id: str | None) -> Properties:
        """What CONNACK says to an MQTT 5 client; `client_id` is for one that has none."""
        return Properties(
            session_expiry_interval=self.expiry_s,
            receive_maximum=receive_maximum,
            maximum_qos=1,
            retain_available=0,
            maximum_packet_size=self._limits.packet_bytes,
            assigned_client_identifier=client_id if self.nameless else None,
            topic_alias_maximum=self._limits.topic_aliases or None,
            subscription_identifier_available=0,
            shared_subscription_available=0,
            server_keep_alive=server_keepalive,
        )


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
