"""Who answers behind this gateway: changes go up while the cloud is there, and a whole picture after every connect."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from edge_agent.domain.clock import Clock
from edge_agent.ports import DeviceKey, Intake
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import PresenceRecord

log = logging.getLogger("edge.presence")

SETTLE_S = 0.2  # a device that reconnects at once is one change
NOTE_AGAIN_S = 10.0


class Presence:
    """`PresenceBoard` with memory: the latest state of each device and since when (epoch ms).

    Presence is a state, not a history: while the cloud is away nothing is queued, so a flapping device cannot fill the alarm lane.
    """

    def __init__(
        self,
        devices: Mapping[DeviceKey, str],
        intake: Intake,
        clock: Clock,
        keep: Callable[["Presence"], None],
        note_again_s: float = NOTE_AGAIN_S,
    ) -> None:
        """`devices` with their source; all count as offline at first. `keep` notes changes; it may raise OSError."""
        now_ms = clock.now_ms()
        self._note_again_s = note_again_s
        self._intake, self._clock, self._keep = intake, clock, keep
        self.states: dict[DeviceKey, tuple[bool, int, str]] = {key: (False, now_ms, source) for key, source in devices.items()}
        self._periods = dict.fromkeys(devices, clock.period)
        self._unsaid: dict[DeviceKey, None] = {}
        self._linked = False
        self._changed = asyncio.Event()

    def changed(self, device: DeviceKey, online: bool, source: str) -> None:
        before = self.states.get(device)
        if before is not None and before[0] == online:
            return
        self.states[device] = (online, self._clock.now_ms(), source)
        self._periods[device] = self._clock.period
        self._unsaid[device] = None
        self._changed.set()
        log.info("device.online" if online else "device.offline", extra={"device": str(device), "source": source})

    def linked(self, up: bool) -> None:
        """The cloud came or went; who came gets the whole picture."""
        self._linked = up
        if up:
            self._unsaid = dict.fromkeys(self.states)
            self._changed.set()

    async def run(self) -> None:
        """Say what changed, for ever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            try:
                self._keep(self)
            except OSError as problem:  # no room, no descriptor: what is noted is old until it goes, and nothing else suffers
                log.warning("presence.not_noted", extra={"problem": str(problem)})
                asyncio.get_running_loop().call_later(self._note_again_s, self._changed.set)
            if self._linked:
                unsaid, self._unsaid = self._unsaid, {}
                for key in unsaid:
                    online, since_ms, _ = self.states[key]
                    record = PresenceRecord(key.product_key, key.device_name, online, since_ms)
                    self._intake.record(Lane.ALARM, record, self._periods[key])
