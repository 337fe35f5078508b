import json

import pytest
import yaml

from cloud.cli.output import Output, show

ROWS = [{"key": "hood", "zh": "吸油烟机", "of": {"a": [1, None, True]}}, {"key": "yes", "zh": "1e3", "of": {}}]


def test_yaml_holds_what_json_holds(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, Output.YAML)
    printed = capsys.readouterr().out
    assert list(yaml.safe_load_all(printed)) == ROWS
    assert "吸油烟机" in printed
    show(ROWS, Output.JSON)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_nothing_to_show_is_said_on_stderr_and_in_a_table_only(capsys: pytest.CaptureFixture[str]) -> None:
    show([], Output.TABLE)
    assert capsys.readouterr() == ("", "none\n")
    for output in (Output.JSON, Output.YAML):
        show([], output)
        assert capsys.readouterr() == ("", "")
