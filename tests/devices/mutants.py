"""Modules that use streams, each with one wait, record, ``with`` or kept reference less.

Found in the source by shape, so that a new one is changed too the day it is written.
"""

from __future__ import annotations

import ast
import copy
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class NeverRecorded:
    """CUDA's event before any ``record``: whoever waits for it waits for nothing."""

    clock: ClassVar[dict[str, int]] = {}
    done = True
    at = 0

    def synchronize(self) -> None:
        pass


class Mutant:
    """A module with one thing taken out; ``node`` is the copy of ``original``."""

    def __init__(self, what: str, source: ast.Module, original: ast.AST) -> None:
        self.what = what
        self.tree = copy.deepcopy(source)
        pairs = zip(ast.walk(source), ast.walk(self.tree), strict=True)
        self.node: Any = next(twin for node, twin in pairs if node is original)

    def block(self) -> list[ast.stmt]:
        """The statements that ``node`` is one of."""
        for node in ast.walk(self.tree):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if isinstance(block, list) and self.node in block:
                    return block
        raise AssertionError(self.what)

    def module(self) -> types.ModuleType:
        module = types.ModuleType("mutant")
        # Where dataclasses look their module up.
        sys.modules[module.__name__] = module
        module.NeverRecorded = NeverRecorded
        try:
            exec(compile(ast.fix_missing_locations(self.tree), "mutant", "exec"), module.__dict__)
        finally:
            del sys.modules[module.__name__]
        return module


def mutants(path: str) -> Iterator[Mutant]:
    """One for every wait, synchronize, record, ``with`` and ``del`` in a source file."""
    source = ast.parse(Path(path).read_text())
    for node in ast.walk(source):
        match node:
            case ast.Expr(ast.Call(ast.Attribute(attr="wait" | "synchronize" as verb))):
                yield without_statement(f"{verb} at line {node.lineno} removed", source, node)
            case ast.Assign([ast.Attribute(attr="_ready")], ast.Name()):
                yield without_statement(f"event at line {node.lineno} forgotten", source, node)
            case ast.With(body=body):
                yield without_with(source, node)
                for statement in body:
                    if is_record(getattr(statement, "value", None)):
                        yield never_recorded(source, statement)
                        yield recorded_early(source, node, body.index(statement))
            case ast.Delete(targets) if len(targets) > 1:
                block = Mutant("", source, node).block()
                # A del that no wait stands before lets go of nothing that a stream may still read.
                if any("synchronize" in ast.unparse(one) for one in block):
                    for index in range(len(targets)):
                        yield let_go_early(source, node, index)


def is_record(value: ast.expr | None) -> bool:
    match value:
        case ast.Call(ast.Attribute(attr="record")):
            return True
    return False


def without_statement(what: str, source: ast.Module, node: ast.stmt) -> Mutant:
    mutant = Mutant(what, source, node)
    mutant.node.value = ast.Constant(None)
    return mutant


def without_with(source: ast.Module, node: ast.With) -> Mutant:
    """The same body on the default stream."""
    mutant = Mutant(f"with at line {node.lineno} removed", source, node)
    (item,) = mutant.node.items
    named = [] if item.optional_vars is None else [item.optional_vars]
    block, at = mutant.block(), mutant.block().index(mutant.node)
    block[at : at + 1] = [*(ast.Assign([name], item.context_expr) for name in named)]
    block[at + len(named) : at + len(named)] = mutant.node.body
    return mutant


def never_recorded(source: ast.Module, statement: ast.stmt) -> Mutant:
    mutant = Mutant(f"record at line {statement.lineno} removed", source, statement)
    mutant.node.value = ast.parse("NeverRecorded()", mode="eval").body
    return mutant


def recorded_early(source: ast.Module, node: ast.With, index: int) -> Mutant:
    """The event in front of the work."""
    mutant = Mutant(f"record at line {node.body[index].lineno} too early", source, node)
    body = mutant.node.body
    early = ast.Assign([ast.Name("early", ast.Store())], body[index].value)
    body[index].value = ast.Name("early", ast.Load())
    body.insert(0, early)
    return mutant


def let_go_early(source: ast.Module, node: ast.Delete, index: int) -> Mutant:
    """One of the kept names let go in front of the wait, instead of behind it."""
    name = node.targets[index].id
    mutant = Mutant(f"{name} let go before the wait", source, node)
    del mutant.node.targets[index]
    block = mutant.block()
    wait = next(at for at, one in enumerate(block) if "synchronize" in ast.unparse(one))
    block.insert(wait, ast.parse(f"del {name}").body[0])
    return mutant
