"""The sample log: the same lines for the same seed, on any machine."""

from pathlib import Path

PAGES = ("/", "/login", "/cart", "/search", "/item", "/help", "/api/v1/items", "/api/v1/orders")
STATUSES = (200, 200, 200, 200, 200, 200, 304, 301, 404, 500)


def build(log: Path, lines: int, seed: int) -> None:
    """Write `lines` access-log lines, one request about every 0.1 s of the log's own time."""
    log.parent.mkdir(parents=True, exist_ok=True)
    state = seed
    unfinished = log.with_suffix(".part")
    with unfinished.open("w") as out:
        for number in range(lines):
            # Numerical Recipes' linear congruential generator: cheap, and alike everywhere.
            state = (1664525 * state + 1013904223) & 0xFFFFFFFF
            draw = state >> 8
            second = number // 10
            out.write(
                f"10.{draw & 7}.{draw >> 3 & 255}.{draw >> 11 & 255} - - "
                f"[{second // 3600:03d}:{second // 60 % 60:02d}:{second % 60:02d}] "
                f'"GET {PAGES[draw % 8]}?q={draw % 5000} HTTP/1.1" '
                f'{STATUSES[draw % 10]} {200 + draw % 30000} "Browser/{draw % 40}.0" '
                f"{draw % 997 / 1000:.3f}\n"
            )
    unfinished.replace(log)
    print(f"logstats: {lines} lines in {log}")
