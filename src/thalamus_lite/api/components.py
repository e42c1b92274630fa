"""The models' own JSON Schemas as components of an OpenAPI document.

Client generators know a component by its name, and call its class by it or by its title. So
definitions inside a component become components of their own, and no two components share a name
or a title, as generators read them. Some take a dot in a name for a folder.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

REF = "#/components/schemas/"

_DEFINITIONS = "#/$defs/"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


class Components:
    """``schemas`` are by name, those it was made with first: these keep their names and titles."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self.schemas = dict(schemas)
        self._added: list[str] = []
        self._words = {_word(name) for name in schemas}

    def add(self, wanted: str, schema: dict[str, Any]) -> str:
        """Take a schema in, and its definitions; the reference to it."""
        definitions: dict[str, Any] = schema.get("$defs", {})
        itself = {key: value for key, value in schema.items() if key != "$defs"}
        own = self._name(wanted)
        names: dict[str, str] = {}
        for key in definitions:
            # A type that holds its own kind is a definition, and refers to it: one component.
            same = itself == {"$ref": _DEFINITIONS + key}
            names[key] = own if same else self._name(f"{wanted}-{key}")
        parts = {names[key]: part for key, part in definitions.items()}
        parts.setdefault(own, itself)
        self.schemas.update({name: _moved(part, names) for name, part in parts.items()})
        return REF + own

    def tell_apart(self) -> None:
        """Make titles unique: one that is shared gives way to the component's name."""
        words = {name: _word(_title(name, schema)) for name, schema in self.schemas.items()}
        count = Counter(words.values())
        taken = set(words.values())
        for name in self._added:
            if count[words[name]] == 1:
                continue
            title, number = name, 1
            while _word(title) in taken:
                number += 1
                title = f"{name} {number}"
            taken.add(_word(title))
            self.schemas[name] = {**self.schemas[name], "title": title}

    def _name(self, wanted: str) -> str:
        """One that is free, and legal: characters that no component's name may have, such as ``+``
        and ``!`` of a version, as numbers.
        """
        dotless = wanted.replace(".", "_")
        legal = _NOT_IN_NAMES.sub(lambda match: f"_{ord(match[0]):x}_", dotless)
        name, number = legal, 1
        while _word(name) in self._words:
            number += 1
            name = f"{legal}-{number}"
        self._words.add(_word(name))
        self.schemas[name] = {}
        self._added.append(name)
        return name


def _moved(node: Any, names: dict[str, str], key: str = "") -> Any:
    """The same with its references to definitions pointing at their components."""
    if isinstance(node, dict):
        # A discriminator's mapping refers to definitions too.
        return {name: _moved(value, names, "$ref" if key == "mapping" else name)
                for name, value in node.items()}  # fmt: skip
    if isinstance(node, list):
        return [_moved(item, names) for item in node]
    if key == "$ref" and isinstance(node, str) and node.startswith(_DEFINITIONS):
        definition, slash, below = node.removeprefix(_DEFINITIONS).partition("/")
        return REF + names.get(definition, definition) + slash + below
    return node


def _title(name: str, schema: Any) -> str:
    return str(schema.get("title", name)) if isinstance(schema, dict) else name


def _word(title: str) -> str:
    """What generators make of a title for the name of a class, more or less: of ``tree-1_10`` and
    ``tree-11_0`` the same.
    """
    return "".join(filter(str.isalnum, title.casefold()))
