"""What the gateway in between costs: the time to the first byte of an answer, with it and without.

An endpoint on loopback (a gateway that plays a scenario, without any latency of its own) is asked
directly and through a live gateway, alternating, with requests as large as the CLI's. Then many
clients at once. Prints Markdown tables.

    python benchmarks/gateway.py [--rounds 400]

With `--beside DIR`, the `src` of another version, both versions are asked in turn and only the
ratios of their medians are printed.
"""

import argparse
import contextlib
import http.client
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from agentsweep.host.processes import LineService

KEY = "benchmark"
# A first request of Claude Code 2.1.330 has some 50 kB, one deep in a session several hundred.
SIZES_BYTES = (50_000, 500_000)
CLIENTS = 16


def main() -> None:
    """Measure; all numbers of a table come from one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--beside", type=Path, metavar="DIR")
    given = parser.parse_args()
    rounds = given.rounds
    if given.beside:
        beside(given.beside, rounds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream, direct = start(folder, "upstream", {"mode": "scripted", "scenario": play(folder)})
        secret = {"kind": "x-api-key", "secret": KEY}
        live, through = start(
            folder, "live", {"mode": "live", "base_url": direct, "credential": secret}
        )
        try:
            print("| request | | median ms | p95 ms | added at the median, ms |")
            print("| --- | --- | ---: | ---: | ---: |")
            for size in SIZES_BYTES:
                compare(direct, through, size, rounds)
            print(f"\n{CLIENTS} clients at once, {SIZES_BYTES[0] // 1000} kB a request:\n")
            print("| | requests/s |\n| --- | ---: |")
            print(f"| directly | {throughput(direct, rounds):.0f} |")
            print(f"| through the gateway | {throughput(through, rounds):.0f} |")
        finally:
            live.stop()
            upstream.stop()


def play(folder: Path) -> str:
    """A scenario that answers at once."""
    path = folder / "scenario.yaml"
    path.write_text("turns: [{text: Yes.}]\n", encoding="utf-8")
    return str(path)


def start(folder: Path, name: str, settings: dict) -> tuple[LineService, str]:
    """A gateway process and its address."""
    service = LineService("agentsweep.gateway", folder / f"{name}.errors")
    ready = service.ask(
        {
            "listen": "tcp:127.0.0.1:0",
            "log": str(folder / f"{name}.jsonl"),
            "token": KEY,
            **settings,
        }
    )
    return service, ready["address"]


def beside(other: Path, rounds: int) -> None:
    """Ratios of this version to the one in `other`, which run at the same time."""
    here = Path(__file__).resolve().parent.parent / "src"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        ways: dict[str, list[Client]] = {"directly": [], "through the gateway": []}
        for index, source in enumerate((other.resolve(), here)):
            os.environ["PYTHONPATH"] = str(source)
            folder = Path(name, str(index))
            folder.mkdir()
            scripted = {"mode": "scripted", "scenario": play(folder)}
            upstream, direct = start(folder, "upstream", scripted)
            stack.callback(upstream.stop)
            secret = {"kind": "x-api-key", "secret": KEY}
            passing = {"mode": "live", "base_url": direct, "credential": secret}
            live, through = start(folder, "live", passing)
            stack.callback(live.stop)
            ways["directly"].append(Client(direct))
            ways["through the gateway"].append(Client(through))
        print("| request | | median, this to the other | p95 |\n| --- | --- | ---: | ---: |")
        for size in SIZES_BYTES:
            body = request(size)
            for way, (old, new) in ways.items():
                pairs = [(old.ask(body), new.ask(body)) for _ in range(rounds + 20)][20:]
                olds, news = (sorted(times) for times in zip(*pairs, strict=True))
                middle, late = len(olds) // 2, int(len(olds) * 0.95)
                ratios = f"{news[middle] / olds[middle]:.2f} | {news[late] / olds[late]:.2f}"
                print(f"| {size // 1000} kB | {way} | {ratios} |")


def compare(direct: str, through: str, size: int, rounds: int) -> None:
    """Alternate the two, so that both see the same machine."""
    body = request(size)
    clients = {"directly": Client(direct), "through the gateway": Client(through)}
    times_ms: dict[str, list[float]] = {name: [] for name in clients}
    for index in range(rounds + 20):
        for name, client in clients.items():
            first_byte_s = client.ask(body)
            if index >= 20:  # connections and caches are warm by then
                times_ms[name].append(first_byte_s * 1e3)
    without = statistics.median(times_ms["directly"])
    for name, values in times_ms.items():
        p95 = sorted(values)[int(len(values) * 0.95)]
        added = f"{statistics.median(values) - without:.2f}" if name != "directly" else ""
        row = f"{statistics.median(values):.2f} | {p95:.2f} | {added}"
        print(f"| {size // 1000} kB | {name} | {row} |")


def throughput(address: str, rounds: int) -> float:
    """Answered requests in a second, by CLIENTS clients together."""
    body, each = request(SIZES_BYTES[0]), max(rounds // CLIENTS, 5)

    def work() -> None:
        client = Client(address)
        for _ in range(each):
            client.ask(body)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CLIENTS * each / (time.perf_counter() - begin)


def request(size: int) -> bytes:
    """A request for a streamed answer, of about so many bytes."""
    content = {"model": "m", "max_tokens": 10, "stream": True, "tools": [{"name": "Bash"}]}
    content["messages"] = [{"role": "user", "content": "x" * size}]
    return json.dumps(content).encode()


class Client:
    """One connection that is kept open, as the CLI keeps its own."""

    def __init__(self, address: str):
        host, port = address.removeprefix("http://").rsplit(":", 1)
        self._connection = http.client.HTTPConnection(host, int(port))

    def ask(self, body: bytes) -> float:
        """Seconds from sending to the first byte of the answer's body."""
        begin = time.perf_counter()
        self._connection.request("POST", "/v1/messages", body, {"x-api-key": KEY})
        answer = self._connection.getresponse()
        answer.read(1)
        first_byte_s = time.perf_counter() - begin
        answer.read()
        return first_byte_s


if __name__ == "__main__":
    main()
