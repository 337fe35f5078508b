"""`edgectl init`: a configuration to start from, a data directory, and files for secrets that only their owner reads."""

import os
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.output import Context, Exit, fail, say
from edge_agent.southbound.plan import FRONT_DOOR_BOUNDS

_TEMPLATE = """\
# A Hearthline gateway. `edgectl config check` says what is wrong, `edgectl run` runs the agent. Paths are relative to this file.
# Any value of a table with one pair of brackets can be overridden: HEARTHLINE_EDGE_UPLINK_HOST is uplink.host.

data_dir = "data"               # the buffer lives here: keep it on a disk that survives a power cut

[gateway]                       # what the cloud knows this gateway as
product_key = "gateway"
device_name = "{name}"
secret_file = "gateway.secret"  # mode 0600, the device secret that the cloud gave

[uplink]
host = "{host}"
port = {port}
keepalive_s = 30                # a dead link is noticed within one and a half of it
window = 16                     # frames under way without an acknowledgement, at most; fewer on a thin link
# ca_file = "ca.pem"            # TLS: what `hearthline ca export` printed; the port is then that of MQTT over TLS
# tls = true                    # TLS with the system's own certificate authorities, where there is no ca_file
# certificate_file = "gw.pem"   # a certificate of this gateway's own, from an authority that was added with `hearthline authority add`
# certificate_key_file = "gw.key"
# bandwidth_kbit_s = 0          # never more than that; 0: no cap
# bulk_from = "22:00"           # the lane `bulk` leaves in these hours only, local time
# bulk_to = "06:00"
# start_spread_s = 30           # after the machine itself was started: the first connect comes within so long, at random
# reconnect_max_s = 30          # tries after a lost link are at most so far apart

[clock]
trust = "auto"                  # system: this machine's clock is right; cloud: only the cloud knows; auto: NTP's word, else the cloud's

[front_door]                    # local MQTT for appliances; leave the table out to close it
host = "127.0.0.1"
port = 1884
secrets_file = "appliances.toml"  # mode 0600: [product_key], then device_name = "secret"
connections = {bounds.connections}              # more: the oldest that was not let in is closed, else the new one
strangers = {bounds.strangers}                 # of these not let in yet; more: the oldest is closed
connect_s = {bounds.connect_s:.0f}                  # a connection without a CONNECT by then is closed
packet_s = {bounds.packet_s:.0f}                   # a packet that was begun is complete by then, or its connection closed
unread_s = {bounds.unread_s:.0f}                   # a connection that reads nothing it is sent for so long is closed

[buffer]
quota_bytes = 1073741824        # full: oldest readings go and leave a gap record; alarms and replies wait
ballast_bytes = 4194304         # kept free on the disk for alarms and replies when it is full
# key_file = "buffer.key"       # encrypts what is stored; `edgectl buffer make-key` writes one, keep it on another medium
bulk_after_s = 10               # what would wait longer than this for the cloud goes to `bulk`, so that `live` is short; 0: never
close_after_ms = 50             # a reading is on disk after at most about this long

# [buffer.live]                 # also alarm, reply, bulk (as live, where it is left out): what is left out stands as shown
# overflow = "drop_oldest"      # or drop_newest, thin (every keep_every-th of the oldest stays), block (its producers wait)
# quota_bytes = 1073741824      # the most this lane may hold
# reserve_bytes = 0             # kept free for this lane (alarm, reply: a thirty-second of the buffer)
# keep_every = 10               # for thin
# max_age_s = 0                 # older ones are given up; running time of the agent, whatever the clock says; 0: never

# [[device]]                    # one for each device behind this gateway
# product_key = "{example}"
# device_name = "press-1"
# thing_model = "stamping_press"  # a TSL file, or a model of the library (docs/reference/products.md; a wrong name gets the list)

# [[connector]]                 # one for each machine that is polled
# name = "line"
# kind = "modbus-tcp"
# device = "press-1"
# host = "127.0.0.1"
# port = 502
# unit_id = 1
# poll_ms = 1000
# timeout_ms = 1000
# sample_on = "counter"         # store a row only when this point has changed; missed rows are counted
# time_from = "time_ms"         # the row's time in epoch ms; without it the agent's clock
# [[connector.point]]
# name = "counter"              # no property: read and not stored
# table = "holding"             # input, holding, coil, discrete
# address = 0
# type = "uint32"
# [[connector.point]]
# name = "time_ms"
# table = "holding"
# address = 2
# type = "uint64"
# [[connector.point]]
# name = "strokes"
# property = "StrokeCount"
# table = "input"
# address = 0
# type = "uint32"
# word_order = "big"
# scale = 1.0

# [[device]]
# product_key = "{example}"
# device_name = "stove-1"
# thing_model = "integrated_stove"
# [[connector]]                 # an appliance's controller on a serial line: pip install 'hearthline[edge,serial]'
# name = "mainboard"
# kind = "serial-line"
# device = "stove-1"
# path = "/dev/ttyS1"
# baud = 115200
# silence_ms = 5000             # nothing heard for so long: the device is offline
# set_s = 60                    # a set without an answer is sent again for so long
# own_time = false              # true: rows carry their time (tag 0); else how old they are (tag 255), or they are new
# [[connector.tag]]
# tag = 1                       # 1 to 253
# type = "int16"                # bool, uint8, int8, uint16, int16, uint32, int32, uint64, float32, float64
# scale = 0.1
# property = "OvenTemperature"

# [[model]]                     # an anomaly model beside the readings; made by `hearthline train anomaly`
# name = "press-anomaly"
# file = "press.onnx"
# devices = ["press-1"]         # all of one kind: each has its own window
# score = "AnomalyScore"        # the property that gets the score: above 1 is an anomaly
# event = "AnomalyDetected"     # raised once an excursion; "" for none
# raise_after = 3               # scores above the threshold in a row until it is raised
# clear_after = 10              # scores below it in a row until it is over

# [inference]                   # bounds of the process that runs the models; what they exceed never delays a reading
# deadline_ms = 2000            # a request that takes longer ends the process, and another one is started
# memory_mib = 160              # above it the process is exchanged
# queue_rows = 10000            # rows that may wait for a score; the oldest go first and leave a gap of the score
"""


def configuration(name: str, host: str, port: int) -> str:
    """The file that `edgectl init` writes."""
    return _TEMPLATE.format(name=name, host=host, port=port, example="<product key>", bounds=FRONT_DOOR_BOUNDS)


def init(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", envvar="HEARTHLINE_EDGE_INIT_NAME", help="The gateway's device name.")] = "gw1",
    host: Annotated[str, typer.Option("--host", envvar="HEARTHLINE_EDGE_INIT_HOST", help="The cloud's host.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", envvar="HEARTHLINE_EDGE_INIT_PORT", help="The cloud's MQTT port.")] = 1883,
    secret: Annotated[
        str | None,
        typer.Option("--secret", envvar="HEARTHLINE_EDGE_INIT_SECRET", help="The gateway's device secret.", show_default="none yet"),
    ] = None,
) -> None:
    """Write a commented configuration, the data directory and 0600 files for secrets. Touches nothing that exists."""
    session: Context = context.obj
    target = session.config
    if target.exists():
        fail(Exit.FAILED, f"{target} exists; nothing was changed")
    text = configuration(name, host, port)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        fail(Exit.USAGE, f"--name or --host does not fit into TOML: {problem}")
    home = target.resolve().parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "data").mkdir(mode=0o700, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        _private(home / "gateway.secret", f"{secret}\n" if secret else "")
        _private(home / "appliances.toml", '# [product_key]\n# device_name = "secret"\n')
    except OSError as problem:
        fail(Exit.FAILED, f"{problem.filename}: {problem.strerror}")
    say(f"wrote {target}, {home / 'data'}, {home / 'gateway.secret'} and {home / 'appliances.toml'}")
    say(
        "next: edit the configuration, then `edgectl config check` and `edgectl run`"
        if secret
        else "next: put the device secret into gateway.secret"
    )


def _private(path: Path, text: str) -> None:
    """Make a file only its owner reads, from its first moment; leave an existing one as it is."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
