"""Floods at the front door: guesses, strangers, devices, silence. Each is bounded, and a good device goes on meanwhile."""

import resource
import socket
from pathlib import Path

import pytest

from protocols.errors import Reason
from protocols.mqtt.codec import ConnAck, Connect, Disconnect, encode
from protocols.mqtt.throttle import FREE
from tests.integration.access_rig import RawClient, wait_for
from tests.integration.bad_input import HOSTS, address, closed, is_open
from tests.integration.offence import OPERATOR, SHORT, offence, running


@pytest.mark.refusal(Reason.BAD_CREDENTIALS)
def test_a_flood_of_guesses_is_slowed_and_the_owner_at_the_same_address_gets_in(tmp_path: Path) -> None:
    flood, host = 200, next(HOSTS)
    with running(tmp_path, **SHORT) as front, offence(front, Reason.BAD_CREDENTIALS, count=flood) as seen:
        guesses = [RawClient(front.door.port, "guessed", host=host) for _ in range(flood)]
        for guess in guesses:
            guess.sock.sendall(encode(Connect(guess.connect.client_id, guess.connect.username, b"0" * 64)))
        wait_for(lambda: seen.counted == flood)
        slowed = guesses[FREE + 10 :]
        owner = RawClient(front.door.port, "guessed", host=host).open()
        owner.publish(b"it is me", 1)
        assert owner.acks(1) == [(1, 0)]
        for guess in slowed:  # the owner was let in before all of them had their answer
            with pytest.raises(TimeoutError):
                guess.next(0.001)
        assert guesses[0].next() == ConnAck(reason=4)
        (entry,) = [entry for entry in front.quarantined(seen.after) if entry.device_name == "guessed"]
        assert entry.address.rpartition(":")[0] == host
        assert 1 <= entry.count <= flood  # what came before it was noted; the others follow as one count
        for guess in guesses:
            guess.close()
        owner.close()


@pytest.mark.refusal(Reason.TOO_MANY_CONNECTIONS)
def test_strangers_beyond_their_bound_leave_oldest_first_and_devices_stay(tmp_path: Path) -> None:
    with running(tmp_path, strangers=50, connections=60, connect_s=60.0) as front:
        devices = [front.client().open() for _ in range(10)]
        with offence(front, Reason.TOO_MANY_CONNECTIONS, count=252) as seen:
            # 10 devices and the good one are in; of 300 strangers 49 stay, then two of them make room for the devices.
            strangers = [front.raw() for _ in range(300)]
            wait_for(lambda: seen.counted >= 251)
            # Several listeners share the port, so that connections are taken in order of arrival but for a few that crossed.
            for stranger in strangers[:150]:
                assert closed(stranger) == b""
            wait_for(lambda: sum(is_open(stranger) for stranger in strangers) == 49)
            late = front.client().open()
            late.publish(b"let in", 1)
            assert late.acks(1) == [(1, 0)]
            for n, device in enumerate(devices):
                device.publish(b"still here", n + 1)
                assert device.acks(1) == [(n + 1, 0)]
            metrics = front.door.metrics()
            assert metrics["hearthline_access_sessions"] == 12
            assert metrics["hearthline_access_strangers"] == 48
            entries = front.quarantined(seen.after)
            assert {entry.reason for entry in entries} == {"too_many_connections"}
            assert entries[0].tenant_id == OPERATOR
            assert "close those that are not needed" in entries[0].detail


@pytest.mark.refusal(Reason.TOO_MANY_CONNECTIONS)
def test_a_door_full_of_devices_turns_new_connections_away_and_keeps_its_devices(tmp_path: Path) -> None:
    with running(tmp_path, connections=6) as front:
        devices = [front.client().open() for _ in range(5)]
        with offence(front, Reason.TOO_MANY_CONNECTIONS, count=20) as seen:
            turned_away = [front.raw() for _ in range(20)]
            for sock in turned_away:
                assert closed(sock) == b""
            for n, device in enumerate(devices):
                device.publish(b"still here", n + 1)
                assert device.acks(1) == [(n + 1, 0)]
            seen.entry(address(turned_away[0]))
            devices.pop().sock.sendall(encode(Disconnect()))
            wait_for(lambda: front.door.metrics()["hearthline_access_sessions"] == 5)
            devices.append(front.client().open())


@pytest.mark.slow
@pytest.mark.refusal(Reason.CONNECT_TIMEOUT)
def test_10_000_connections_that_never_send_connect(tmp_path: Path) -> None:
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > count + 500, "this machine does not let one process have so many sockets"
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, hard))
    silent: list[socket.socket] = []
    try:
        with running(tmp_path, connect_s=8.0) as front, offence(front, Reason.CONNECT_TIMEOUT, count=count) as seen:
            before = _resident_kib(front.door.process.pid)
            for n in range(count):  # several addresses, since one may have too few ports for this
                sock = socket.create_connection(("127.0.0.1", front.door.port), source_address=(f"127.200.0.{1 + n % 4}", 0))
                silent.append(sock)
            seen.good.goes_on()
            wait_for(lambda: front.door.metrics()["hearthline_access_strangers"] == count)  # all of them at once
            grown = _resident_kib(front.door.process.pid) - before
            assert grown / count < 6, f"{grown / count:.1f} KiB for each silent connection"
            late = front.client().open()  # a device comes in among them
            late.publish(b"among strangers", 1)
            assert late.acks(1) == [(1, 0)]
            wait_for(lambda: front.door.metrics()["hearthline_access_strangers"] == 0, 30)
            assert all(closed(sock) == b"" for sock in silent)
            late.publish(b"still here", 2)
            assert late.acks(1) == [(2, 0)]
            entries = [entry for entry in front.quarantined(seen.after) if entry.reason == "connect_timeout"]
            assert len({entry.address.rpartition(":")[0] for entry in entries}) == 4
            assert len(entries) == 4  # the first of each address at once; the count of the others follows within a minute
    finally:
        for sock in silent:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _resident_kib(pid: int) -> int:
    return int(next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1])
