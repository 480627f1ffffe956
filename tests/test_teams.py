"""How a call is cut into slices of the batch and teams of threads: the rule of the kernels, told by `tt.explain`."""

from __future__ import annotations

import re

import pytest

import throughtime as tt
from throughtime.codegen.source import skeletons
from throughtime.nn import counting, teams


def test_the_rule_of_the_cut_is_the_kernels():
    header = skeletons('#include "recurrence.h"')["recurrence.h"]
    assert int(re.search(r"useful = 1 \+ call\.work / (\d+);", header)[1]) == counting.WORK_OF_A_THREAD
    assert int(re.search(r"worth_waking = (\d+);", header)[1]) == counting.WORTH_WAKING
    assert int(re.search(r"int64_t near = (\d+);", header)[1]) == teams.LARGEST_NEAR_SLICE
    assert int(re.search(r"call\.rows \+ (\d+)\) \* size;", header)[1]) == counting.PACKING


@pytest.mark.parametrize(
    "packed, groups, steps, rows, threads, expected",
    [
        (1000, 1, 10, 10, 8, (1, 1, 1)),  # too little work for a second thread
        (100_000, 1, 100, 64, 8, (1, 8, 8)),
        (100_000, 2, 100, 64, 8, (2, 4, 8)),
        (10_000, 1, 100, 9, 8, (1, 2, 2)),  # no slice below four sequences where it gains nothing
        (10_000, 1, 100, 7, 4, (1, 1, 1)),
        (10_000, 2, 100, 3, 8, (2, 1, 2)),
        (100_000, 2, 100, 64, 3, (2, 2, 3)),
    ],
)
def test_how_work_is_cut(packed, groups, steps, rows, threads, expected):
    found = counting.cut(teams.Step(4, 0, 1, 0, 0), packed, groups, steps, rows, threads)
    assert (found.groups, found.slices, found.threads, found.team) == (*expected, 1)


@pytest.mark.parametrize(
    "hidden, rows, groups, threads, meeting, expected",
    [
        (48, 1, 1, 2, 200, 1),  # a step that is over before the two have met
        (150, 1, 1, 2, 100, 2),
        (150, 1, 1, 2, 1000, 1),  # where meetings take long
        (512, 1, 1, 8, 100, 8),
        (512, 1, 2, 8, 100, 4),
        (300, 9, 1, 8, 100, 2),  # three slices
        (512, 104, 1, 8, 100, 1),
        (512, 64, 1, 8, 100, 2),  # four slices of large matrices, read half by each member
        (512, 9, 1, 3, 100, 3),
    ],
)
def test_teams(hidden, rows, groups, threads, meeting, expected):
    step = counting.one_step(tt.GRU(5, 5).derived.programs[False].forward(False), {"hidden": hidden, "input": 5}, 1, 4)
    assert step == (4, 3 * hidden**2, 1, hidden, hidden)
    assert teams.division(step, rows, groups, threads, meeting).team == expected


@pytest.mark.parametrize(
    "hidden, rows, groups, threads, meeting, expected",
    [
        (64, 2, 1, 2, 100, (1, 2)),  # a sequence for each thread: nobody is waited for
        (64, 7, 1, 2, 100, (3, 2)),
        (64, 7, 2, 2, 0, (4, 1)),  # a direction for each
        (64, 8, 1, 2, 100, (4, 2)),
        (256, 2, 1, 2, 100, (4, 1)),  # each reads half of the matrix instead, for both sequences
        (256, 2, 1, 2, 2000, (1, 2)),  # where meetings take long
        (512, 30, 1, 2, 100, (13, 2)),
    ],
)
def test_slices(hidden, rows, groups, threads, meeting, expected):
    step = counting.one_step(tt.GRU(5, 5).derived.programs[False].forward(False), {"hidden": hidden, "input": 5}, 1, 4)
    found = teams.division(step, rows, groups, threads, meeting)
    assert (found.smallest, teams.slices(found.smallest, rows, groups, threads)) == expected
