"""What devices say and ask about firmware, configuration and jobs (alink.md par. 6, 7). A new request is a new row of `answers`."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from cloud.devices.conversation import Handler, Talk
from cloud.rollouts.configuration import configuration_for
from cloud.rollouts.jobs import fetch_task, update_task
from cloud.rollouts.service import device_progressed, device_runs, image_for
from protocols.alink.codes import Answer, Code
from protocols.alink.jobs import job_task
from protocols.alink.ota import upgrade_push
from protocols.alink.topics import Kind
from protocols.errors import Refused

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

    def on_config_get(talk: Talk) -> Answer:
        held = configuration_for(talk.session, talk.tenant_id, talk.key[0])
        if held is None:
            return Answer(Code.NO_CONFIGURATION, message="the product has no configuration: give it one on the platform")
        if not held.enabled:
            return Answer(Code.CONFIGURATION_OFF, message="the product's configuration is switched off: switch it on on the platform")
        return Answer(data=_encode(held.offer(base_url())))

    return {
        Kind.CONFIG_GET: on_config_get,
        Kind.CONFIG_PUSH_REPLY: _on_config_told,
        Kind.JOB_GET: _on_job_get,
        Kind.JOB_UPDATE: _on_job_update,
        Kind.OTA_INFORM: on_inform,
        Kind.OTA_PROGRESS: on_progress,
        Kind.OTA_REQUEST: on_request,
        Kind.OTA_FIRMWARE_GET: on_firmware_get,
    }


def _on_config_told(talk: Talk) -> None:
    """What a device makes of a configuration that it was told of: a line in its log."""
    talk.note("config", f"told of its configuration, it answered {talk.params.code} {talk.params.message[:200]}".rstrip())


def _on_job_get(talk: Talk) -> Answer:
    asked = talk.params.taskId
    found = fetch_task(talk.session, talk.device_id, asked, talk.now_ms)
    return Answer(data=_encode({"taskId": asked[:64]} | ({} if found is None else {"task": job_task(*found)})))


def _on_job_update(talk: Talk) -> Answer:
    try:
        update_task(talk.session, talk.device_id, talk.params, talk.now_ms)
    except Refused as refused:
        return Answer(Code.BAD_PARAMS, message=str(refused))
    return Answer(data=_encode({"taskId": talk.params.taskId[:64]}))
