"""What an app answered."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# Not str.splitlines(), which also knows ends of lines that may stand in the data.
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; ``name`` is ``"message"`` unless the app named it."""

    name: str
    data: str

    @classmethod
    def parse(cls, block: str) -> Event:
        """The event of one block of lines, without the blank line that ends it."""
        name, data = "message", []
        for line in _LINE_END.split(block):
            key, _, value = line.partition(":")
            if key == "event":
                name = value.removeprefix(" ")
            elif key == "data":
                data.append(value.removeprefix(" "))
        return cls(name, "\n".join(data))

    def json(self) -> Any:
        return json.loads(self.data)


@dataclass(slots=True)
class Response:
    """A whole answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def status_code(self) -> int:
        """The same as ``status``, by the name that other clients have for it."""
        return self.status

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Event]:
        """The server-sent events of a streamed answer."""
        return [Event.parse(block) for block in self.text.split("\n\n") if block.strip()]
