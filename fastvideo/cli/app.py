"""The commands, and the order in which ``--help`` lists them."""

from __future__ import annotations

import typer

from .bench import bench
from .calibrate import calibrate
from .doctor import doctor
from .generate import generate
from .models import models
from .plan import plan

app = typer.Typer(
    name="fastvideo",
    help="Generate videos with diffusion transformers on one or many GPUs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (generate, calibrate, plan, bench, models, doctor):
    app.command()(command)
