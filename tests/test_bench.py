"""`throughtime bench`: what it accepts, prints, writes and draws; how it times and counts. No test asks how fast."""

from __future__ import annotations

import csv
import itertools
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.bench import busy, cases, commands, contestants, long, machine, report, rivals, settings, timing
from throughtime.bench.contestants import Cost, Point
from throughtime.cli import main
from throughtime.tasks.errors import Failure, UsageError

ROOT = Path(__file__).parents[1]
SMALL = ["--rounds", "1", "--seconds", "0.001", "--threads", "1"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; torch's number of threads stays what it is; probes last a moment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.0004)
    monkeypatch.setattr(timing, "REST_SECONDS", 0.0)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def lines_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


MISTAKES = [
    (["--threads", "0"], "--threads 0: give a number above 0"),
    (["--rounds", "-1"], "--rounds -1: give a number above 0"),
    (["--seconds", "0"], "--seconds 0.0: give a number above 0"),
    (["--minutes", "nan"], "--minutes nan: give a number above 0"),
    (["--resume"], "--resume needs --csv FILE"),
    (["--csv", "nowhere/a.csv"], "nowhere/a.csv: give the name of a file in a folder that exists"),
    (["--png", "."], ".: give the name of a file in a folder that exists"),
    (["--only", "GRU B7"], "no case of layers, inference has all these words; one of them is 'training RNN B1 H64'"),
    (["--csv", "other.csv", "--resume"], "other.csv has no columns 'table' and 'case'"),
    (["--csv", "binary.csv", "--resume"], "binary.csv cannot be read"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=lambda value: str(value)[:40])
def test_every_mistake_is_one_sentence(
    words: list[str], sentence: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "other.csv").write_text("a,b\n1,2\n")
    (place / "binary.csv").write_bytes(b"\xff\xfe\n")
    assert main(["bench", *words]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.startswith("throughtime: ")
    assert told.count("\n") == 1


def test_an_unknown_table_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "speed"])
    assert ended.value.code == 2
    assert "speed" in capsys.readouterr().err


def test_help_names_every_table_and_loads_no_torch() -> None:
    program = (
        "import sys, contextlib\nfrom throughtime.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['bench', '--help'])\n"
        "sys.exit(','.join({'torch', 'numpy', 'matplotlib'} & set(sys.modules)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in commands.HOMES)


def test_tables_of_the_settings_are_those_there_are() -> None:
    assert set(settings.TableName.__args__) == set(commands.HOMES)  # type: ignore[attr-defined]
    for name in set(commands.HOMES) - {"rivals"}:
        names = [case.name for case in commands.load(name).cases]
        assert len(set(names)) == len(names) > 5 or name == "long"


RUNS = {
    "layers": ["RNN B1 H64", "MGU B1 H64"],
    "inference": ["GRU B1 H64"],
    "dtypes": ["bfloat16 training LSTM B1 H64", "float64 inference RNN B1 H64"],
    "cells": ["inference mgu B1 H150"],
    "grid": [
        "RNN T10 B2 H8 L2 both dense",
        "GRU T10 B2 H8 L1 forward lengths",
        "LSTM T10 B2 H8 L1 forward onehot",
    ],
    "lengths": ["inference LSTM T100 B8 H64", "training mgu T100 B8 H64"],
    "stream": ["GRU H150 onehot", "LSTM H64"],
    "busy": ["RNN B1 H150"],
    "subnormals": ["training LSTM B1 H150", "inference GRU B1 H150"],
    "parts": ["GRU B1 H64"],
    "limits": ["RNN B1 H64"],
}
FIGURES = {
    "layers": ("ours ms", "rival ms", "ratio", "GFLOP/s", "of peak", "of roofline"),
    "lengths": ("padded ms", "ragged ms", "of padded time", "of padded steps"),
    "busy": ("ours ms", "slower", "rival ms", "its slower"),
    "subnormals": ("ours ms", "subnormal ms", "slower", "its slower"),
    "limits": ("FLOP of R h", "KiB of R", "to read R µs", "one chain µs", "training ms"),
}


@pytest.mark.parametrize("table", RUNS)
def test_a_small_run_from_end_to_end(table: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [word for case in RUNS[table] for word in ("--only", case)]
    assert main(["bench", table, *words, *SMALL, "--csv", "out.csv", "--png", "out.png"]) == 0
    out, err = capfd.readouterr()
    assert f"## {table}\n" in out
    assert re.search(r", 1 thread; throughtime [\d.]+, torch [\d.]+.*; multiply-add peak \d+ GFLOP/s; one large", out)
    for case in RUNS[table]:
        assert all(word in err for word in case.split())
    rows = lines_of("out.csv")
    assert len(rows) >= len(RUNS[table])
    for row in rows:
        assert row["table"] == table and row["case"] and "torch" in row["machine"]
        for key in FIGURES.get(table, ("ratio",) if "ratio" in row else ()):
            assert float(row[key]) > 0
    assert (place / "out.png").read_bytes().startswith(b"\x89PNG")


def test_several_tables_are_drawn_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--only", "RNN B1 H64", *SMALL, "--csv", "a.csv", "--png", "a.png"]) == 0
    assert sorted(path.name for path in place.iterdir()) == ["a-inference.png", "a-layers.png", "a.csv"]
    assert [row["table"] for row in lines_of("a.csv")] == ["layers", "inference"]
    target = place / "README.md"
    script = ROOT / "bench" / "readme_table.py"
    marks = runpy.run_path(str(script))["MARKS"]
    target.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n", encoding="utf-8")
    subprocess.run([sys.executable, str(script), "a.csv", "README.md"], check=True)
    made = target.read_text(encoding="utf-8")
    assert re.search(r"before\n<!-- .*\n\|  .*B1 H64.*\n\|.*\n\| RNN against nn.RNN \| [\d.]+ / [\d.]+ +\|\n", made)
    assert "old" not in made and made.endswith("after\n")


class Measured:
    """Three cases that measure nothing and remember that they were asked."""

    def __init__(self, interrupted_by: str = "") -> None:
        self.asked: list[str] = []
        self.interrupted_by = interrupted_by

    def table(self) -> cases.Table:
        return cases.Table("Nothing.", lambda: [self.case(name) for name in "abc"], cases.Chart("ratio"))

    def case(self, name: str) -> cases.Case:
        def measure(bench: cases.Bench) -> Sequence[cases.Row]:
            if name == self.interrupted_by:
                raise KeyboardInterrupt
            self.asked.append(name)
            return [{"pass": "none", "cell": name, "point": "here", "ratio": 1.25}]

        return cases.Case(name, measure)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Measured:
    measured = Measured()
    monkeypatch.setattr(commands, "load", lambda name: measured.table())
    return measured


def test_ctrl_c_prints_and_writes_what_is_there(
    fake: Measured, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.interrupted_by = "c"
    assert main(["bench", "layers", "--csv", "a.csv", "--png", "a.png"]) == 130
    out, err = capsys.readouterr()
    assert "| none | a    | here  | 1.25  |" in out and "| none | b " in out
    assert err.endswith("throughtime: interrupted\n")
    assert [row["case"] for row in lines_of("a.csv")] == ["a", "b"]
    assert (place / "a.png").is_file()


def test_ctrl_c_before_the_first_row(fake: Measured, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.interrupted_by = "a"
    assert main(["bench", "layers", "--csv", "a.csv", "--png", "a.png"]) == 130
    assert "(nothing was measured)" in capsys.readouterr().out
    assert list(place.iterdir()) == []


def test_resume_measures_what_is_missing(fake: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    fake.interrupted_by = "b"
    assert main(["bench", "layers", "--csv", "a.csv"]) == 130
    fake.interrupted_by = ""
    assert main(["bench", "layers", "--csv", "a.csv", "--resume"]) == 0
    assert fake.asked == ["a", "b", "c"]
    assert [row["case"] for row in lines_of("a.csv")] == ["a", "b", "c"]
    assert main(["bench", "layers", "--csv", "a.csv"]) == 0
    assert fake.asked == [*"abc", *"abc"], "without --resume everything is measured"


def test_time_limit_and_order(fake: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "layers", "--minutes", "1e-9"]) == 0
    assert fake.asked == []
    assert "time is over: 0 of 3 cases measured" in capsys.readouterr().err
    orders = set()
    for seed in range(8):
        fake.asked.clear()
        assert main(["bench", "layers", "--seed", str(seed)]) == 0
        assert main(["bench", "layers", "--seed", str(seed)]) == 0
        assert fake.asked[:3] == fake.asked[3:]
        assert sorted(fake.asked[:3]) == ["a", "b", "c"]
        orders.add(tuple(fake.asked[:3]))
    assert len(orders) > 1


def test_rounds_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: clock[0] / 2)
    monkeypatch.setattr(time, "sleep", lambda seconds: order.append("."))
    order: list[str] = []
    # The first two calls of each are its warm-up.
    lasting = {"a": itertools.chain([50, 1], [9, 1, 2]), "b": itertools.chain([50, 1], [30, 10, 20])}

    def call(name: str) -> timing.Call:
        def run() -> None:
            order.append(name)
            clock[0] += next(lasting[name])

        return run

    found = timing.interleaved({"a": call("a"), "b": call("b")}, 3, 1000.0)
    assert "".join(order) == "aabb" + ".a.b" + ".b.a" + ".a.b"
    assert found == {"a": timing.Timing(2, 1), "b": timing.Timing(20, 10)}


def test_a_turn_begins_when_no_thread_of_the_one_before_works_any_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "REST_SECONDS", 0.01)
    worked = iter([0.0, 0.01, 0.01, 0.02, 0.02, 0.021])  # before and after each rest
    monkeypatch.setattr(time, "process_time", lambda: next(worked))
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    timing.rest()
    assert rests == [0.01] * 3


def test_rounds_end_when_the_time_is_over_but_not_before_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = []

    def call() -> None:
        calls.append(1)
        clock[0] += 1

    timing.interleaved({"a": call}, 100, 0.5)
    assert len(calls) == 2 + timing.LEAST_ROUNDS
    calls.clear()
    timing.interleaved({"a": call}, 100, 10.0)
    assert len(calls) == 2 + 11


def test_short_calls_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = []

    def call() -> None:
        calls.append(1)
        clock[0] += 1.0 if len(calls) == 3 else 2.0**-10

    # The third, the first of the round, is long and does not count.
    assert timing.interleaved({"a": call}, 1, 1.0)["a"].wall == 2.0**-10
    assert len(calls) == 2 + 1 + 5  # as many as 5 ms hold


@pytest.mark.parametrize("kind, gates", [("RNN", 1), ("GRU", 3), ("LSTM", 4), ("MGU", 2)])
def test_operations_are_counted(kind: str, gates: int) -> None:
    layer, _ = contestants.pair(kind, 30, 30)
    cost = Cost("inference", Point(7, 5, 30), *contestants.matrix_rows(layer))
    assert cost.operations == 7 * 5 * gates * 30 * 2 * (30 + 30)
    assert Cost("training", cost.point, cost.of_input, cost.of_state).operations == 3 * cost.operations


def test_operations_of_a_cell_that_maps_its_input_inside() -> None:
    layer = tt.Recurrent(tt.cells.MogrifierLSTM(), 6, 10)
    assert sum(contestants.matrix_rows(layer)) == 40 * 6 + 40 * 10 + 6 * 10


class Known(machine.Machine):
    """A machine of 1000 FLOP/s that reads 100 bytes a second."""

    def __init__(self) -> None:
        super().__init__(1)
        self.peak = 1000.0

    def seconds_to_read(self, size: int) -> float:
        return size / 100


def test_the_roofline() -> None:
    point, of_input, of_state = Point(10, 1, 5), 25, 25
    # Reading 100 bytes takes 1 s a step, its 50 operations would take 0.05; W x takes 0.05 s a step at the peak.
    assert Cost("inference", point, of_input, of_state).least_seconds(Known()) == pytest.approx(10 * 1 + 10 * 0.05)
    # The loop twice, and four products outside it.
    assert Cost("training", point, of_input, of_state).least_seconds(Known()) == pytest.approx(20 * 1 + 40 * 0.05)
    # With many sequences the multiply-adds take longer.
    many = Cost("training", Point(10, 100, 5), of_input, of_state)
    assert many.least_seconds(Known()) == pytest.approx(many.operations / 1000)


def test_the_probe_computes_and_counts() -> None:
    import ctypes

    probe, result = machine._probe(), ctypes.c_float()
    operations = probe.multiply_add(1000, ctypes.addressof(result))
    assert operations % (1000 * 12 * 2) == 0 and operations // (1000 * 12 * 2) in (4, 8, 16)
    expected = sum(i * 0.999**1000 + 1 - 0.999**1000 for i in range(12))
    assert result.value == pytest.approx(expected, rel=1e-4)
    probe.chained(1000, ctypes.addressof(result))
    assert result.value == pytest.approx(1 - 0.999**1000, rel=1e-4)
    values = torch.ones(1024)
    probe.read_floats(values.data_ptr(), 1024, 3, ctypes.addressof(result))
    lanes = operations // (1000 * 12 * 2)
    assert result.value == 3 * 1024 / lanes


def test_rates_of_the_machine_are_kept_at_their_best(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([100.0, 300.0, 299.0, 200.0, 310.0])
    monkeypatch.setattr(machine, "multiply_add_rate", lambda threads: next(seen))
    mine = machine.Machine(1)
    mine.look()
    assert mine.peak == 300.0, "two of the first looks have to agree"
    mine.look()
    assert mine.peak == 300.0
    mine.look()
    assert mine.peak == 310.0
    assert machine.read_rate(4096, 2) > 0 < machine.product_rate(1, 64)


def test_different_results_are_not_timed() -> None:
    ones = torch.ones(3)
    contestants.check_equal([ones], [ones + 1e-7], 1e-6, "these")
    for wrong in (ones + 1e-3, ones * torch.nan):
        with pytest.raises(Failure, match=r"these: the results differ from the rival's by .*, at most 1e-06"):
            contestants.check_equal([wrong], [ones], 1e-6, "these")


def test_the_python_loop_is_the_minimal_gated_unit() -> None:
    ours, loop = contestants.pair("MGU", 4, 6)
    x = torch.randn(5, 2, 4)
    h, outputs = torch.zeros(2, 6), []
    w, r, b = (getattr(ours, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"))
    for t in range(5):
        f = torch.sigmoid(x[t] @ w[:6].T + h @ r[:6].T + b[:6])
        h = (1 - f) * h + f * torch.tanh(x[t] @ w[6:].T + (f * h) @ r[6:].T + b[6:])
        outputs.append(h)
    torch.testing.assert_close(loop(x)[0], torch.stack(outputs))
    torch.testing.assert_close(ours(x)[0], torch.stack(outputs))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_competitors_run_on_their_cores_and_end() -> None:
    core = busy.my_cores()[0]
    with busy.competitors([core]):
        processes = [path for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(path) == os.getpid()]
        (pid,) = (int(path.name) for path in processes if busy.SPIN in _words(path))
        assert os.sched_getaffinity(pid) == {core}
    assert not Path(f"/proc/{pid}").exists()


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _words(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def test_a_long_sequence_in_processes_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(long, "STEPS", 30_000)  # enough to be above what the process needed before
    assert main(["bench", "long", "--only", "GRU plain", "--threads", "1", "--csv", "a.csv"]) == 0
    plain, recomputed = lines_of("a.csv")
    assert (plain["way"], recomputed["way"]) == (long.PLAIN, long.RECOMPUTE)
    assert float(plain["MiB"]) > float(recomputed["MiB"]) >= 0
    assert float(recomputed["gradients beside plain"]) < 1e-4


def test_a_long_sequence_that_fails_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Failure, match=r"the training step of NONE \(plain\) over 100000 steps failed: AttributeError"):
        long.run("NONE", long.PLAIN, 1, Path("gradients.pt"))


def test_without_rivals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"neither jax nor onnxruntime is installed.*throughtime\[rivals\]"):
        rivals.cases()


@pytest.mark.parametrize("package", rivals.RIVALS)
@pytest.mark.parametrize("kind", rivals.KINDS)
def test_rivals_compute_the_same(package: str, kind: str) -> None:
    pytest.importorskip(package)
    for what in rivals.RIVALS[package][1]:
        rows = rivals.measure(package, kind, what, Point(3, 2, 5), cases.Bench(machine.Machine(1), 1, 0.001))
        assert float(rows[0]["ratio"]) > 0


def test_figures_are_written_as_people_read_them(tmp_path: Path) -> None:
    figures = {"a": 1234.5, "b": 12.0, "c": 0.012345, "of peak": 0.456, "name": "GRU"}
    assert [report.shown(key, value) for key, value in figures.items()] == ["1234", "12", "0.0123", "46%", "GRU"]
    rows: list[cases.Row] = [{"table": "t", "case": "c", "a": 1.5}, {"table": "t", "case": "d", "b": "长"}]
    report.write_csv(tmp_path / "a.csv", rows)
    assert report.read_csv(tmp_path / "a.csv") == rows
    assert report.markdown(rows) == "| a   | b |\n| --- | - |\n| 1.5 |   |\n|     | 长 |"


def test_lengths_leave_the_padding_out_of_the_comparison() -> None:
    from throughtime.bench.lengths import Packed, draw

    lengths = draw(4, 10)
    assert lengths.max() == 10 and lengths.min() >= 5
    ours, rival = contestants.pair("GRU", 3, 5)
    x = torch.randn(10, 4, 3)
    torch.testing.assert_close(ours(x, None, lengths)[0], Packed(rival, lengths, 10)(x)[0])


def test_the_grid_covers_what_it_says() -> None:
    from throughtime.bench import grid

    places = list(grid.places())
    for axis, values in (("steps", grid.STEPS), ("batch", grid.BATCHES), ("hidden", grid.WIDTHS)):
        assert {getattr(place, axis) for place in places} == set(values)
    assert {(p.layers, p.directions, p.what) for p in places} >= {(3, 2, "lengths"), (3, 2, "onehot"), (1, 1, "dense")}
    # By hand: T 10, B 2, H 8, two layers, both directions, the upper of which reads 16 numbers.
    two = grid.Place("GRU", 10, 2, 8, 2, 2, "dense")
    lower, upper = 2 * 3 * 8 * (8 + 8), 2 * 3 * 8 * (16 + 8)
    assert two.operations == 3 * 2 * 10 * 2 * (lower + upper)
    assert isinstance(contestants.pair("GRU", 8, 8, num_layers=2)[0], nn.Module)
