"""What every live page has: the style, the colours, the head, and the browser at the other end."""

from pathlib import Path
from typing import Final

from nicegui import Client, ui

from cloud.console.render import bar
from cloud.console.session import Taste, Theme

STYLE: Final = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
# Times are written in the browser's own zone, also those that come later.
_TIMES: Final = """<script>
(() => {
  const write = (root) => root.querySelectorAll('time[data-ms]').forEach((element) => {
    const at = new Date(Number(element.dataset.ms)), two = (number) => String(number).padStart(2, '0');
    const shown = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ` +
      `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
    if (element.textContent !== shown) { element.textContent = shown; element.dateTime = at.toISOString(); }
  });
  new MutationObserver(() => write(document)).observe(document.documentElement, {childList: true, subtree: true});
})();
</script>"""


class Tab:
    """`pulse.Browser` over NiceGUI: a question that the page answers when it has worked off what came before."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def visible(self) -> bool:
        return bool(await self._client.run_javascript("return !document.hidden", timeout=10.0))


def begin(taste: Taste, here: str) -> None:
    """Style, colours and head of a page."""
    ui.add_css(STYLE)
    ui.add_head_html(_TIMES)
    ui.add_head_html(f"<script>document.documentElement.lang = {taste.language.tag!r}</script>")
    ui.dark_mode({Theme.AUTO: None, Theme.LIGHT: False, Theme.DARK: True}[taste.theme])
    ui.html(bar(taste, here), sanitize=False).style("width: 100%")


class Piece:
    """A piece of HTML that is sent again only when it has changed."""

    def __init__(self) -> None:
        self._element = ui.html("", sanitize=False).style("width: 100%")

    def show(self, content: str) -> None:
        if self._element.content != content:
            self._element.set_content(content)
