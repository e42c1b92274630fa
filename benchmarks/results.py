"""Results on disk: one JSON file a question, with what it was measured on. The Markdown and the
plots are made of these alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.answer import Answer

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Result:
    """``took_s``: how long the measurement took."""

    question: str
    title: str
    provenance: dict[str, Any]
    took_s: float
    answer: Answer


def store(result: Result, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.question}.json"
    content = {
        "question": result.question,
        "title": result.title,
        "provenance": result.provenance,
        "took_s": round(result.took_s, 1),
        "answer": _rounded(result.answer.to_json()),
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def load(folder: Path, order: list[str]) -> list[Result]:
    """What is stored, in ``order``; a question that was never asked is left out."""
    found = []
    for name in order:
        path = folder / f"{name}.json"
        if path.is_file():
            stored = json.loads(path.read_text())
            found.append(Result(**{**stored, "answer": Answer.from_json(stored["answer"])}))
    return found


def _rounded(value: Any) -> Any:
    """Six digits: more would only make the files differ."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
