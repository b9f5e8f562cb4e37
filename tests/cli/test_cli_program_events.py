"""Progress for a program that started this one: one JSON object a line."""

from __future__ import annotations

import json

import pytest

from stitchsafe.cli.options import OutputOptions
from stitchsafe.cli.session import conversation


def test_each_event_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with conversation(OutputOptions(progress="json", json=True)) as session:
        session.events.stage("predict", 4, "blocks")
        session.events.advance()
        session.events.advance(2)
        session.events.note("half-way\nthere")
        session.events.say("output: here")
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert told == [
        {"stage": ["predict", 4, "blocks"]},
        {"advance": 1},
        {"advance": 2},
        {"note": "half-way\nthere"},
        {"say": "output: here"},
    ]
