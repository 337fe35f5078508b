"""What each reason of a refusal means to an operator and what to do about it, in English and Simplified Chinese. One row a reason."""

from dataclasses import dataclass
from typing import Final

from protocols.errors import Reason


@dataclass(frozen=True, slots=True)
class Advice:
    """`where` it arises; `meaning` and `next_step` as (English, Chinese)."""

    where: str
    meaning: tuple[str, str]
    next_step: tuple[str, str]


DOOR, PAYLOAD, FRAME, BUS, FILE, API = "front door", "payload", "gateway's frame", "field bus", "file", "API"

ADVICE: Final[dict[Reason, Advice]] = {
    Reason.MALFORMED_PACKET: Advice(
        DOOR,
        ("The bytes are no MQTT packet.", "收到的字节不是合法的 MQTT 报文。"),
        (
            "Look at the address and the first bytes: a port scanner, HTTP or TLS on the plain port, or a broken client.",
            "查看来源地址和首字节：可能是端口扫描、把 HTTP 或 TLS 发到了明文端口，或客户端有缺陷。",
        ),
    ),
    Reason.PACKET_TOO_LARGE: Advice(
        DOOR,
        ("A packet is larger than the front door takes.", "报文超过接入端允许的大小。"),
        ("Split the message; MQTT 5 clients are told the limit when they connect.", "请拆分消息；MQTT 5 客户端在连接时会得到上限值。"),
    ),
    Reason.PROTOCOL_ERROR: Advice(
        DOOR,
        ("The packet is well-formed and not allowed at this point.", "报文格式正确，但此时不允许发送。"),
        (
            "The client breaks the MQTT rules: a second CONNECT, or something before the first. Update its MQTT library.",
            "客户端违反 MQTT 规则（例如重复 CONNECT 或未连接先发送）。请更新其 MQTT 库。",
        ),
    ),
    Reason.UNSUPPORTED_VERSION: Advice(
        DOOR,
        ("The client speaks an MQTT version that is not known.", "客户端使用了未知的 MQTT 版本。"),
        ("Set the client to MQTT 3.1.1 or 5.", "请将客户端设置为 MQTT 3.1.1 或 5。"),
    ),
    Reason.UNSUPPORTED_QOS: Advice(
        DOOR,
        ("The client publishes with QoS 2, which Alink does not have.", "客户端使用了 Alink 不支持的 QoS 2。"),
        ("Publish with QoS 1: duplicates are removed by event time.", "请使用 QoS 1，重复数据会按事件时间去除。"),
    ),
    Reason.BAD_CREDENTIALS: Advice(
        DOOR,
        ("The device is unknown, or its signature does not fit its secret.", "设备不存在，或签名与密钥不符。"),
        (
            "Compare product key, device name and secret with `hearthline device show`; a new device has to be entered first.",
            "用 `hearthline device show` 核对产品密钥、设备名和设备密钥；新设备需要先录入。",
        ),
    ),
    Reason.NOT_AUTHORISED: Advice(
        DOOR,
        ("The device is disabled.", "设备已被禁用。"),
        ("Enable it again if it should be in service.", "如需继续使用，请重新启用该设备。"),
    ),
    Reason.BAD_CERTIFICATE: Advice(
        DOOR,
        ("The client's certificate does not prove that it is this device.", "客户端证书不能证明其为该设备。"),
        (
            "Read the detail: renew an expired certificate, or add the authority that issued it with `hearthline authority add`.",
            "查看详情：更新过期证书，或用 `hearthline authority add` 添加签发该证书的机构。",
        ),
    ),
    Reason.REGISTRATION_CLOSED: Advice(
        DOOR,
        ("A device asks for its secret, and its product does not give any.", "设备请求动态注册，但其产品未开放注册。"),
        (
            "Open it with `hearthline product registration` if you expect such devices.",
            "如确有此类设备，请用 `hearthline product registration` 开放注册。",
        ),
    ),
    Reason.ALREADY_ACTIVE: Advice(
        DOOR,
        ("A device asks for a secret that was already given, or is in use.", "设备请求的密钥已发放或正在使用。"),
        (
            "If it was reset or replaced, let it register once more with `hearthline device reset`; else somebody copies its name.",
            "若设备已重置或更换，请用 `hearthline device reset` 允许其再次注册；否则说明有人冒用设备名。",
        ),
    ),
    Reason.FOREIGN_TOPIC: Advice(
        DOOR,
        ("A device used a topic of another device.", "设备使用了其他设备的主题。"),
        (
            "Devices that share one firmware often carry a copied product key or name; set each its own.",
            "共用固件的设备常常带有复制来的产品密钥或设备名，请为每台设备单独设置。",
        ),
    ),
    Reason.UNKNOWN_TOPIC: Advice(
        DOOR,
        ("Nothing is served on this topic.", "平台不处理该主题。"),
        ("Compare it with the table of topics; check for a misspelt level.", "请对照主题表检查是否有拼写错误。"),
    ),
    Reason.QUOTA_EXCEEDED: Advice(
        DOOR,
        ("More waits for this client than it may.", "该客户端排队的数据超过上限。"),
        ("Wait until the device has taken what was sent, then try again.", "等设备取走已发送的数据后再试。"),
    ),
    Reason.CONNECT_TIMEOUT: Advice(
        DOOR,
        ("A connection sent no CONNECT in time.", "连接未在规定时间内发送 CONNECT。"),
        ("Many from one address are a scan or a flood: block it at the firewall.", "同一地址大量出现属于扫描或攻击，请在防火墙上拦截。"),
    ),
    Reason.KEEPALIVE_TIMEOUT: Advice(
        DOOR,
        ("Nothing was heard from the device for one and a half of its keepalive.", "超过 1.5 倍保活时间未收到设备数据。"),
        ("The device lost power or network; it reconnects by itself.", "设备断电或断网，恢复后会自动重连。"),
    ),
    Reason.SLOW_WRITER: Advice(
        DOOR,
        ("A packet was begun and not completed in time.", "报文只发送了一部分且超时。"),
        ("A very weak link, or an attack that holds connections; look at the address.", "链路极差，或有人占用连接；请查看来源地址。"),
    ),
    Reason.SLOW_READER: Advice(
        DOOR,
        ("The client does not read what it is sent.", "客户端不读取发给它的数据。"),
        ("Restart the device; if it recurs, its network task hangs.", "重启设备；若反复出现，说明其网络任务卡死。"),
    ),
    Reason.TOO_MANY_CONNECTIONS: Advice(
        DOOR,
        ("There are as many connections as are allowed.", "连接数已达上限。"),
        ("Raise HEARTHLINE_MQTT_CONNECTIONS, or find who holds them.", "提高 HEARTHLINE_MQTT_CONNECTIONS，或查明是谁占用连接。"),
    ),
    Reason.TOO_MANY_CONNECTS: Advice(
        DOOR,
        ("A device connects again and again; it is let in ever more slowly.", "设备频繁重连，平台会逐渐放慢对它的接入。"),
        (
            "Two devices with one identity throw each other out: give each its own. Else its firmware reconnects without waiting.",
            "两台设备使用同一身份会互相踢下线，请为每台设备单独设置；否则说明固件重连时没有等待。",
        ),
    ),
    Reason.BAD_JSON: Advice(
        PAYLOAD,
        ("The payload is no JSON.", "负载不是 JSON。"),
        (
            "Look at the payload: cut off, another encoding than UTF-8, or raw bytes on a JSON topic.",
            "查看负载：可能被截断、不是 UTF-8，或把原始字节发到了 JSON 主题。",
        ),
    ),
    Reason.BAD_ENVELOPE: Advice(
        PAYLOAD,
        ("The JSON is no Alink message.", "JSON 不符合 Alink 消息格式。"),
        (
            "It needs `id` and `params` of the right kind; compare it with the protocol.",
            "消息需要正确的 `id` 与 `params`，请对照协议检查。",
        ),
    ),
    Reason.BAD_THING_MODEL: Advice(
        API,
        ("The document is no thing model.", "文档不是合法的物模型。"),
        ("Correct the place that the message names.", "请修正错误信息指出的位置。"),
    ),
    Reason.UNKNOWN_IDENTIFIER: Advice(
        PAYLOAD,
        ("The device reports a property that its product does not have.", "设备上报了产品物模型中没有的属性。"),
        ("Add the property to the thing model, then replay; or discard it.", "在物模型中增加该属性后重放，或丢弃。"),
    ),
    Reason.UNKNOWN_EVENT: Advice(
        PAYLOAD,
        ("The device reports an event that its product does not have.", "设备上报了产品物模型中没有的事件。"),
        ("Add the event to the thing model, then replay; or discard it.", "在物模型中增加该事件后重放，或丢弃。"),
    ),
    Reason.WRONG_TYPE: Advice(
        PAYLOAD,
        ("A value is of another type than the thing model says.", "数值类型与物模型不符。"),
        ("Correct the firmware or the thing model; values are never converted silently.", "请修正固件或物模型；平台不会静默转换数值。"),
    ),
    Reason.OUT_OF_RANGE: Advice(
        PAYLOAD,
        ("A value lies outside its range in the thing model.", "数值超出物模型规定的范围。"),
        ("A sensor fault, a wrong unit or scale, or a range that is too narrow.", "传感器故障、单位或比例错误，或范围定义过窄。"),
    ),
    Reason.INTEGER_TOO_LARGE: Advice(
        PAYLOAD,
        ("A whole number is beyond 2^53 and could not be kept exactly.", "整数超过 2^53，无法精确保存。"),
        ("Send it as a text property.", "请改用文本类型属性上报。"),
    ),
    Reason.BAD_TIME: Advice(
        PAYLOAD,
        ("A time is no time, or more than 24 hours ahead.", "时间不合法，或超前 24 小时以上。"),
        ("Set the device's clock (NTP); then replay or discard.", "校准设备时钟（NTP），然后重放或丢弃。"),
    ),
    Reason.TOO_MANY: Advice(
        PAYLOAD,
        ("A message holds more entries than it may.", "消息条目数超过上限。"),
        ("Split it: at most 200 properties a message.", "请拆分，每条消息最多 200 个属性。"),
    ),
    Reason.TOO_MANY_EVENTS: Advice(
        PAYLOAD,
        ("A pack holds more events than it may.", "打包消息中的事件数超过上限。"),
        ("Split it: at most 20 events a pack.", "请拆分，每个打包消息最多 20 个事件。"),
    ),
    Reason.TOO_MANY_DEVICES: Advice(
        PAYLOAD,
        ("A gateway's message names more sub-devices than it may.", "网关消息中的子设备数超过上限。"),
        (
            "Split it: at most 5 devices a login or topology change, 20 a pack, 200 a list.",
            "请拆分：登录和拓扑变更每次最多 5 个设备，打包最多 20 个，列表最多 200 个。",
        ),
    ),
    Reason.TOO_MANY_DESIRED: Advice(
        PAYLOAD,
        ("A device asks for more desired values than it may.", "设备一次请求的期望值过多。"),
        ("Split it: at most 200 identifiers a message.", "请拆分，每条消息最多 200 个标识符。"),
    ),
    Reason.MISSING_PARAMETER: Advice(
        PAYLOAD,
        ("A request lacks a parameter that it needs.", "请求缺少必需的参数。"),
        ("The detail names the parameter; correct the firmware, or update its SDK.", "详情中给出参数名；请修正固件或更新其 SDK。"),
    ),
    Reason.NO_RAW_TABLE: Advice(
        PAYLOAD,
        ("The device sent raw bytes, and its product has no decoding table.", "设备上报了透传数据，但产品没有解析表。"),
        (
            "Give the product a decoding table, then replay the entries: what was sent is kept.",
            "为产品配置解析表，然后重放这些条目：已上报的数据会保留。",
        ),
    ),
    Reason.BAD_RAW: Advice(
        PAYLOAD,
        ("Raw bytes do not fit the product's decoding table.", "透传数据与产品的解析表不符。"),
        (
            "Compare the bytes with the table: the detail names the field; correct the table or the firmware, then replay.",
            "对照解析表检查数据：详情中给出字段；修正解析表或固件后重放。",
        ),
    ),
    Reason.NOT_ALLOWED: Advice(
        API,
        ("A device cannot do this in the state that it is in.", "设备在当前状态下不允许此操作。"),
        ("The detail lists what is possible; enable a disabled device first.", "详情中列出可行的操作；已禁用的设备请先启用。"),
    ),
    Reason.NOT_WRITABLE: Advice(
        API,
        ("A property that is read only was to be set.", "试图设置只读属性。"),
        ("Set another one, or make it writable in the thing model.", "请设置其他属性，或在物模型中改为可写。"),
    ),
    Reason.BAD_FRAME: Advice(
        FRAME,
        ("A gateway's frame does not decode.", "网关数据帧无法解码。"),
        (
            "It counts as received and leaves a gap. Update the gateway; look at its disk if it recurs.",
            "该帧视为已接收并记录缺口。请升级网关；若反复出现请检查磁盘。",
        ),
    ),
    Reason.BAD_CHECKSUM: Advice(
        FRAME,
        ("A frame arrived damaged; the gateway sends it again.", "数据帧在传输中损坏，网关会重新发送。"),
        ("Nothing to do once; if it recurs, look at the gateway's memory and disk.", "偶发无需处理；若反复出现请检查网关的内存和磁盘。"),
    ),
    Reason.FOREIGN_DEVICE: Advice(
        FRAME,
        ("A gateway reports a device that is not bound to its site.", "网关上报了不属于其位置的设备。"),
        (
            "Bind the device to the gateway's site, then replay; if you do not know the gateway, disable it.",
            "将设备绑定到该网关所在位置后重放；若不认识该网关，请禁用它。",
        ),
    ),
    Reason.UNKNOWN_DEVICE: Advice(
        FRAME,
        ("The device does not exist any more.", "设备已不存在。"),
        ("Enter it again and replay, or discard.", "重新录入后重放，或丢弃。"),
    ),
    Reason.UNKNOWN_PRODUCT: Advice(
        PAYLOAD,
        ("The product does not exist any more.", "产品已不存在。"),
        ("Discard it, or enter the product again.", "丢弃，或重新录入产品。"),
    ),
    Reason.BAD_REGISTER: Advice(
        BUS,
        ("Registers do not hold what the configuration says.", "寄存器内容与配置不符。"),
        ("Compare address, type and word order with the machine's manual.", "请对照设备手册检查地址、类型和字序。"),
    ),
    Reason.BAD_CONFIGURATION: Advice(
        FILE,
        ("A setting is missing or wrong.", "配置缺失或有误。"),
        (
            "Correct the key that the message names; `edgectl config check` tries it.",
            "请修正错误信息指出的键；可用 `edgectl config check` 检查。",
        ),
    ),
    Reason.BAD_MODEL: Advice(
        FILE,
        ("The file is no model that a gateway can run.", "文件不是网关可运行的模型。"),
        ("Copy it again, or train it again with `hearthline train`.", "请重新复制，或用 `hearthline train` 重新训练。"),
    ),
    Reason.BAD_TRAINING_DATA: Advice(
        FILE,
        ("Nothing can be learnt from these readings.", "无法用这些数据训练模型。"),
        ("Do what the message says: more rows, other signals, sorted times.", "按错误信息处理：更多行、其他信号或按时间排序。"),
    ),
    Reason.UNEXPECTED_ERROR: Advice(
        PAYLOAD,
        ("The platform tripped over this message: a fault of ours.", "平台处理该消息时出错，这是平台的缺陷。"),
        ("Report it with the detail; after an update, replay it.", "请连同详情一起报告；升级后重放。"),
    ),
    Reason.POISON: Advice(
        PAYLOAD,
        ("The platform's process died of this message, again and again: a fault of ours.", "平台进程多次因该消息崩溃，这是平台的缺陷。"),
        ("Report it with its payload; after an update, replay it.", "请连同消息内容一起报告；升级后重放。"),
    ),
}
