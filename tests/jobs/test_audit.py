"""The audit job: what it writes, and that a leak ends it with an error that names it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support.audited import clean_run
from support.finished_run import finish_until_evaluate
from support.recipes import small_recipe, write_recipe
from typer.testing import CliRunner

from quantfleet.config import Resolved
from quantfleet.errors import LeakageError
from quantfleet.evaluation.audit import AuditInputs
from quantfleet.storage import Storage
from quantfleet_jobs import audit
from quantfleet_jobs.cli import app
from quantfleet_jobs.main import perform
from quantfleet_jobs.recipe import Recipe, load_recipe
from quantfleet_jobs.record import StageRecord


@pytest.fixture
def run(tmp_path: Path) -> Resolved[Recipe]:
    recipe = small_recipe(str(tmp_path / "store"), models=[{"kind": "buy_and_hold"}], name="audited")
    resolved: Resolved[Recipe] = load_recipe(str(write_recipe(tmp_path, recipe)), environ={})
    record = finish_until_evaluate(resolved.value, Storage(resolved.value.storage))
    for stage in ("quality", "chunks"):
        record.finish(
            StageRecord(stage=stage, fingerprint=stage, inputs={}, outputs={}, summary="", seconds=0.0)
        )  # what it reads of them stands in `gather`, which is replaced here
    return resolved


def holding(inputs: AuditInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "gather", lambda context: inputs)


def findings(run: Resolved[Recipe]) -> dict[str, str]:
    path = Storage(run.value.storage).read_text("runs/audited/audit.json")
    return {finding["check"]: finding["outcome"] for finding in json.loads(path)["findings"]}


def test_a_clean_run_is_recorded_as_audited(run: Resolved[Recipe], monkeypatch: pytest.MonkeyPatch):
    holding(clean_run(), monkeypatch)
    done = perform([audit.STAGE], run, console=Console(quiet=True))["audit"]
    assert done.summary == "11 checks passed"
    assert set(findings(run).values()) == {"passed"}


def test_what_was_not_checked_is_said_and_not_counted(run: Resolved[Recipe], monkeypatch: pytest.MonkeyPatch):
    holding(replace(clean_run(), instruments=None), monkeypatch)
    done = perform([audit.STAGE], run, console=Console(quiet=True))["audit"]
    assert done.summary.startswith("10 checks passed; not checked, universe: the recipe names no instruments")


def test_a_leak_is_an_error_that_names_it_and_the_findings_stay(run: Resolved[Recipe], monkeypatch: pytest.MonkeyPatch):
    holding(replace(clean_run(), looks=11), monkeypatch)
    with pytest.raises(LeakageError, match="1 of 11 checks failing") as error:
        audit.audit_run(run, console=Console(quiet=True))
    assert error.value.fields["failed"] == ["test_period_looks"]
    assert findings(run)["test_period_looks"] == "failed"


def test_the_command_line_audits_and_fails_with_one_line(
    run: Resolved[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    holding(replace(clean_run(), looks=11), monkeypatch)
    said = CliRunner().invoke(app, ["audit", str(tmp_path / "audited.yaml")])
    assert said.exit_code == 1
    assert "the test period has been looked at 11 time(s); 10 are allowed" in " ".join(said.output.split())
    again = CliRunner().invoke(app, ["audit", str(tmp_path / "audited.yaml"), "--set", "audit.most_looks=20"])
    assert again.exit_code == 0, again.output


def test_in_a_run_a_leak_is_noted_for_the_gates_and_the_run_goes_on(
    run: Resolved[Recipe], monkeypatch: pytest.MonkeyPatch
):
    holding(replace(clean_run(), looks=11), monkeypatch)
    done = perform([audit.STAGE], run, console=Console(quiet=True))["audit"]
    assert done.outputs["failed"] == ["test_period_looks"]
    assert "FAILED, test_period_looks: the test period has been looked at 11 time(s)" in done.summary
