"""`throughtime formulas` and `throughtime source`."""

from __future__ import annotations

from pathlib import Path

from throughtime.tasks.cell.settings import FormulasSettings, SourceSettings
from throughtime.tasks.errors import Failure, UsageError


def formulas(settings: FormulasSettings) -> None:
    """Text or LaTeX to the standard output, or a picture to a file."""
    if settings.text + settings.latex + (settings.png is not None) > 1:
        raise UsageError("formulas: give one of --text, --latex and --png FILE")
    from throughtime.fonts import FontMissing
    from throughtime.tasks.cell.choice import choose_cell
    from throughtime.typeset import formulas as formulas_of

    cell = choose_cell(settings.cell, "")
    found = formulas_of(
        cell,
        backward=settings.backward,
        notation=settings.notation,
        lang=settings.lang,
        training=settings.training,
    )
    if settings.png is not None:
        from throughtime.tasks.files import write_atomic

        try:
            content = found.png()
        except FontMissing as error:
            raise Failure(str(error)) from error
        write_atomic(Path(settings.png), content)
        print(settings.png)
    else:
        print(found.latex if settings.latex else found, end="")


def source(settings: SourceSettings) -> None:
    """The kernel's text to the standard output."""
    from throughtime.codegen.source import kernel_source
    from throughtime.nn.derived import Derived
    from throughtime.tasks.cell.choice import choose_cell

    program = Derived(choose_cell(settings.cell, ""), bias=True, num_layers=1).programs[False]
    recurrence = program.backward.recurrence if settings.backward else program.forward(keep=False)
    print(kernel_source(recurrence, settings.dtype), end="")
