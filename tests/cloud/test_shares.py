"""The portal says of every parameter how much of it is the person's own data."""

from __future__ import annotations

import re

import msgspec

from cloud import queries
from cloud.portal import blocks
from tests.cloud import filled
from tests.cloud.filled import NOW_US


def test_each_parameter_tells_how_much_of_it_is_data() -> None:
    # filled: every variance is .01; the published SDs are 1, .05, .25, .35, .2, so 1 − .01/SD² by hand:
    page = blocks.estimate_table(filled.estimate(), filled.prior(), NOW_US)
    told = [
        re.findall(r'<td class="number">([^<]*)</td></tr>', row)[-1]
        for row in page.split("<tr>")[1:]
        if "×" in row and "row" in row
    ]
    assert [t.replace("\u2009", " ").replace("\u00a0", " ") for t in told] == [
        "99 %",
        "0 %",
        "84 %",
        "92 %",
        "75 %",
    ]


def test_without_a_prior_no_share_is_told() -> None:
    page = blocks.estimate_table(filled.estimate(), None, NOW_US)
    assert page.count('<td class="number">–</td></tr>') == 5


def test_a_hub_that_bears_its_persons_name_is_named_once() -> None:
    line = queries.PersonLine("demo", "demo", 0, None, (), 0, None)
    assert blocks.person_title(line) == "demo"
    assert "hub-1" in blocks.person_title(msgspec.structs.replace(line, hub_id="hub-1"))
