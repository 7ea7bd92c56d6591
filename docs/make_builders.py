"""Write docs/builders.md, the reference of all builders, from their records: python docs/make_builders.py."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from panmodal.embeddings.builders import Option, builders


def kind(value: Any) -> str:
    """Say what values an option takes."""
    if get_origin(value) is Literal:
        return ", ".join(f"`{v}`" for v in get_args(value))
    parts = [p for p in get_args(value) if p not in (NoneType, Ellipsis)]
    if get_origin(value) is tuple:
        return f"{kind(parts[0])} (repeat)"
    if parts:
        return kind(parts[0])
    return {int: "whole number", float: "number", bool: "yes or no", str: "text", Path: "file"}[value]


def default(option: Option) -> str:
    """Say what an option is unless given."""
    if option.required:
        return "needed"
    value = option.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def reference() -> str:
    """Return the page."""
    lines = [
        "# Builders of embeddings",
        "",
        "Written by `docs/make_builders.py` from the records of the builders; `panmodal embed NAME --help` says the same.",
        "Every builder also takes `--ids` (whose perturbations), `--out`, `--report` and the fields of the card (`--name`,",
        "`--licence`, `--trained-on`, ...): see [embeddings.md](embeddings.md).",
    ]  # fmt: skip
    modality = None
    for record in builders().values():
        if record.modality != modality:
            modality = record.modality
            lines += ["", f"## {modality[0].upper()}{modality[1:]}"]
        needs = f" Needs `pip install 'panmodal[{record.extra}]'`." if record.extra else ""
        cite = f" {record.citation.rstrip('.')}." if record.citation else ""
        lines += [
            "",
            f"### `{record.name}`",
            "",
            f"{record.description[0].upper()}{record.description[1:]}.{needs}{cite}",
        ]
        lines += ["", "| option | what | values | unless given |", "|---|---|---|---|"]
        for option in record.options.values():
            text = option.help.replace("|", "\\|")
            lines.append(f"| `--{option.name.replace('_', '-')}` | {text} | {kind(option.kind)} | {default(option)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(__file__).with_name("builders.md")
    target.write_text(reference(), encoding="utf-8")
    print(f"Wrote {target}")
