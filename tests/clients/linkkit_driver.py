"""A device on the vendor's own Python SDK, told what to do by JSON lines on stdin; it says what it sees by JSON lines on stdout.

Runs in an environment of its own (`make ci-deps`): the SDK needs an MQTT library older than ours. Nothing of Hearthline is imported here.

    {"new": {...}}                 arguments of LinkKit(); with "mqtt" those of config_mqtt(), with "tsl" a file for thing_setup()
    {"call": "name", "args": []}   a method of the SDK: answered {"returned": ...}
    {"answer": {"Blink": [200, {}]}}   how services are answered
    {"rrpc": "text"}               how calls on topics of the maker's own are answered
"""

import enum
import json
import sys
import threading

from linkkit import linkkit

CALLBACKS = (
    "on_connect",
    "on_disconnect",
    "on_topic_message",
    "on_topic_rrpc_message",
    "on_publish_topic",
    "on_subscribe_topic",
    "on_thing_create",
    "on_thing_enable",
    "on_thing_disable",
    "on_thing_prop_changed",
    "on_thing_prop_post",
    "on_thing_event_post",
    "on_thing_shadow_get",
    "on_thing_device_info_update",
    "on_thing_device_info_delete",
    "on_thing_raw_data_arrived",
    "on_thing_raw_data_post",
    "on_device_dynamic_register",
    "on_device_dynamic_register_nwl_reply",
    "on_ota_message_arrived",
    "on_gateway_add_subdev_topo_reply",
    "on_gateway_delete_subdev_topo_reply",
    "on_gateway_login_subdev_reply",
    "on_gateway_logout_subdev_reply",
    "on_gateway_register_subdev_reply",
    "on_gateway_product_register_subdev_reply",
    "on_gateway_topo_change",
)

lock = threading.Lock()
services = {}
rrpc = {"answer": None}


def plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def say(**line):
    with lock:
        sys.stdout.write(json.dumps(plain(line)) + "\n")
        sys.stdout.flush()


def listen(kit, name):
    setattr(kit, name, lambda *arguments: say(event=name, args=arguments[:-1]))


def serve(kit):
    def called(identifier, request_id, params, _user):
        say(event="on_thing_call_service", args=[identifier, request_id, params])
        code, data = services.get(identifier, [200, {}])
        kit.thing_answer_service(identifier, request_id, code, data)

    def rung(call_id, topic, payload, qos, _user):
        say(event="on_topic_rrpc_message", args=[call_id, topic, payload, qos])
        if rrpc["answer"] is not None:
            kit.thing_answer_rrpc(call_id, rrpc["answer"])

    kit.on_thing_call_service = called
    kit.on_topic_rrpc_message = rung


def create(line):
    kit = linkkit.LinkKit(**line["new"])
    kit.config_mqtt(**line["mqtt"])
    for name in CALLBACKS:
        listen(kit, name)
    serve(kit)
    if "tsl" in line:
        say(returned=kit.thing_setup(line["tsl"]) if line["tsl"] else kit.thing_setup())
    else:
        say(returned=0)
    return kit


def main():
    kit = None
    for text in sys.stdin:
        line = json.loads(text)
        try:
            if "new" in line:
                kit = create(line)
            elif "answer" in line:
                services.update(line["answer"])
                say(returned=0)
            elif "rrpc" in line:
                rrpc["answer"] = line["rrpc"]
                say(returned=0)
            else:
                arguments = [
                    tuple(entry["tuple"]) if isinstance(entry, dict) and set(entry) == {"tuple"} else entry for entry in line["args"]
                ]
                say(returned=getattr(kit, line["call"])(*arguments))
        except Exception as error:  # noqa: BLE001 - the test decides what that means
            say(raised=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
