"""The schemas of lines of api.jsonl and marks.jsonl hold for what is, and was, written."""

import json
import tarfile
from dataclasses import fields
from pathlib import Path

import file_schemas
import jsonschema
import pytest
from gateway_client import raw, starter, user
from session_maker import SESSION, small_session

from agentsweep.gateway.exchanges import SINGLE_LINES, Exchange, ExchangeLog
from agentsweep.host.counters import COLUMNS, Counters
from agentsweep.sampler.peaks import Call, Ledger

OLD = Path(__file__).resolve().parents[1] / "old_store" / "store.tar.xz"
UNITS = {"_ns": "ns", "_bytes": "bytes", "_usec": "us", "_tokens": "tokens"}
MARK = {
    "seq": 1,
    "wrapper_pid": 7,
    "command": "true",
    "start_ns": 1,
    "start_utc_ns": 2,
    "end_ns": 3,
    "end_utc_ns": 4,
    "end_source": "mark",
    "exit_code": 0,
    "mem_before_bytes": 1,
    "mem_peak_bytes": 2,
    "mem_after_bytes": 1,
    "mem_peak_source": "sampled",
    "cpu_usec": 5,
    "oom_kill": 0,
}


def wrong(name: str, lines) -> list[str]:
    validator = jsonschema.Draft202012Validator(file_schemas.load(name))
    return [
        f"{list(error.absolute_path)}: {error.message[:200]}"
        for line in lines
        for error in validator.iter_errors(line)
    ]


def described(schema: dict, prefix: str = ""):
    for name, of in schema.get("properties", {}).items():
        yield prefix + name, of
        yield from described(of, f"{prefix}{name}.")
        yield from described(of.get("items", {}), f"{prefix}{name}[].")


@pytest.mark.parametrize("name", ["api", "marks"])
def test_each_field_is_described_and_what_has_a_unit_in_its_name_has_it(name):
    schema = file_schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    for field, of in described(schema):
        assert len(of.get("description", "")) > 10, field
        unit = next((unit for end, unit in UNITS.items() if field.endswith(end)), None)
        assert of.get("x-unit") == unit, field


def test_the_schema_has_the_fields_of_an_exchange():
    schema = file_schemas.load("api")
    assert list(schema["properties"]) == [field.name for field in fields(Exchange)]


def test_what_a_gateway_writes(tmp_path):
    with starter(tmp_path) as start:
        gateway = start()
        gateway.ask([user("hello")])
        gateway.ask([user("hello again")], stream=True)
        gateway.call("POST", "/v1/messages", b"{", token="wrong")
        gateway.call("GET", "/nowhere")
        raw(gateway, b"BREW coffee\r\n\r\n")
        lines = gateway.exchanges(4)
    assert {line["status"] for line in lines} >= {200, 401, 404}
    assert wrong("api", lines) == []


def test_what_a_gateway_writes_of_a_replay(tmp_path):
    path = tmp_path / f"{SESSION}.jsonl"
    path.write_bytes(small_session().data())
    with starter(tmp_path) as start:
        gateway = start(mode="replay", recording=str(path), latency_scale=0)
        gateway.ask([user("Do it.")])
        lines = gateway.exchanges(1)
    assert any(line["recorded"] for line in lines)
    assert wrong("api", lines) == []


def test_a_line_for_several_requests(tmp_path):
    log = ExchangeLog(tmp_path / "api.jsonl")
    for seq in range(1, SINGLE_LINES + 10):
        log.write(Exchange(seq, 1, 2, "GET", "/", status=404, refused=True), unasked=True)
    log.close()
    lines = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert any(line["requests"] > 1 for line in lines)
    assert wrong("api", lines) == []


@pytest.mark.parametrize("name", ["api", "marks"])
def test_lines_of_version_0_1_0(name):
    lines = []
    with tarfile.open(OLD) as archive:
        for member in archive:
            if member.name.endswith(f"/{name}.jsonl"):
                lines += map(json.loads, archive.extractfile(member).read().splitlines())
    assert len(lines) > 15
    assert wrong(name, lines) == []


class Memory:
    """A container whose kernel can, or cannot, reset its watermark."""

    def __init__(self, can_reset_peak: bool, peaks):
        self.can_reset_peak = can_reset_peak
        self._peaks = iter(peaks)

    def peak_bytes(self):
        return next(self._peaks)

    fold_peak = peak_bytes


@pytest.mark.parametrize(
    ("can_reset_peak", "peaks", "source"),
    [(True, (1, 9), "watermark"), (False, (1, 9), "counter"), (False, (9, 9), "sampled")],
)
@pytest.mark.parametrize("known", [0, None])
@pytest.mark.parametrize(("end", "status"), [("mark", 137), ("exit", None), ("stop", None)])
def test_what_a_sampler_writes(tmp_path, can_reset_peak, peaks, source, known, end, status):
    counters = Counters(*[known] * len(COLUMNS))
    ledger = Ledger(Memory(can_reset_peak, peaks), tmp_path / "marks.jsonl")
    call = Call(ledger.next_seq(), 7, "true \ufffd", -1, 1, 2, counters)
    ledger.begin_call(call)
    ledger.end_call(call, end, status, (3, 4), counters)
    ledger.close()
    (line,) = map(json.loads, (tmp_path / "marks.jsonl").read_bytes().splitlines())
    assert line["mem_peak_source"] == source
    assert line.keys() == MARK.keys()
    assert wrong("marks", [line]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0},
        {"end_source": "guess"},
        {"mem_peak_bytes": None},
        {"mem_peak_bytes": 1.5},
        {"mem_peak_source": "none"},
        {"exit_code": "0"},
        {"more": 1},
    ],
)
def test_another_line_is_none(change):
    assert wrong("marks", [MARK]) == []
    assert len(wrong("marks", [MARK | change])) == 1
