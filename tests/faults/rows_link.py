"""Rows 17 to 24: the link between gateway and cloud, broken in every way a network breaks."""

import random
import socket
import threading
import time

from tests.e2e.platform import wait_until
from tests.e2e.scenes import Site
from tests.e2e.trio import Scene
from tests.faults.appliance import TSL, TestAppliance
from tests.faults.harness import Stage, Tally, fault, need, need_root
from tests.faults.rows_agent import account, called, playing, status_pid

NOTICED_S = 5 * 1.5 + 3  # keepalive_s of the scenes is 5; paho looks once a second, and twice


def connected(played: Scene | Site) -> bool:
    site = played.site if isinstance(played, Scene) else played
    try:
        return bool(site.gateway.edgectl("status")["uplink"]["connected"])
    except RuntimeError:  # no agent, or one that has said nothing yet
        return False


@fault(17, "the cloud's name does not resolve", runs=2, how="a private /etc/hosts without it, then with it")
def no_dns(stage: Stage) -> Tally:
    need_root()
    need("unshare")
    with playing(stage, "dns", 500 * stage.runs) as played:
        gateway, hosts = played.site.gateway, stage.folder / "hosts"
        text = gateway.configuration.read_text()
        gateway.stop()
        gateway.configuration.write_text(text.replace('[uplink]\nhost = "127.0.0.1"', '[uplink]\nhost = "cloud.hearthline.test"'))
        gateway.prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
        for _ in range(stage.runs):
            hosts.write_text("127.0.0.1 localhost\n")
            gateway.start()
            wait_until(lambda: status_pid(gateway.configuration.parent), 20, "the agent")
            time.sleep(3 + stage.chance.random())
            assert not connected(played)
            with hosts.open("a") as file:
                file.write("127.0.0.1 cloud.hearthline.test\n")
            wait_until(lambda: connected(played), 20, "the gateway is connected")
            gateway.stop()
        gateway.start()
        return account(played, stage.runs)


def silent(stage: Stage, *, up: bool) -> Tally:
    with playing(stage, "silent", 900 * stage.runs) as played:
        slowest = 0.0
        for _ in range(stage.runs):
            wait_until(lambda: connected(played), 20, "the gateway is connected")
            time.sleep(stage.chance.random())
            played.site.uplink.freeze(up=up, down=True)
            slowest = max(slowest, wait_until(lambda: not connected(played), 30, "the silence is noticed", every_s=0.2))
            played.site.uplink.restore()
        assert slowest <= NOTICED_S + 1, f"noticed after {slowest:.1f} s"
        return account(played, stage.runs, f"noticed after at most {slowest:.1f} s at a keepalive of 5 s")


@fault(18, "the network is parted", mutants=("patient_link",), mutant_runs=1, runs=2, how="nothing passes, nothing is refused")
def partition(stage: Stage) -> Tally:
    return silent(stage, up=True)


@fault(19, "half-open connection", runs=2, how="what the cloud says is lost, what we say arrives")
def half_open(stage: Stage) -> Tally:
    return silent(stage, up=False)


@fault(20, "every connection is reset", mutants=("no_backoff",), mutant_runs=1, runs=2, how="RST on each for 6 s")
def reset_storm(stage: Stage) -> Tally:
    with playing(stage, "reset", 450 * stage.runs) as played:
        tries = 0
        for _ in range(stage.runs):
            before = played.site.uplink.accepted
            played.site.uplink.reset()
            time.sleep(6)
            tries = max(tries, played.site.uplink.accepted - before)
            played.site.uplink.restore()
            time.sleep(1 + stage.chance.random())
        assert 1 <= tries <= 15, f"{tries} tries in six seconds"
        return account(played, stage.runs, f"at most {tries} tries in 6 s")


@fault(21, "a link of 2 s one way", runs=1, how="relay with a delay of 2 s each way, 20 s")
def long_link(stage: Stage) -> Tally:
    with playing(stage, "long", 1_300) as played:
        connects = played.connects()
        played.site.uplink.shape(delay_s=2.0)
        time.sleep(20)
        assert played.connects() == connects, "a slow link is no broken link"
        played.site.uplink.restore()
        return account(played, 1)


@fault(22, "a link that loses a tenth", runs=1, how="a tenth of the segments held up for 0.2 to 1.2 s, as TCP shows loss")
def lossy_link(stage: Stage) -> Tally:
    with playing(stage, "lossy", 1_000) as played:
        played.site.uplink.shape(stalls=0.1)
        tally = account(played, 1)
        assert played.site.gateway.edgectl("status")["uplink"]["connects"] <= 2
        return tally


@fault(
    23,
    "a link of 16 kbit/s, and an alarm behind a backlog",
    runs=2,
    mutants=("no_urgency",),
    mutant_runs=1,
    how="relay throttled to 16 kbit/s",
)
def thin_link(stage: Stage) -> Tally:
    """The alarm is in the store while most of the backlog still waits on the gateway."""
    total = Tally(runs=0)
    for _ in range(stage.runs):
        name = called(stage, "thin")
        site = Site.build(stage.cloud(), stage.folder / name, name, appliances={"noisy": TSL}, code=stage.code)
        try:
            site.uplink.cut()
            site.gateway.start()
            wait_until(lambda place=stage.folder / name: status_pid(place), 20, "the agent")  # type: ignore[misc]
            device = TestAppliance(site.front_port, site.keys["noisy"], "noisy", site.secrets["noisy"])
            noise, now_ms, posted, acked = random.Random(stage.chance.random()), int(time.time() * 1000), 0, 0
            for number in range(200):
                acked += device.post({"X": {"value": noise.random(), "time": now_ms - 1_000_000 + number}})
                posted += 1
            held = site.gateway.edgectl("buffer", "status")["used_bytes"]
            site.uplink.shape(bytes_per_s=2_000)
            site.uplink.mend()
            time.sleep(2)
            device.post({"value": {}, "time": now_ms}, "thing/event/Alarm/post")
            key = site.keys["noisy"]
            took = wait_until(lambda k=key, s=site: s.cloud.api.get(f"/v1/telemetry/{k}/noisy/Alarm")["points"], 120, "the alarm")  # type: ignore[misc]
            lanes = site.gateway.edgectl("buffer", "status")["lanes"]
            left = lanes["live"]["frames"] + lanes["bulk"]["frames"]
            assert left > 0, "the backlog was through before the alarm: nothing was overtaken"
            site.uplink.restore()
            wait_until(lambda s=site: s.gateway.edgectl("account")["buffered"] == 0, 60, "an empty buffer")  # type: ignore[misc]
            times = [ts for ts, *_ in site.cloud.api.points(key, "noisy", "X", raw=True)]
            lost, twice = posted - len(set(times)), len(times) - len(set(times))
            total += Tally(
                posted,
                acked,
                lost,
                twice,
                max(0, acked - len(set(times))),
                1,
                f"the alarm took {took:.1f} s over a backlog of {held // 1000} KB",
            )
            device.close()
        finally:
            site.end()
    return total


@fault(
    24,
    "a captive portal",
    mutants=("plain_uplink",),
    mutant_runs=1,
    runs=2,
    how="the cloud's port answers HTTP for a while; the uplink speaks TLS",
)
def captive_portal(stage: Stage) -> Tally:
    with playing(stage, "portal", 600 * stage.runs) as played, socket.create_server(("127.0.0.1", 0)) as portal:
        heard: list[bytes] = []

        def answer() -> None:
            while True:
                try:
                    visitor, _ = portal.accept()
                except OSError:
                    return
                with visitor:
                    visitor.settimeout(2)
                    try:
                        heard.append(visitor.recv(4_096))
                        visitor.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\nContent-Length: 0\r\n\r\n")
                    except OSError:
                        continue

        threading.Thread(target=answer, daemon=True).start()
        gateway, uplink, cloud = played.site.gateway, played.site.uplink, played.cloud
        gateway.stop()
        (gateway.configuration.parent / "ca.pem").write_bytes((cloud.data / "tls" / "ca.pem").read_bytes())
        text = gateway.configuration.read_text().replace("[uplink]\n", '[uplink]\nca_file = "ca.pem"\n')
        gateway.configuration.write_text(text)
        uplink.redirect(("127.0.0.1", cloud.mqtts_port))
        gateway.start()
        wait_until(lambda: connected(played), 20, "connected over TLS")
        for _ in range(stage.runs):
            uplink.cut()
            uplink.redirect(portal.getsockname()[:2])
            time.sleep(0.2)
            uplink.restore()
            time.sleep(5)
            assert not connected(played)
            uplink.redirect(("127.0.0.1", cloud.mqtts_port))
            wait_until(lambda: connected(played), 20, "connected again")
        assert heard, "nobody came to the portal"
        name = gateway.configuration.parent.name.encode()
        assert not any(b"MQTT" in data or name in data for data in heard)
        portal.close()
        return account(played, stage.runs, f"{len(heard)} tries ended before a credential was shown")
