"""The command line: `python3 -m logstats build | report`."""

import argparse
import json
import sys
from pathlib import Path

from logstats.build import build
from logstats.report import gather, stream


def main() -> int:
    parser = argparse.ArgumentParser(prog="logstats", description="Statistics of an access log.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="make the sample log from its seed")
    making.add_argument("log", type=Path)
    making.add_argument("--lines", type=int, default=500_000)
    making.add_argument("--seed", type=int, default=1)
    telling = commands.add_parser("report", help="count a log and print the statistics as JSON")
    telling.add_argument("log", type=Path)
    telling.add_argument("--workers", type=int, default=2, help="parsing processes (default 2)")
    telling.add_argument(
        "--chunk",
        type=int,
        default=0,
        help="fold every N lines into counts instead of keeping all records in memory "
        "(default 0: keep them; needs about 1.2 KB a line)",
    )
    telling.add_argument("--output", type=Path, help="write there instead of to the terminal")
    options = parser.parse_args()
    if options.command == "build":
        build(options.log, options.lines, options.seed)
        return 0
    if not options.log.exists():
        print(f"logstats: {options.log} is missing: run ./build.sh first", file=sys.stderr)
        return 2
    if options.chunk:
        statistics = stream(options.log, options.workers, options.chunk)
    else:
        statistics = gather(options.log, options.workers)
    text = json.dumps(statistics, indent=2, sort_keys=True) + "\n"
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)
        print(f"logstats: {statistics['requests']} requests, report in {options.output}")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
