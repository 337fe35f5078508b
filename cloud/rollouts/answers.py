"""What devices say and ask about their firmware (alink.md par. 7). A new request is a new row of `answers`."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from cloud.devices.conversation import Handler, Talk
from cloud.rollouts.service import device_progressed, device_runs, image_for
from protocols.alink.codes import Answer
from protocols.alink.ota import upgrade_push
from protocols.alink.topics import Kind

_encode: Final = msgspec.json.encode


def answers(base_url: Callable[[], str]) -> Mapping[Kind, Handler]:
    """`base_url` says where devices download from, without a slash at its end."""

    def push_offer(talk: Talk, module: str) -> None:
        image = image_for(talk.session, talk.device_id, module, base_url())
        if image is not None:
            talk.push(Kind.OTA_UPGRADE, upgrade_push(talk.now_ms // 1000, image), qos=1)

    def on_inform(talk: Talk) -> None:
        device_runs(talk.session, talk.device_id, talk.params, talk.received_ms)
        push_offer(talk, talk.params.module)

    def on_progress(talk: Talk) -> None:
        device_progressed(talk.session, talk.device_id, talk.params, talk.received_ms)

    def on_request(talk: Talk) -> None:
        push_offer(talk, talk.params.module)

    def on_firmware_get(talk: Talk) -> Answer:
        image = image_for(talk.session, talk.device_id, talk.params.module, base_url())
        return Answer(data=b"{}" if image is None else _encode(image.offer()))

    return {
        Kind.OTA_INFORM: on_inform,
        Kind.OTA_PROGRESS: on_progress,
        Kind.OTA_REQUEST: on_request,
        Kind.OTA_FIRMWARE_GET: on_firmware_get,
    }
