"""A TOML file taken key by key: every error names the key and says what is allowed. What the keys mean stands in settings."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protocols.errors import Reason, Refused

PREFIX = "HEARTHLINE_EDGE_"
NAME_LIMIT = 64


def refuse(key: str, problem: str) -> Refused:
    """The error of one key."""
    return Refused(Reason.BAD_CONFIGURATION, f"{key}: {problem}")


_REQUIRED: Any = object()


class Section:
    """One table of the file: takes its keys one by one and refuses what is left over."""

    def __init__(self, table: object, key: str, environ: Mapping[str, str] | None = None) -> None:
        if not isinstance(table, dict):
            raise refuse(key, f"must be a table, not {table!r}")
        self._left: dict[str, Any] = dict(table)
        self._known: list[str] = []
        self._key = key
        self._environ = environ or {}

    def key(self, name: str) -> str:
        return f"{self._key}.{name}" if self._key else name

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        self._known.append(name)
        variable = PREFIX + self.key(name).replace(".", "_").upper()
        value = self._left.pop(name, None)
        if variable in self._environ:
            return self._environ[variable]
        if value is None:
            if default is _REQUIRED:
                raise refuse(self.key(name), "is missing")
            return default
        return value

    def text(self, name: str, default: Any = _REQUIRED, *, limit: int = 4096) -> str:
        value = self.take(name, default)
        if not isinstance(value, str) or not 0 < len(value) <= limit:
            raise refuse(self.key(name), f"must be a text of 1 to {limit} characters, not {value!r}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.take(name)
        if not isinstance(value, list) or not value or not all(isinstance(entry, str) and entry for entry in value):
            raise refuse(self.key(name), f"must be a list of texts, not {value!r}")
        if len(set(value)) != len(value):
            raise refuse(self.key(name), "names something twice")
        return tuple(value)

    def optional(self, name: str) -> str | None:
        value = self.take(name, None)
        if value is not None and (not isinstance(value, str) or not value):
            raise refuse(self.key(name), f"must be a text, not {value!r}")
        return value

    def identity(self, name: str) -> str:
        """A product key or device name: what fits one level of a topic."""
        value = self.text(name, limit=NAME_LIMIT)
        if any(letter in "/+#&|" or letter.isspace() or not letter.isprintable() for letter in value):
            raise refuse(self.key(name), f"may hold no space, '/', '+', '#', '&' or '|': {value!r}")
        return value

    def integer(self, name: str, default: Any = _REQUIRED, *, low: int, high: int) -> int:
        value = self.take(name, default)
        if isinstance(value, str) and value.lstrip("-").isdigit():
            value = int(value)  # from the environment
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise refuse(self.key(name), f"must be a whole number from {low} to {high}, not {value!r}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.take(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value or abs(value) == float("inf"):
            raise refuse(self.key(name), f"must be a finite number, not {value!r}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if isinstance(value, str) and value.lower() in ("true", "false"):  # from the environment
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise refuse(self.key(name), f"must be true or false, not {value!r}")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: Any = _REQUIRED) -> Any:
        value = self.take(name, default)
        if value not in allowed:
            raise refuse(self.key(name), f"must be one of {', '.join(allowed)}, not {value!r}")
        return value

    def tables(self, name: str) -> list["Section"]:
        value = self.take(name, [])
        if not isinstance(value, list):
            raise refuse(self.key(name), f"must be a list of tables: write [[{self.key(name)}]]")
        return [Section(table, f"{self.key(name)}[{index}]") for index, table in enumerate(value)]

    def table(self, name: str) -> "Section":
        """A table below this one; left out, it is empty."""
        self._known.append(name)
        return Section(self._left.pop(name, {}), self.key(name), self._environ)

    def finish(self) -> None:
        if self._left:
            unknown = sorted(self._left)[0]
            raise refuse(self.key(unknown), f"is no key of this file; here are allowed: {', '.join(sorted(self._known))}")


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise refuse(str(path), "does not exist; `edgectl init` writes one") from None
    except OSError as problem:
        raise refuse(str(path), f"cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise refuse(str(path), f"is not UTF-8: {problem.reason} at byte {problem.start}") from problem
    except tomllib.TOMLDecodeError as problem:
        raise refuse(str(path), f"is not TOML: {problem}") from problem


def read_private(path: Path, key: str) -> str:
    """The text of a file of secrets; raises Refused when it is missing or others may read it."""
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise refuse(key, f"{path} may be read by others (mode {mode:04o}); run: chmod 600 {path}")
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise refuse(key, f"{path} cannot be read: {problem.strerror}") from problem
