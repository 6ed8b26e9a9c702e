"""Checked JSON of Label Studio's requests."""

from __future__ import annotations

from typing import Any

import pytest

from serving.http.label_studio.records import MAX_VALUES, number_member, parse_object
from serving.http.problems import Problem


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a":' * 5000, b"{" + b'"a":1,' * 9])
def test_parse_object_refuses_what_is_no_object(body: bytes) -> None:
    with pytest.raises(Problem, match="expected a JSON object"):
        parse_object(body)


def test_parse_object_refuses_values_that_would_fill_the_memory() -> None:
    body = b'{"tasks": [' + b"{}," * (MAX_VALUES // 2) + b"{}]}"
    with pytest.raises(Problem, match="more than 3000000 values"):
        parse_object(body)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "1", [], None])
def test_number_member_refuses_all_but_finite_numbers(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        number_member({"x": value}, "x")
    assert caught.value.status == 400


def test_number_member_takes_the_default_for_null_and_for_nothing() -> None:
    assert [number_member(record, "x", 2) for record in ({"x": None}, {}, {"x": 0})] == [2, 2, 0]
