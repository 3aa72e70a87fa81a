"""Logging: readable on a terminal, strict JSON on demand, the run id on every line, no secret on any."""

import json
import math
import threading

import pytest
import structlog
from pydantic import SecretStr

from quantfleet import logs
from quantfleet.errors import ConfigError
from quantfleet.logs import bind_run, configure_logging, get_logger


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing bound before, the library's own settings afterwards."""
    monkeypatch.setattr(logs, "_bound", {})
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def log(capsys, request):
    """Logs in the format of the test's parameter and gives the written lines."""

    def write(*calls, fmt="json", level="INFO"):
        configure_logging(fmt=fmt, level=level)
        logger = get_logger("a.module")
        for call in calls:
            call(logger)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    return write


def records(lines):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_json_lines_carry_event_level_module_time_and_values(log):
    (line,) = records(log(lambda logger: logger.info("ingest.done", rows=3, symbols=["a", "b"])))
    assert {k: line[k] for k in ("event", "level", "module", "rows", "symbols")} == {
        "event": "ingest.done", "level": "info", "module": "a.module", "rows": 3, "symbols": ["a", "b"],
    }  # fmt: skip
    assert line["timestamp"].endswith("Z")


def test_console_lines_are_plain_text_when_no_terminal_reads_them(log):
    (line,) = log(lambda logger: logger.warning("ingest.done", rows=3, note="two words"), fmt="console")
    assert "[warning  ] ingest.done" in line
    assert "rows=3" in line
    assert "note='two words'" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("fmt", ["console", "json"])
def test_the_run_id_is_on_every_line_of_every_thread(log, fmt):
    bind_run("quickstart")

    def from_a_thread(logger):
        thread = threading.Thread(target=lambda: logger.info("from a thread"))
        thread.start()
        thread.join()

    lines = log(lambda logger: logger.info("one"), from_a_thread, lambda logger: logger.error("three"), fmt=fmt)
    shown = "run=quickstart" if fmt == "console" else '"run": "quickstart"'
    assert [shown in line for line in lines] == [True, True, True]


def test_before_a_run_is_bound_no_line_has_a_run_id(log):
    assert "run" not in records(log(lambda logger: logger.info("early")))[0]


def test_a_newly_bound_run_replaces_the_last(log):
    bind_run("one")
    bind_run("two")
    assert records(log(lambda logger: logger.info("x")))[0]["run"] == "two"


def test_a_line_may_speak_of_another_run(log):
    bind_run("mine")
    assert records(log(lambda logger: logger.info("x", run="theirs")))[0]["run"] == "theirs"


@pytest.mark.parametrize("fmt", ["console", "json"])
def test_lines_below_the_level_are_left_out(log, fmt):
    calls = [lambda logger, n=name: getattr(logger, n)(n) for name in ("debug", "info", "warning", "error")]
    lines = log(*calls, fmt=fmt, level="warning")
    assert len(lines) == 2
    assert "warning" in lines[0]
    assert "error" in lines[1]


def test_values_that_json_does_not_know_are_still_one_valid_line(log):
    (line,) = records(
        log(
            lambda logger: logger.info(
                "odd\nevent", n=math.nan, inner={"x": [math.inf, 1.0]}, thing={1, 2}, text="a\nb"
            )
        )
    )
    assert (line["n"], line["inner"], line["text"]) == ("nan", {"x": ["inf", 1.0]}, "a\nb")
    assert line["thing"] == "{1, 2}"


def raise_with_a_secret_in_a_local_variable(logger):
    password = "hunter2-" * 2

    def inner(key):
        raise ValueError(f"no luck with a key of {len(key)} signs")

    try:
        inner(password)
    except ValueError:
        logger.exception("stage.failed", key=SecretStr(password))


@pytest.mark.parametrize("fmt", ["console", "json"])
def test_an_exception_shows_its_traceback_but_no_local_variable(log, fmt):
    text = "\n".join(log(raise_with_a_secret_in_a_local_variable, fmt=fmt))
    assert "ValueError: no luck with a key of 16 signs" in text
    assert "in inner" in text
    assert "hunter2-hunter2-" not in text


def test_an_exception_in_json_is_one_line(log):
    (line,) = records(log(raise_with_a_secret_in_a_local_variable))
    assert line["exception"].startswith("Traceback")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"level": "INFOO"},
            "log level 'INFOO' is none of DEBUG, INFO, WARNING, ERROR, CRITICAL. Did you mean 'INFO'?",
        ),
        ({"level": "root"}, "log level 'root' is none of"),
        ({"fmt": "xml"}, "log format 'xml' is neither 'console' nor 'json'"),
    ],
)
def test_unknown_formats_and_levels_are_refused(options, message):
    with pytest.raises(ConfigError) as caught:
        configure_logging(**options)
    assert message in str(caught.value)
