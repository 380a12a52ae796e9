"""alexnet-prepare's commands and their help."""

import pytest
from preparations import fails

from alexnet_dist.prepare import main


@pytest.mark.parametrize("command", [[], ["folder"], ["idx"], ["digits"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_a_command_is_needed(capsys):
    assert "COMMAND" in fails(capsys)
