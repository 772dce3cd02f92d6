"""Write passes.md, backends.md, ops.md and families.md from the registries.

python docs/generate.py          write them beside this file
python docs/generate.py --check  write nothing; exit 1 and name those that are out of date
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import fastvideo_ir as ir
from fastvideo import passes
from fastvideo.backends import attention
from fastvideo.frontends.families import FAMILIES, Family
from fastvideo.passes.pipelines import Target, default_pipeline

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py; do not edit. -->\n"


def passes_page() -> str:
    """All passes of ``passes/``: those of the default pipeline in its order, then the others by name."""
    default = [type(step) for step in default_pipeline(Target())]
    others = sorted((step for step in _all_passes() if step not in default), key=lambda step: step.name)
    lines = [
        "# Passes",
        "",
        NOTE,
        f'`passes="default"` is {", ".join(f"`{step.name}`" for step in default)}, in this order.',
        '`"default,my-pass{k=2},-other-pass"` adds and removes; a list of passes runs as it is given.',
        "An added pass runs at the end of the stage it joins, `CANONICAL` unless it says otherwise.",
    ]
    for step in [*default, *others]:
        lines += ["", f"## {step.name}", "", f"{_purpose(step)} {_text(_summary(step))}", "", _stages(step)]
        meanings = _attributes(step)
        lines += [""] if fields(step) else []  # type: ignore[arg-type]
        for field in fields(step):  # type: ignore[arg-type]
            value = "" if field.default is MISSING or not field.repr else f" = `{_shown(field.default)}`"
            lines.append(f"- `{field.name}`{value}: {_text(meanings.get(field.name, ''))}")
    return "\n".join(lines) + "\n"


def backends_page() -> str:
    """All attention backends, in the order in which ``auto`` asks them."""
    lines = [
        "# Attention backends",
        "",
        NOTE,
        "`auto` takes the first of these that is exact and supports the site, but for the kernels of PyTorch by",
        "themselves. On GPUs it measures all exact ones that support the site, once for sites that differ in batch and",
        "heads alone, and takes the fastest; one whose kernel fails then, or is wrong on the values that it is",
        "measured with, is not taken. Times are kept in the cache directory. One that is named, by",
        "`attention_backend=` or `FASTVIDEO_ATTENTION_BACKEND`, must run every attention; where it cannot, compiling",
        "is an error with the reason. `SLIDING_TILE_ATTN` leaves attentions that have no token grid to the exact ones;",
        "see [sliding-tile.md](sliding-tile.md).",
        "",
        "| name | exact | what it is |",
        "|---|---|---|",
    ]
    for name, backend in attention.backends().items():
        lines.append(f"| `{name}` | {'yes' if backend.exact else 'no'} | {_text(_summary(type(backend)))} |")
    return "\n".join(lines) + "\n"


def ops_page() -> str:
    """All ops, by the file and the rule that they share."""
    rules: dict[str, dict[str, list[str]]] = {}
    for name, op in ir.ops.registry.ops.items():
        if name.startswith(f"{attention.registry.NAMESPACE}."):
            continue  # one per backend; see backends.md
        home = op.rule.__module__.rpartition(".")[2] if op.rule else "without a rule"
        says = _text(_summary(op.rule)) or f"`{op.rule.__name__}`." if op.rule else ""
        rules.setdefault(home, {}).setdefault(says, []).append(_packet(name))
    lines = [
        "# Ops",
        "",
        NOTE,
        "What may be divided over a mesh axis, by the file in `fastvideo_ir/ops/` that says so. A letter is a factor;",
        "a product of factors stands in parentheses. An op that is missing here runs replicated.",
    ]
    for home in sorted(rules, key=lambda name: (name == "without a rule", name)):
        lines += ["", f"## {home}", ""]
        for says, names in rules[home].items():
            ops = ", ".join(f"`{name}`" for name in dict.fromkeys(names))
            lines.append(f"- {says}  \n  {ops}" if says else f"- {ops}")
    return "\n".join(lines) + "\n"


def families_page() -> str:
    """All model families, with the hub ids that they are known under and the defaults of each."""
    lines = [
        "# Model families",
        "",
        NOTE,
        "A pipeline in Diffusers layout, a folder or a hub id, is told apart by its `model_index.json` and configs;",
        "it need not be one of these ids. The defaults of a checkpoint that is not known are the family's first.",
        "Where the flow shift is empty, the scheduler's own config has it. The sources of the defaults stand in",
        "`frontends/families/`. Any other model compiles with `fastvideo.compile`.",
    ]
    for family in FAMILIES:
        lines += ["", f"## {family.name}", "", f"`{family.pipeline_class}`, {_picture(family)}.", ""]
        lines += ["| hub ids | size | frames | fps | steps | guidance | flow shift |", "|---|---|---|---|---|---|---|"]
        for preset in family.presets:
            values = family.defaults_for(preset.ids[0])
            ids = ", ".join(f"`{model_id}`" for model_id in preset.ids)
            scales = [values["guidance_scale"], values.get("guidance_scale_2")]
            guidance = " and ".join(str(scale) for scale in scales if scale is not None)
            size = f"{values['width']} × {values['height']}"
            shown = (ids, size, values["num_frames"], values["fps"], values["num_inference_steps"], guidance)
            lines.append(f"| {' | '.join(str(part) for part in shown)} | {preset.flow_shift or ''} |")
    return "\n".join(lines) + "\n"


def _picture(family: Family) -> str:
    if family.picture is None:
        return "from text"
    return "from text and a picture" if family.picture.required else "from text, or from text and a picture"


PAGES = {"passes.md": passes_page, "backends.md": backends_page, "ops.md": ops_page, "families.md": families_page}


def _all_passes() -> list[type[ir.Pass]]:
    found: dict[type[ir.Pass], None] = {}
    for module_info in pkgutil.walk_packages(passes.__path__, f"{passes.__name__}."):
        module = importlib.import_module(module_info.name)
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, ir.Pass) and value.__module__ == module.__name__:
                found[value] = None
    return [step for step in found if hasattr(step, "name")]


def _purpose(step: type[ir.Pass]) -> str:
    """What the module's first line says behind the pass's name."""
    says = _text(_summary(sys.modules[step.__module__])).removeprefix(f"`{step.name}`: ")
    return says[:1].upper() + says[1:]


def _stages(step: type[ir.Pass]) -> str:
    needs = f"Needs stage `{step.needs.name}`"
    reaches = f", leaves the program at `{step.reaches.name}`" if step.reaches is not None else ""
    numbers = "" if step.preserves_numerics else " Changes results beyond rounding."
    return f"{needs}{reaches}.{numbers}"


def _summary(thing: object) -> str:
    """The first paragraph of a docstring."""
    return re.sub(r"\s+", " ", (inspect.getdoc(thing) or "").split("\n\n")[0]) if thing else ""


def _attributes(step: type) -> dict[str, str]:
    """Meanings of a class's attributes, from its docstring."""
    _, _, section = (inspect.getdoc(step) or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section, re.M)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def _shown(default: object) -> str:
    return f"{type(default).__name__}()" if hasattr(default, "__dataclass_fields__") else str(default)


def _packet(name: str) -> str:
    """``aten.add.Tensor`` without its overload."""
    return ".".join(name.split(".")[:2])


def _text(docstring: str) -> str:
    """Docstring markup to Markdown."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring.replace("``", "`"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the pages that come from the registries.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run: python docs/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
