"""What devices ask and how they are answered (alink.md par. 5, 6, 8 to 10), except for what is delivered: a row of `ANSWERS` each."""

from collections.abc import Mapping
from typing import Final

import msgspec

from cloud.devices import topology
from cloud.devices.binding import show_token
from cloud.devices.conversation import Handler, Talk
from cloud.devices.device_log import add_diagnosis, add_log, log_mode
from cloud.devices.model import RegistryChange
from cloud.devices.moves import freed_by_device
from cloud.devices.registration import register_behind, register_by_product
from cloud.devices.service import credentials_in
from cloud.devices.shadow import delete_desired, desired_values, document_of, load_shadow, set_spoken, store_document
from cloud.devices.tags import delete_tags, set_tags
from protocols.alink.codes import Answer, Code
from protocols.alink.deviceinfo import clock_answer, log_content, reduced_tsl
from protocols.alink.registration import RegistrationRefused, claim_of_form
from protocols.alink.shadow import ShadowRefused, apply_shadow_message, shadow_content, shadow_done, shadow_failed
from protocols.alink.topics import Kind
from protocols.alink.topology import names
from protocols.errors import Refused
from protocols.thing.export import full_tsl

_encode = msgspec.json.encode


def _on_clock(talk: Talk) -> None:
    talk.push(Kind.NTP_RESPONSE, clock_answer(talk.params, talk.received_ms, talk.now_ms))


def _on_tags_update(talk: Talk) -> Answer:
    try:
        set_tags(talk.session, talk.device_id, {tag.attrKey: tag.text for tag in talk.params}, "device", talk.received_ms)
    except Refused as refused:
        return Answer(Code.BAD_PARAMS, message=str(refused))
    return Answer()


def _on_tags_delete(talk: Talk) -> Answer:
    delete_tags(talk.session, talk.device_id, {tag.attrKey for tag in talk.params})
    return Answer()


def _tsl(talk: Talk) -> dict[str, object]:
    product_key, device_name = talk.key
    document = full_tsl(talk.model, product_key)
    return {**document, "link": document["link"].replace("${deviceName}", device_name)}


def _on_tsl(talk: Talk) -> Answer:
    return Answer(data=_encode(_tsl(talk)))


def _on_dynamic_tsl(talk: Talk) -> Answer:
    return Answer(data=_encode(reduced_tsl(_tsl(talk), talk.params.nodes)))


def _on_desired_get(talk: Talk) -> Answer:
    held = desired_values(talk.session, talk.device_id, talk.params)
    return Answer(data=_encode({name: {"value": found.value, "version": found.version} for name, found in held.items()}))


def _on_desired_delete(talk: Talk) -> Answer:
    versions = {identifier: asked.version for identifier, asked in talk.params.items()}
    delete_desired(talk.session, talk.device_id, versions, talk.received_ms)
    return Answer()


def _on_shadow(talk: Talk) -> None:
    message = talk.params
    if isinstance(message, ShadowRefused):
        talk.push(Kind.SHADOW_GET, shadow_failed(message, talk.now_ms))
        return
    shadow = load_shadow(talk.session, talk.device_id)
    before = document_of(shadow)
    if message.asks:
        set_spoken(talk.session, talk.device_id, shadow, talk.received_ms)
        talk.push(Kind.SHADOW_GET, shadow_content(before, talk.now_ms))
        return
    try:
        after = apply_shadow_message(before, message, talk.received_ms)
    except ShadowRefused as refused:
        talk.push(Kind.SHADOW_GET, shadow_failed(refused, talk.now_ms))
        return
    store_document(talk.session, talk.device_id, shadow, after, talk.received_ms)
    talk.push(Kind.SHADOW_GET, shadow_done(after.version, talk.now_ms))


def _on_log(talk: Talk) -> Answer:
    add_log(talk.session, talk.device_id, talk.params, talk.received_ms)
    return Answer()


def _on_diagnosis(talk: Talk) -> Answer:
    add_diagnosis(talk.session, talk.device_id, talk.params, talk.received_ms)
    return Answer()


def _on_topo_add(talk: Talk) -> Answer:
    known = credentials_in(talk.session, talk.vault, [item.key for item in talk.params])
    try:
        found = [
            topology.check_sub_device(talk.device_id, talk.tenant_id, item, known.get(item.key), Code.BAD_TOPOLOGY_SIGN, talk.now_ms)
            for item in talk.params
        ]
        topology.add_sub_devices(talk.session, talk.device_id, found, talk.received_ms)
    except topology.TopologyRefused as refused:
        return Answer(refused.code, message=str(refused))
    talk.changes += [RegistryChange(*item.key) for item in talk.params]  # ingest may remember that they were nobody's
    return Answer(data=_encode(names([item.key for item in talk.params])))


def _on_topo_delete(talk: Talk) -> Answer:
    """All of them or none."""
    keys = [pair.key for pair in talk.params]
    held = set(topology.sub_devices_of(talk.session, talk.device_id))
    if missing := [key for key in keys if key not in held]:
        listed = ", ".join("/".join(key) for key in missing)
        return Answer(Code.NOT_IN_TOPOLOGY, message=f"not in the topology of this gateway, so none was deleted: {listed}")
    gone = topology.remove_sub_devices(talk.session, talk.device_id, keys)
    talk.changes += [RegistryChange(*key) for key in gone]  # whoever holds its session looks again
    return Answer(data=_encode(names(gone)))


def _on_topo_get(talk: Talk) -> Answer:
    return Answer(data=_encode(names(topology.sub_devices_of(talk.session, talk.device_id))))


def _on_sub_register(talk: Talk) -> Answer:
    """All of them or none."""
    given = []
    try:
        with talk.session.begin_nested():
            for pair in talk.params:
                grant = register_behind(talk.work, talk.vault, talk.tenant_id, pair.key, talk.received_ms)
                given.append({"iotId": "/".join(pair.key), **names([pair.key])[0], "deviceSecret": grant.device_secret})
    except RegistrationRefused as refused:
        return Answer(refused.code, message=str(refused))
    return Answer(data=_encode(given))


def _on_product_register(talk: Talk) -> Answer:
    """Each by itself: what was given, and why not."""
    given, failed = [], []
    for proxied in talk.params.proxieds:
        pair = {"productKey": proxied.productKey, "deviceName": proxied.deviceName}
        try:
            claim = claim_of_form(msgspec.structs.asdict(proxied))
            with talk.session.begin_nested():
                grant = register_by_product(talk.work, talk.vault, claim, talk.received_ms)
        except RegistrationRefused as refused:
            failed.append({**pair, "code": int(refused.code), "message": str(refused)})
        else:
            given.append({**pair, "iotId": "/".join(pair.values()), "deviceSecret": grant.device_secret})
    return Answer(data=_encode({"successes": given, "failures": failed}))


def _on_found(talk: Talk) -> Answer:
    listed = ", ".join("/".join(pair.key) for pair in talk.params)
    talk.note("found", f"sub-devices that were found: {listed}")
    return Answer()


def _on_reset(talk: Talk) -> Answer:
    talk.note("reset", "the device was reset to how it left the factory")
    if freed_by_device(talk.session, talk.device_id):
        talk.changes.append(RegistryChange(*talk.key))  # whoever holds its session looks again, after the answer has left
    return Answer()


def _on_enrollee(talk: Talk) -> Answer:
    """Wi-Fi provisioning between devices of a home: what they tell each other needs nothing of us but an answer."""
    return Answer()


def _on_lan_keys(talk: Talk) -> Answer:
    return Answer(Code.FAILED, message="control over the local network is not offered: the app controls devices through the platform")


def _on_log_mode(talk: Talk) -> Answer:
    return Answer(data=_encode(log_content(log_mode(talk.session, talk.device_id))))


def _on_match(talk: Talk) -> Answer:
    try:
        show_token(talk.session, talk.tenant_id, talk.device_id, talk.params.token, talk.received_ms)
    except Refused as refused:
        return Answer(Code.BAD_PARAMS, message=str(refused))
    return Answer()


ANSWERS: Final[Mapping[Kind, Handler]] = {
    Kind.NTP_REQUEST: _on_clock,
    Kind.TAGS_UPDATE: _on_tags_update,
    Kind.TAGS_DELETE: _on_tags_delete,
    Kind.TSL_GET: _on_tsl,
    Kind.DYNAMIC_TSL_GET: _on_dynamic_tsl,
    Kind.DESIRED_GET: _on_desired_get,
    Kind.DESIRED_DELETE: _on_desired_delete,
    Kind.SHADOW_UPDATE: _on_shadow,
    Kind.LOG_POST: _on_log,
    Kind.OTHER_LOG_POST: _on_log,
    Kind.DIAG_POST: _on_diagnosis,
    Kind.LOG_CONFIG_GET: _on_log_mode,
    Kind.AWSS_MATCH: _on_match,
    Kind.TOPO_ADD: _on_topo_add,
    Kind.TOPO_DELETE: _on_topo_delete,
    Kind.TOPO_GET: _on_topo_get,
    Kind.SUB_REGISTER: _on_sub_register,
    Kind.PRODUCT_REGISTER: _on_product_register,
    Kind.LIST_FOUND: _on_found,
    Kind.RESET: _on_reset,
    Kind.AWSS_FOUND: _on_enrollee,
    Kind.AWSS_CHECKIN: _on_enrollee,
    Kind.AWSS_SWITCHAP: _on_enrollee,
    Kind.CIPHER_GET: _on_enrollee,
    Kind.LAN_PREFIX_GET: _on_lan_keys,
    Kind.LAN_PREFIX_UPDATE: _on_lan_keys,
    Kind.LAN_BLACKLIST_UPDATE: _on_lan_keys,
}
