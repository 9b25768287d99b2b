"""``mgcface models``: what is there, what each model allows, install more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.commands import console
from backend.commands.console import Interrupt
from backend.commands.progress import fraction_bar


def run_list(json_output: bool) -> int:
    from backend.face_model.commands import models_table

    rows = models_table()
    if json_output:
        console.print_json({"models": rows})
        return console.EXIT_DONE
    table = console.make_table("model", "installed", "licence", "sell output", "what it is and where it comes from")
    for row in rows:
        state = "damaged" if row["problem"] and row["path"] else "yes" if row["installed"] else "no"
        about = row["problem"] or f"{row['terms']} ({row['source']})"
        table.add_row(row["name"], state, row["licence"], "yes" if row["commercial"] else "no", about)
    console.show(table)
    return console.EXIT_DONE


def run_info(name: str, json_output: bool) -> int:
    from backend.face_model.commands import model_details

    details = model_details(name)
    if json_output:
        console.print_json(details)
        return console.EXIT_DONE
    table = console.make_table("", "", header=False)
    for key, value in details.items():
        if key != "extra":
            table.add_row(key.replace("_", " "), as_text(value))
    console.show(table)
    return console.EXIT_DONE


def as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(as_text(each) for each in value)
    return str(value)


def run_install(name: str, source: Path | None, quiet: bool, interrupt: Interrupt) -> int:
    """Install and say what the model allows, before anybody builds on it."""
    from backend.face_model.commands import install

    with fraction_bar(name, quiet) as show:
        row = install(name, source, progress=show, cancel=interrupt.heard)
    if not quiet:
        console.say(f"{row['name']} {row['version']} is installed at {row['path']}")
        console.say(f"Licence {row['licence']}: {row['terms']}")
    return console.EXIT_DONE
