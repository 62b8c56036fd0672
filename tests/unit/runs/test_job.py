"""A job passes between processes as JSON, and is refused where it is not understood."""

import dataclasses
import json

import pytest
from run_parts import job_content, live

from agentsweep.errors import ConfigError
from agentsweep.host.admission import Grant
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.gateway_settings import gateway_environment, gateway_settings
from agentsweep.runs.job import Job, LiveModel, ReplayModel
from agentsweep.runs.preflight import Prepared

MODELS = {
    "scripted": {"mode": "scripted", "scenario": None, "latency_scale": 0.5},
    "replay": {"mode": "replay", "recording": "/r", "latency_scale": 1},
    "live": live(),
}


@pytest.mark.parametrize("mode", MODELS)
def test_a_job_is_the_same_after_its_journey(tmp_path, mode):
    job = Job.from_json(job_content(tmp_path, model=MODELS[mode]))
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert job.is_live == (mode == "live") == isinstance(job.model, LiveModel)
    assert (mode == "replay") == isinstance(job.model, ReplayModel)


def test_what_it_was_granted_goes_with_it(tmp_path):
    job = Job.from_json(job_content(tmp_path))
    assert "granted" not in job.to_json() and "cpuset" not in job.to_json()["limits"]
    granted = dataclasses.replace(job, granted=Grant(1, 2, "0-1", 0.5))
    assert Job.from_json(granted.to_json()).granted == Grant(1, 2, "0-1", 0.5)


@pytest.mark.parametrize(
    ("part", "key"),
    [("limits", "memory_mb"), ("container", "privileged"), ("machine", "queue"), ("task", "image")],
)
def test_a_key_of_another_version_is_refused(tmp_path, part, key):
    content = job_content(tmp_path)
    content[part][key] = 1
    with pytest.raises(ConfigError, match=rf"^job\.{part}\.{key}: unknown key") as error:
        Job.from_json(content)
    assert "\n" not in str(error.value)


def test_a_key_that_is_missing_is_named(tmp_path):
    content = job_content(tmp_path)
    del content["limits"]["memory_bytes"]
    with pytest.raises(ConfigError, match=r"^job\.limits\.memory_bytes: missing"):
        Job.from_json(content)


def test_a_job_cannot_be_changed(tmp_path):
    job = Job.from_json(job_content(tmp_path))
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.cell = "another"


def test_the_gateway_gets_the_credential_and_never_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "sk-secret")
    rules = {"endpoint_tools": [], "models": ["m"]}
    budget = {"max_turns": 3, "max_cost_usd": None, "price": None}
    model = live(
        base_url="https://localhost:9", credential="env:KEY", credential_header="x-api-key"
    )
    job = Job.from_json(job_content(tmp_path, model=model, rules=rules, budget=budget))
    settings = gateway_settings(job)
    assert "sk-secret" in json.dumps(settings) and "env:KEY" not in json.dumps(settings)
    assert (settings["models"], settings["endpoint_tools"]) == (["m"], [])
    assert settings["budget"] == budget
    assert "credential_header" not in settings
    assert "sk-secret" not in json.dumps(job.to_json())


def test_only_the_gateway_of_a_live_run_knows_the_hosts_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    assert gateway_environment(Job.from_json(job_content(tmp_path))) == {}
    job = Job.from_json(job_content(tmp_path, model=live()))
    assert gateway_environment(job)["HTTPS_PROXY"] == "http://proxy"
    assert gateway_settings(Job.from_json(job_content(tmp_path))) == {
        **job_content(tmp_path)["model"],
        "budget": {"max_turns": None, "max_cost_usd": None, "price": None},
    }


@pytest.mark.parametrize(("kind", "secret"), [(Prepared, "gateway"), (AttemptRun, "token")])
def test_what_lets_somebody_in_is_in_no_repr(kind, secret):
    """A traceback with values, or a failing test, would show it."""
    shown = {one.name: one.repr for one in dataclasses.fields(kind)}
    assert shown[secret] is False
