"""Both ways of counting give the same report, and it is right."""

import contextlib
import io
import tempfile
import unittest
from collections import Counter
from pathlib import Path

from logstats.build import build
from logstats.report import finish, gather, parse_and_count, percentile, stream

LINE = '10.0.0.1 - - [{hour:03d}:00:00] "GET {page}?q=1 HTTP/1.1" {status} 100 "Browser/1.0" {took}'


class Report(unittest.TestCase):
    def test_numbers_of_a_small_log(self):
        lines = [
            LINE.format(hour=0, page="/", status=200, took="0.010"),
            LINE.format(hour=0, page="/cart", status=404, took="0.020"),
            LINE.format(hour=1, page="/cart", status=200, took="0.300"),
            "not a line of an access log",
        ]
        report = finish(parse_and_count(lines))
        self.assertEqual(report["requests"], 3)
        self.assertEqual(report["bytes"], 300)
        self.assertEqual(report["by_status"], {"200": 2, "404": 1})
        self.assertEqual(report["by_page"], {"/": 1, "/cart": 2})
        self.assertEqual(report["by_hour"], {"000": 2, "001": 1})
        self.assertEqual(report["duration_ms"], {"p50": 20, "p90": 300, "p99": 300})

    def test_gathering_and_streaming_agree(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            log = Path(folder) / "access.log"
            build(log, 3000, seed=7)
            whole = gather(log, 2)
            self.assertEqual(whole["requests"], 3000)
            self.assertEqual(whole, stream(log, 2, 700))

    def test_percentile_is_a_value_that_was_counted(self):
        self.assertEqual(percentile(Counter({5: 1, 7: 1}), 50), 5)
        self.assertEqual(percentile(Counter({5: 1, 7: 1}), 51), 7)


if __name__ == "__main__":
    unittest.main()
