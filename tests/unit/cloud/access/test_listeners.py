"""Several backlogs on the MQTT port: every connection is served, and the port still belongs to one platform."""

import select
import socket

import pytest

from cloud.access.worker import join_listeners
from cloud.app import listen
from protocols.errors import Refused


def test_connections_spread_over_the_listeners_and_none_is_lost() -> None:
    listeners = join_listeners(listen("127.0.0.1", 0), 4)
    try:
        assert len({one.getsockname() for one in listeners}) == 1
        clients = [socket.create_connection(listeners[0].getsockname()) for _ in range(200)]
        taken = [0] * len(listeners)
        while select.select(listeners, [], [], 0)[0]:
            for number, one in enumerate(listeners):
                while select.select([one], [], [], 0)[0]:
                    one.accept()[0].close()
                    taken[number] += 1
        assert sum(taken) == 200
        assert all(taken)
        for client in clients:
            client.close()
    finally:
        for one in listeners:
            one.close()


def test_another_platform_is_refused_the_port() -> None:
    listeners = join_listeners(listen("127.0.0.1", 0), 4)
    try:
        with pytest.raises(Refused, match="choose another port"):
            listen("127.0.0.1", listeners[0].getsockname()[1])
    finally:
        for one in listeners:
            one.close()


def test_when_the_process_is_gone_the_supervisors_listener_takes_everybody() -> None:
    kept = listen("127.0.0.1", 0)
    with kept:
        for one in join_listeners(kept, 4)[1:]:
            one.close()
        for _ in range(20):
            with socket.create_connection(kept.getsockname(), timeout=5):
                assert select.select([kept], [], [], 5)[0]
                kept.accept()[0].close()
        again = join_listeners(kept, 4)  # the role is started once more
        assert len(again) == 4
        for one in again[1:]:
            one.close()
