"""Everything the console says, in English and Simplified Chinese. One row a text; a test keeps both columns full."""

import enum
from typing import Final

from protocols.edgelink.lanes import GapReason


class Language(enum.StrEnum):
    EN = "en"
    ZH = "zh"

    @property
    def tag(self) -> str:
        """For the page's `lang`."""
        return "zh-CN" if self is Language.ZH else "en"


TEXTS: Final[dict[str, tuple[str, str]]] = {
    "title": ("Hearthline console", "Hearthline 控制台"),
    "tagline": ("From the line to the hearth", "从产线到灶台"),
    # sign-in
    "sign_in": ("Sign in", "登录"),
    "sign_out": ("Sign out", "退出"),
    "key": ("API key", "API 密钥"),
    "key_hint": (
        "The admin key was printed when the platform first started. Make another with: hearthline tenant key default",
        "平台首次启动时会显示管理员密钥。也可以用命令新建一个：hearthline tenant key default",
    ),
    "key_wrong": (
        "This key is not known, or it was revoked. Check that it was copied whole: it begins with hl_.",
        "密钥不存在或已被吊销。请确认完整复制了以 hl_ 开头的密钥。",
    ),
    "session_over": ("You were signed out: sign in again.", "登录已失效，请重新登录。"),
    # header
    "language": ("中文", "English"),  # names the other one
    "theme_auto": ("System colours", "跟随系统"),
    "theme_light": ("Light", "浅色"),
    "theme_dark": ("Dark", "深色"),
    "api_docs": ("API", "API 文档"),
    # the platform at a glance
    "readings_s": ("Readings a second", "每秒读数"),
    "lag": ("Ingest lag", "接入延迟"),
    "lag_hint": ("age of the newest message when it was stored", "最新消息入库时的时延"),
    "online": ("Devices online", "在线设备"),
    "quarantine": ("In quarantine", "隔离区"),
    "platform_ready": ("All parts are ready", "各组件运行正常"),
    "platform_not_ready": ("Not ready: {parts}", "未就绪：{parts}"),
    "platform_only": ("of the whole platform", "全平台"),
    "idle": ("nothing comes in", "暂无数据"),
    # devices
    "devices": ("Devices", "设备"),
    "search": ("Search by name, product or site", "按名称、产品或位置搜索"),
    "device": ("Device", "设备"),
    "product": ("Product", "产品"),
    "site": ("Site", "位置"),
    "state": ("State", "状态"),
    "since": ("Since", "起始时间"),
    "newest": ("Newest value", "最新数据"),
    "state_online": ("online", "在线"),
    "state_offline": ("offline", "离线"),
    "state_never": ("never seen", "从未上线"),
    "state_disabled": ("disabled", "已禁用"),
    "previous": ("Previous", "上一页"),
    "next": ("Next", "下一页"),
    "page_of": ("{first} to {last} of {total}", "第 {first}–{last} 台，共 {total} 台"),
    "no_devices": (
        "No devices yet. Enter a product with its thing model, then a device; what it sends appears here by itself:",
        "还没有设备。先录入产品及其物模型，再录入设备；设备上报的数据会自动显示在这里：",
    ),
    "no_match": ("No device fits “{text}”.", "没有匹配“{text}”的设备。"),
    # quarantine
    "quarantine_newest": ("Newest in quarantine", "最新隔离记录"),
    "quarantine_empty": ("Nothing was refused.", "没有被拒收的数据。"),
    "quarantine_how": ("Look closer, replay or discard with: hearthline quarantine", "查看、重放或丢弃：hearthline quarantine"),
    "reason": ("Reason", "原因"),
    "detail": ("What was wrong", "详情"),
    "received": ("Received", "接收时间"),
    # one device
    "back": ("All devices", "全部设备"),
    "range": ("Range", "时间范围"),
    "range_5m": ("5 minutes", "5 分钟"),
    "range_15m": ("15 minutes", "15 分钟"),
    "range_1h": ("1 hour", "1 小时"),
    "range_6h": ("6 hours", "6 小时"),
    "range_24h": ("24 hours", "24 小时"),
    "range_7d": ("7 days", "7 天"),
    "properties": ("Properties", "属性"),
    "property": ("Property", "属性"),
    "value": ("Value", "数值"),
    "time": ("Time", "时间"),
    "local_time": ("Times are those of your browser's time zone.", "时间按浏览器所在时区显示。"),
    "charts": ("Charts", "图表"),
    "shown": ("Properties shown", "显示的属性"),
    "average": ("average", "平均值"),
    "band": ("lowest to highest", "最小值至最大值"),
    "gap": ("Gap", "数据缺口"),
    "anomaly": ("Anomaly", "异常"),
    "no_values": ("This device has not reported anything yet.", "该设备尚未上报数据。"),
    "no_device": ("There is no such device in your tenant.", "您的租户中没有该设备。"),
    "through": ("through {gateway}", "经由 {gateway}"),
}

RANGES: Final = {"5m": 5 * 60, "15m": 15 * 60, "1h": 3_600, "6h": 6 * 3_600, "24h": 86_400, "7d": 7 * 86_400}
"""Ranges a chart can show, in seconds."""


def text(language: Language, name: str, **values: object) -> str:
    """A text in this language; raises KeyError for a name that does not exist.

    >>> text(Language.EN, "through", gateway="gw1")
    'through gw1'
    """
    pair = TEXTS[name]
    return pair[language is Language.ZH].format(**values)


def gap_text(language: Language, reason: str) -> str:
    """A gap's reason for people; one that this version does not know is shown as it is."""
    try:
        known = GapReason(reason)
    except ValueError:
        return reason
    return known.chinese if language is Language.ZH else known.english


def preferred(accept_language: str | None) -> Language:
    """The language of an Accept-Language header: whichever of ours has the greater weight there, English without one.

    >>> preferred("de, zh-CN;q=0.9, en;q=0.8")
    <Language.ZH: 'zh'>
    """
    best, weight = Language.EN, 0.0
    for part in (accept_language or "")[:512].split(","):
        tag, _, quality = part.strip().partition(";q=")
        try:
            wanted = float(quality) if quality else 1.0
        except ValueError:
            continue
        name = tag.split("-")[0].lower()
        if name in (Language.EN, Language.ZH) and wanted > weight:
            best, weight = Language(name), wanted
    return best
