"""One row of a SWE-bench style benchmark, whatever its fields are called there."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

# What SWE-bench's harness runs and reads where a row says nothing else.
DEFAULT_TEST_COMMAND = "pytest -rA"
DEFAULT_LOG_PARSER = "parse_log_pytest"


@dataclass(frozen=True)
class TaskRow:
    """A task as its benchmark defines it, the same from Parquet and from JSONL.

    patch: the gold patch; test_patch: what brings its tests; neither ever reaches an agent, nor
    do the two lists of tests. image: with transport (`docker://…`, `oci-archive:…`); layout:
    `testbed` (repository in /testbed, conda environment `testbed`) or `repository` (repository
    in /<name>, no conda); test_commands: shell lines that run tests, given the test files;
    eval_script: a script in their place that the row brings, or None; log_parser: the
    benchmark's name of what reads their output; environment_variables: pairs, sorted. Without
    commands, and without a parser (None), are the rows that name none and whose repository has
    a program of its own for its tests.
    """

    instance_id: str
    repo: str
    base_commit: str
    problem_statement: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    image: str
    layout: str
    language: str
    difficulty: str | None
    install: tuple[str, ...]
    test_commands: tuple[str, ...]
    eval_script: str | None
    log_parser: str | None
    environment_variables: tuple[tuple[str, str], ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of everything above: what a task is, however its file was written.

        What a row does not name counts as the defaults, which it once got, so that runs of such
        rows are found in stores that were made then.
        """
        fields = asdict(self)
        fields["log_parser"] = self.log_parser or DEFAULT_LOG_PARSER
        if not self.test_commands and self.eval_script is None:
            fields["test_commands"] = (DEFAULT_TEST_COMMAND,)
        content = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()
