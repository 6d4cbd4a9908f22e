"""What every evaluation writes: JSON, Markdown tables, and a fingerprint that says which run a file belongs to."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsim.evaluation.bootstrap import Interval
from worldsim.files import atomic_path


def write_text(path: Path, text: str) -> Path:
    """Write `text` aside, then rename: a kill leaves the old file or the new one."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def plain(value: object) -> object:
    """Intervals as objects, what is not a finite number as null: JSON that every reader takes."""
    if isinstance(value, Interval):
        return plain(value._asdict())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def settings_text(settings: Any) -> dict[str, str]:
    """Every field of a settings dataclass as text."""
    return {field.name: str(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def write_json(path: Path, value: object) -> Path:
    """Write `value` (see `plain`) as indented JSON."""
    return write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What `write_rows` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float, digits: int = 2, signed: bool = False) -> str:
    """`value` with so many digits; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def with_interval(interval: Interval, digits: int = 2, signed: bool = False) -> str:
    """`mean [low, high]`."""
    mean, low, high = (number(each, digits, signed) for each in interval)
    return mean if mean == "–" else f"{mean} [{low}, {high}]"


def fingerprint(checkpoint: Path, data: Path, words: str) -> str:
    """16 hex digits that change with the checkpoint's files, the names and sizes of the data, or `words`."""
    digest = hashlib.sha256(words.encode())
    for path in sorted(each for each in checkpoint.rglob("*") if each.is_file()):
        digest.update(str(path.relative_to(checkpoint)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for path in sorted(each for each in data.rglob("*") if each.is_file()):
        digest.update(f"{path.relative_to(data)} {path.stat().st_size}".encode())
    return digest.hexdigest()[:16]
