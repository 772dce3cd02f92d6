"""The commands, and the order in which ``--help`` lists them."""

from __future__ import annotations

import typer

from .generate import generate

app = typer.Typer(
    name="fastvideo",
    help="Generate videos with diffusion transformers on one or many GPUs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(generate)


@app.callback()
def _root() -> None:
    """Keeps a command a command by name, however few there are."""
