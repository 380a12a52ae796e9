"""JSON that people can read, and that is JSON in any case."""

import json

from alexnet_dist.support.readable_json import dump_json


def test_names_in_any_language():
    names = {"Rosé": ["薔薇", "🌹", "caf\udce9"]}  # the last is a file's name that isn't UTF-8
    text = dump_json(names)
    assert text == '{"Rosé": ["薔薇", "🌹", "caf\\udce9"]}'
    assert json.loads(text.encode()) == names
