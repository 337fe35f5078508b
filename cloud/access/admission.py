"""Who may connect. CONNECTs that wait at the same moment are looked up together, in a thread: a reconnecting fleet costs few queries."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from cloud.access.certificates import Trust, prove
from cloud.access.ports import CredentialLookup, Registrar
from cloud.access.proof import mark_authority, mark_secret, mark_token
from cloud.devices.model import Accepts, Credentials
from cloud.foundation.clock import now_ms
from cloud.foundation.logs import get_logger
from protocols.alink.credentials import parse_username, verify
from protocols.alink.registration import AuthType, Claim, Grant, RegistrationRefused, auth_type, claim_of_connect, verify_token
from protocols.errors import Reason, Refused, TryAgain
from protocols.mqtt.packets import Connect, ConnectCode

TOGETHER: Final = 500
LATER_TOGETHER: Final = 100  # of the second line at most so many: who registers waits for a write, and gives up after 5 s
SUSPECTS_TOGETHER: Final = 50  # of these at least so many from addresses where much has failed: nobody waits for ever


@dataclass(frozen=True, slots=True)
class Denied:
    """A CONNECT that is not let in: the answer, and for the operator why. Without a reason it is our fault and nothing was refused."""

    code: ConnectCode
    reason: Reason | None = None
    detail: str = ""

    @property
    def words(self) -> str:
        """What the client is told: a stranger learns nothing about devices."""
        return _WORDS[self.code]


_WORDS: Final = {
    ConnectCode.UNAVAILABLE: "the device registry does not answer: try again later",
    ConnectCode.BAD_CREDENTIALS: "user name (deviceName&productKey) or password is wrong: compare product key, device name and secret",
    ConnectCode.NOT_AUTHORISED: "this device is disabled: its owner can enable it on the platform",
}

Key = tuple[str, str]
Verdict = Credentials | Grant | Denied
Asker = TypeVar("Asker")


def judge(
    connect: Connect, known: Mapping[Key, Credentials], certificate: bytes | None = None, trust: Trust | None = None, now: int = 0
) -> Credentials | Denied:
    """The credentials that a CONNECT proves, or how to deny it. `certificate` is the client's (DER), `now` epoch ms.

    A device that accepts certificates and shows one is judged by it alone: a wrong one is not made good by a password.
    """
    try:
        key = parse_username(connect.username)
    except Refused as refused:
        return Denied(ConnectCode.BAD_CREDENTIALS, refused.reason, str(refused))
    credentials = known.get(key)
    if credentials is None:
        detail = "no such device: enter it on the platform, or correct the device name and product key that it sends"
        return Denied(ConnectCode.BAD_CREDENTIALS, Reason.UNKNOWN_DEVICE, detail)
    accepts = credentials.identity.accepts
    if certificate is not None and accepts is not Accepts.SECRET:
        try:
            authority, until_ms = prove(certificate, connect, trust or Trust(), credentials.tenant_id, now)
        except Refused as refused:
            return Denied(ConnectCode.BAD_CREDENTIALS, refused.reason, str(refused))
        proved: Credentials | None = replace(credentials, proof=mark_authority(authority), proof_until_ms=until_ms)
    elif accepts is Accepts.CERTIFICATE:
        detail = "the device accepts only certificates and showed none: let it connect to the TLS port with its own, or accept secrets too"
        return Denied(ConnectCode.BAD_CREDENTIALS, Reason.BAD_CERTIFICATE, detail)
    else:
        proved = _by_password(connect, credentials, now)
    if proved is None:
        detail = "the password is not the one that the device's secret makes: give the device its secret, or find who else uses its name"
        return Denied(ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS, detail)
    if not credentials.enabled:
        return Denied(ConnectCode.NOT_AUTHORISED, Reason.NOT_AUTHORISED, "the device is disabled: enable it, or take it off the network")
    return proved


def _by_password(connect: Connect, credentials: Credentials, now: int) -> Credentials | None:
    identity = credentials.identity
    if auth_type(connect.client_id) is AuthType.CONNWL:
        if not verify_token(connect.client_id, connect.password, identity.token_client_id, identity.token):
            return None
        return replace(credentials, proof=mark_token(identity.token))
    if verify(connect.client_id, connect.username, connect.password, credentials.secret):
        return credentials
    if now < identity.previous_until_ms and verify(connect.client_id, connect.username, connect.password, identity.previous):
        return replace(credentials, proof=mark_secret(identity.previous), proof_until_ms=identity.previous_until_ms)
    return None


@dataclass(frozen=True, slots=True)
class Request(Generic[Asker]):
    """A CONNECT in line."""

    asker: Asker
    connect: Connect
    certificate: bytes | None = None


class Admission(Generic[Asker]):
    """A line of CONNECTs. `decided` hears every verdict in the event loop, in the order of asking; suspects come after the others.

    Without a registrar nobody is registered.
    """

    def __init__(
        self,
        lookup: CredentialLookup,
        decided: Callable[[Asker, Connect, Verdict], None],
        trust: Trust | None = None,
        registrar: Registrar | None = None,
    ) -> None:
        self._lookup = lookup
        self._decided = decided
        self._trust = trust or Trust()
        self._registrar = registrar
        self._line: list[Request[Asker]] = []
        self._suspects: list[Request[Asker]] = []
        self._asked = asyncio.Event()

    def ask(self, asker: Asker, connect: Connect, suspect: bool = False, certificate: bytes | None = None) -> None:
        """Put a CONNECT in line; `suspect`: it comes from where much has failed.

        Who registers costs a write, and comes after others too.
        """
        later = suspect or auth_type(connect.client_id) in (AuthType.REGISTER, AuthType.REGNWL)
        (self._suspects if later else self._line).append(Request(asker, connect, certificate))
        self._asked.set()

    async def run(self) -> None:
        """Decide for ever."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="admission") as thread:
            while True:
                await self._asked.wait()
                now = self._next()
                for asked, verdict in zip(now, await loop.run_in_executor(thread, self._judge_line, now), strict=True):
                    self._decided(asked.asker, asked.connect, verdict)

    def _next(self) -> list[Request[Asker]]:
        room = TOGETHER - min(len(self._suspects), SUSPECTS_TOGETHER)
        now, self._line = self._line[:room], self._line[room:]
        room = min(TOGETHER - len(now), LATER_TOGETHER)
        now += self._suspects[:room]
        del self._suspects[:room]
        if not self._line and not self._suspects:
            self._asked.clear()
        return now

    def _judge_line(self, line: list[Request[Asker]]) -> list[Verdict]:
        """One CONNECT that trips over a bug of ours, or of a library, must keep nobody else out."""
        try:
            return self._judge_all(line)
        except Exception:  # noqa: BLE001 - as the docstring says
            if len(line) > 1:
                return [verdict for one in line for verdict in self._judge_line([one])]
            get_logger().exception("admission.bug", client_id=line[0].connect.client_id[:200])
            return [Denied(ConnectCode.UNAVAILABLE)]

    def _judge_all(self, line: list[Request[Asker]]) -> list[Verdict]:
        claims = [_claim(asked.connect) for asked in line]
        wanted = (_key(asked.connect) for asked, claim in zip(line, claims, strict=True) if claim is None)
        keys = list(dict.fromkeys(key for key in wanted if key is not None))
        try:
            known = self._lookup(keys) if keys else {}
        except TryAgain as error:
            get_logger().warning("admission.unavailable", error=str(error))
            return [Denied(ConnectCode.UNAVAILABLE)] * len(line)
        now = now_ms()
        registered = iter(self._register([claim for claim in claims if isinstance(claim, Claim)]))
        verdicts: list[Verdict] = []
        for asked, claim in zip(line, claims, strict=True):
            if claim is None:
                verdicts.append(judge(asked.connect, known, asked.certificate, self._trust, now))
            else:
                verdicts.append(next(registered) if isinstance(claim, Claim) else claim)
        return self._confirmed(verdicts)

    def _register(self, claims: list[Claim]) -> list[Grant | Denied]:
        if not claims:
            return []
        if self._registrar is None:
            closed = Denied(ConnectCode.BAD_CREDENTIALS, Reason.REGISTRATION_CLOSED, "nobody registers here: give the device its secret")
            return [closed] * len(claims)
        try:
            answers = self._registrar.register(claims)
        except TryAgain as error:
            get_logger().warning("registration.unavailable", error=str(error))
            return [Denied(ConnectCode.UNAVAILABLE)] * len(claims)
        return [_unregistered(answer) if isinstance(answer, Exception) else answer for answer in answers]

    def _confirmed(self, verdicts: list[Verdict]) -> list[Verdict]:
        """A device that comes with what registration gave it cannot register again: that is written before it is let in."""
        fresh = [one.device_id for one in verdicts if isinstance(one, Credentials) and one.identity.unconfirmed]
        if not fresh or self._registrar is None:
            return verdicts
        try:
            self._registrar.confirm(list(dict.fromkeys(fresh)))
        except TryAgain as error:
            get_logger().warning("registration.unconfirmed", error=str(error))
            late = Denied(ConnectCode.UNAVAILABLE)
            return [late if isinstance(one, Credentials) and one.identity.unconfirmed else one for one in verdicts]
        return verdicts


def _claim(connect: Connect) -> Claim | Denied | None:
    try:
        return claim_of_connect(connect.client_id, connect.username, connect.password)
    except Refused as refused:
        return _unregistered(refused)


def _unregistered(refused: Refused | TryAgain) -> Denied:
    if isinstance(refused, TryAgain):
        return Denied(ConnectCode.UNAVAILABLE)
    code = f"registration refused ({refused.code:d}): " if isinstance(refused, RegistrationRefused) else ""
    return Denied(ConnectCode.BAD_CREDENTIALS, refused.reason, f"{code}{refused}")


def _key(connect: Connect) -> Key | None:
    try:
        return parse_username(connect.username)
    except Refused:
        return None
