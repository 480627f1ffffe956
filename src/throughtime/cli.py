"""The command line: it parses, calls a command, and turns errors into exit codes.

Nothing heavy is loaded before a command needs it, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

USAGE = """\
throughtime: recurrent neural networks written as equations

  throughtime train lm [FILE|FOLDER ...]   train a language model; with no file, on Python's own library
  throughtime sample RUN                   write text with it
  throughtime eval RUN FILE ...            measure it on text
  throughtime bench [TABLE ...]            measure the layers' speed on this machine
  throughtime inspect RUN TEXT flow        draw how its error flows back; also states, gates, weights, ...
  throughtime formulas CELL                a cell's equations; --backward: the error recursions derived from them
  throughtime source CELL                  the text of its kernel

Each command explains its options with --help.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 failure, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # Text is UTF-8 inside; a terminal that cannot show a character shows a question mark.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # Threads of torch's that wait asleep instead of spinning: next to another process that is twice as fast or more.
    if words[:1] != ["bench"]:  # torch is to be measured as it is
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if words else 2
    command = _find_command(words)
    if command is None:
        print(f"throughtime: no command {' '.join(words[:2])!r}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    return _guarded(command)


def _find_command(words: list[str]) -> Callable[[], None] | None:
    match words:
        case ["train", "lm", *rest]:
            return lambda: _train_lm(rest)
        case ["sample", *rest]:
            return lambda: _sample(rest)
        case ["eval", *rest]:
            return lambda: _evaluate(rest)
        case ["bench", *rest]:
            return lambda: _bench(rest)
        case ["inspect", *rest]:
            return lambda: _inspect(rest)
        case ["formulas", *rest]:
            return lambda: _formulas(rest)
        case ["source", *rest]:
            return lambda: _source(rest)
    return None


def _train_lm(words: list[str]) -> None:
    import tyro

    from throughtime.tasks.lm.settings import TrainSettings

    def parse(default: TrainSettings) -> TrainSettings:
        return tyro.cli(TrainSettings, args=words, prog="throughtime train lm", default=default)

    settings = parse(TrainSettings())
    from throughtime.tasks.lm.commands import train

    train(settings, parse)


def _sample(words: list[str]) -> None:
    import tyro

    from throughtime.tasks.lm.settings import SampleSettings

    settings = tyro.cli(SampleSettings, args=words, prog="throughtime sample")
    from throughtime.tasks.lm.commands import sample

    sample(settings)


def _evaluate(words: list[str]) -> None:
    import tyro

    from throughtime.tasks.lm.settings import EvalSettings

    settings = tyro.cli(EvalSettings, args=words, prog="throughtime eval")
    from throughtime.tasks.lm.commands import evaluate

    evaluate(settings)


def _bench(words: list[str]) -> None:
    import tyro

    from throughtime.bench.settings import BenchSettings

    settings = tyro.cli(BenchSettings, args=words, prog="throughtime bench")
    from throughtime.bench.commands import run

    run(settings)


def _inspect(words: list[str]) -> None:
    import tyro

    from throughtime.tasks.lm.settings import InspectSettings

    settings = tyro.cli(InspectSettings, args=words, prog="throughtime inspect")
    from throughtime.tasks.lm.inspection import inspect_run

    inspect_run(settings)


def _formulas(words: list[str]) -> None:
    import tyro

    from throughtime.tasks.cell.settings import FormulasSettings

    settings = tyro.cli(FormulasSettings, args=words, prog="throughtime formulas")
    from throughtime.tasks.cell.commands import formulas

    formulas(settings)


def _source(words: list[str]) -> None:
    import tyro

    from throughtime.tasks.cell.settings import SourceSettings

    settings = tyro.cli(SourceSettings, args=words, prog="throughtime source")
    from throughtime.tasks.cell.commands import source

    source(settings)


def _guarded(command: Callable[[], None]) -> int:
    from throughtime.tasks.errors import CommandError

    try:
        command()
        sys.stdout.flush()
    except CommandError as error:
        print(f"throughtime: {error}", file=sys.stderr)
        return error.exit_code
    except (RuntimeError, ValueError) as error:
        if not _explained(error):
            raise
        print(f"throughtime: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("throughtime: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to say, and nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _explained(error: Exception) -> bool:
    """Whether the library has already said in its message what to do."""
    from throughtime.tasks.errors import library_errors

    return isinstance(error, library_errors())


if __name__ == "__main__":
    sys.exit(main())
