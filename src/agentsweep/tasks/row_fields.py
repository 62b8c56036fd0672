"""One row of SWE-bench, SWE-rebench or SWE-rebench V2, whatever its fields are called there.

The fields are those of the published data sets (SWE-bench/SWE-bench* up to version 5 of its
harness, nebius/SWE-rebench, nebius/SWE-rebench-leaderboard, nebius/SWE-rebench-V2). Lists may be
lists or JSON texts, commands one text or a list, mappings mappings, JSON texts or lists of pairs
(Parquet's maps). A null, a NaN and a key that is missing are the same, because Parquet fills one
with the other: a row has one hash, however its file was written.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from agentsweep.containers.image_names import benchmark_image, image_problems, qualified
from agentsweep.errors import ConfigError, show
from agentsweep.tasks import diff_headers
from agentsweep.tasks.log_parsers import own_program
from agentsweep.tasks.task_row import DEFAULT_LOG_PARSER, DEFAULT_TEST_COMMAND, TaskRow
from agentsweep.utf8 import is_text

LAYOUTS = ("testbed", "repository")
# All that `light_fields` reads: what a filter needs, without patches and issue texts.
LIGHT_COLUMNS = (
    *("instance_id", "repo", "difficulty", "meta"),
    *("image", "image_name", "docker_image", "install_config"),
)

# All that `row_of` reads. Data sets have more, of which a lockfile's text may be the largest.
ROW_COLUMNS = (
    *LIGHT_COLUMNS,
    *("base_commit", "problem_statement", "patch", "test_patch", "FAIL_TO_PASS", "PASS_TO_PASS"),
    *("language", "layout", "eval_script", "eval_type", "log_parser"),
)

_IMAGE_KEYS = ("image", "image_name", "docker_image")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_CHARACTERS = 200
# What a diff has below the names of a file, at the least.
_CHANGE = re.compile(
    r"^(@@ -\d|GIT binary patch|Binary files |rename to |copy to |(new|deleted) file |new mode )",
    re.MULTILINE,
)


class LightFields(NamedTuple):
    """What a filter looks at."""

    instance_id: str
    repo: str | None
    difficulty: str | None
    image: str


def row_of(mapping: Mapping[str, Any], where: str) -> TaskRow:
    """A row from its fields; `where` is how messages call its place.

    The image is that of `image`, `image_name` or `docker_image`, in this order, else the one that
    the benchmark publishes for the instance. The layout is `layout`, where a row has that key;
    else `repository` for images of swerebenchv2 and for rows with both `language` and
    `install_config` (which is V2), and `testbed` for all others. Rows without commands or without
    a parser get those of SWE-bench for Python, but none where the repository has a program of its
    own for its tests; rows in other languages must bring theirs, and so must V2. `pre_install` and
    the like are left out: they made the image.

    Raises ConfigError with a line for each thing that is wrong.
    """
    fields = _Fields(mapping)
    row = _read(fields)
    if row is None:
        raise ConfigError([f"{where}: {problem}" for problem in fields.wrong])
    return row


def light_fields(mapping: Mapping[str, Any], where: str) -> LightFields:
    """What a filter looks at: instance_id, repo, difficulty and image; ConfigError without a name.

    Reads the LIGHT_COLUMNS alone and judges nothing else: rows that are not chosen may be broken.
    """
    fields = _Fields(mapping)
    instance_id = _instance_id(fields)
    if fields.wrong or instance_id is None:
        raise ConfigError([f"{where}: {problem}" for problem in fields.wrong])
    return LightFields(
        instance_id,
        repo=fields.text("repo"),
        difficulty=_difficulty(fields),
        image=_image(fields, instance_id, fields.mapping_at("install_config")),
    )


class _Fields:
    """The fields of a row, with what is wrong with them."""

    def __init__(self, mapping: Mapping[str, Any]):
        self._given = mapping
        self.wrong: list[str] = []

    def value(self, key: str) -> Any:
        """What is there, None for nothing."""
        return _value(self._given, key)

    def text(self, key: str, needed: str | None = None) -> str | None:
        """A text that is not blank; where it is and `needed` says what for, that is a problem."""
        value = self.value(key)
        if value is None:
            if needed:
                self.wrong.append(f"{key}: missing; {needed}")
            return None
        if not isinstance(value, str):
            self.wrong.append(f"{key}: {show(value)} is not a text; write one")
            return None
        if not value.strip():
            if needed:
                self.wrong.append(f"{key}: {show(value)} is empty; {needed}")
            return None
        if "\0" in value or not is_text(value):
            self.wrong.append(
                f"{key}: it has a NUL or half a character in it; write text that is valid UTF-8"
            )
            return None
        return value

    def mapping_at(self, key: str) -> dict[str, Any]:
        """A mapping, a JSON text of one or a list of pairs; {} where there is none."""
        value = self.value(key)
        found = _plain_mapping(value)
        if found is None:
            self.wrong.append(f"{key}: {show(value)} is neither a mapping nor one written as JSON")
            return {}
        return {name: inner for name, inner in found.items() if _value(found, name) is not None}

    def tests(self, key: str) -> tuple[str, ...]:
        """A list of tests, each once, or a JSON text of one; it must be there, if empty."""
        value = self.value(key)
        if value is None:
            self.wrong.append(f"{key}: missing; write a list of tests ([] for none)")
            return ()
        found = _plain_list(value)
        if found is None:
            self.wrong.append(f"{key}: {show(value)} is neither a list nor one written as JSON")
            return ()
        for test in found:
            if not isinstance(test, str) or not test.strip():
                self.wrong.append(f"{key}: {show(test)} is not the name of a test; leave it out")
                return ()
        return tuple(dict.fromkeys(found))


def _read(fields: _Fields) -> TaskRow | None:
    instance_id = _instance_id(fields)
    config = fields.mapping_at("install_config")
    repo = _repo(fields)
    base_commit = _base_commit(fields)
    statement = fields.text("problem_statement", needed="the agent must get the issue's text")
    patch = _patch(fields, "patch", "write the gold patch, which validates the task")
    test_patch = _patch(fields, "test_patch", "without it there are no tests to grade by")
    fail_to_pass, pass_to_pass = _tests(fields)
    image = _image(fields, instance_id, config)
    if fields.text(_image_key(fields)):
        fields.wrong += [f"{_image_key(fields)}: {problem}" for problem in image_problems(image)]
    # `fail_only` is for logs that name no test which passed; a report names all of them.
    if fields.text("eval_type") not in (None, "pass_and_fail", "fail_only"):
        fields.wrong.append(
            f"eval_type: {show(fields.text('eval_type'))} is unknown; allowed are pass_and_fail "
            "and fail_only"
        )
    language = (fields.text("language") or "python").lower()
    eval_script = fields.text("eval_script")
    layout = _layout(fields, image, config, eval_script)
    install = _commands(config, "install", fields)
    test_commands = _commands(config, "test_cmd", fields)
    if not test_commands and eval_script is None:
        if language == "python" and layout == "testbed":
            test_commands = () if own_program(repo) else (DEFAULT_TEST_COMMAND,)
        else:
            fields.wrong.append("install_config.test_cmd: missing; write what runs the tests")
    log_parser = _parser_or_default(fields, config, language, repo)
    environment = _environment(config, fields)
    # What is None was missing, and is wrong.
    if fields.wrong or not (instance_id and repo and base_commit and statement):
        return None
    return TaskRow(
        instance_id=instance_id,
        repo=repo,
        base_commit=base_commit,
        problem_statement=statement,
        patch=patch,
        test_patch=test_patch,
        fail_to_pass=fail_to_pass,
        pass_to_pass=pass_to_pass,
        image=image,
        layout=layout,
        language=language,
        difficulty=_difficulty(fields),
        install=install,
        test_commands=test_commands,
        eval_script=eval_script,
        log_parser=log_parser,
        environment_variables=environment,
    )


def _repo(fields: _Fields) -> str | None:
    repo = fields.text("repo", needed="write it as owner/name")
    if repo is not None and not _is_repo(repo):
        fields.wrong.append(f"repo: {show(repo)} is not a repository; write it as owner/name")
    return repo


def _base_commit(fields: _Fields) -> str | None:
    found = fields.text("base_commit", needed="write 40 hex digits")
    # All data sets have whole hashes. The start of one may mean another commit tomorrow.
    if found is not None and not re.fullmatch(r"[0-9a-f]{40}", found):
        fields.wrong.append(
            f"base_commit: {show(found)} is not a whole commit; write 40 hex digits"
        )
    return found


def _patch(fields: _Fields, key: str, needed: str) -> str:
    found = fields.text(key, needed=needed) or ""
    if found:
        fields.wrong += [f"{key}: {problem}" for problem in _patch_problems(found)]
    return found


def _tests(fields: _Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tests that fail before the patch and pass after it, and those that pass both times."""
    fail_to_pass, pass_to_pass = fields.tests("FAIL_TO_PASS"), fields.tests("PASS_TO_PASS")
    if not fail_to_pass and not any(said.startswith("FAIL_TO_PASS") for said in fields.wrong):
        fields.wrong.append("FAIL_TO_PASS: it is empty; a task needs a test that the patch mends")
    both = [test for test in fail_to_pass if test in set(pass_to_pass)]
    if both:
        fields.wrong.append(
            f"PASS_TO_PASS: {show(both[0])} is in FAIL_TO_PASS too; leave it out of one"
        )
    return fail_to_pass, pass_to_pass


def _instance_id(fields: _Fields) -> str | None:
    found = fields.text("instance_id", needed="write the task's name in its benchmark")
    # It is a task's name, and so a part of paths and of what Snakemake takes for a wildcard.
    if found is not None and (not _NAME.fullmatch(found) or len(found) > _MOST_CHARACTERS):
        fields.wrong.append(
            f"instance_id: {show(found)} cannot be a task's name; allowed are {_MOST_CHARACTERS} "
            "letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
        )
    return found


def _is_repo(repo: str) -> bool:
    parts = repo.split("/")
    return len(parts) == 2 and all(
        re.fullmatch(r"[A-Za-z0-9._-]+", part) and part.strip(".") for part in parts
    )


def _image_key(fields: _Fields) -> str:
    return next((key for key in _IMAGE_KEYS if fields.text(key)), _IMAGE_KEYS[0])


def _image(fields: _Fields, instance_id: str | None, config: Mapping[str, Any]) -> str:
    named = fields.text(_image_key(fields))
    if named is not None:
        return qualified(named.strip())
    # Only SWE-bench's own rows have no install_config.
    return benchmark_image(instance_id or "", "swerebench" if config else "swebench")


def _layout(fields: _Fields, image: str, config: Mapping[str, Any], eval_script: str | None) -> str:
    named = fields.text("layout")
    if named is not None:
        if named not in LAYOUTS:
            fields.wrong.append(f"layout: {show(named)} is not one; write {' or '.join(LAYOUTS)}")
        return named
    if "/sweb.eval." in image:
        return "testbed"
    second = bool(config) and fields.text("language") is not None and eval_script is None
    return "repository" if second or "/swerebenchv2/" in image else "testbed"


def _difficulty(fields: _Fields) -> str | None:
    """As text: `difficulty` itself, or what a language model said (V1 a number, V2 a word)."""
    said = fields.value("difficulty")
    if said is None:
        meta = _plain_mapping(fields.value("meta")) or {}
        of_v1 = _plain_mapping(_value(meta, "llm_score")) or {}
        said = _value(of_v1, "difficulty_score")
        if said is None:
            of_v2 = _value(meta, "llm_metadata")
            if isinstance(of_v2, list) and of_v2 and isinstance(of_v2[0], Mapping):
                of_v2 = of_v2[0]
            said = _value(_plain_mapping(of_v2) or {}, "difficulty")
    return None if said is None else _number_or_text(said)


def _commands(config: Mapping[str, Any], key: str, fields: _Fields) -> tuple[str, ...]:
    value = _value(config, key)
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else _plain_list(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        # `[ -f a ] && b` is a command, too.
        found = _plain_list(value) or [value]
    if found is None or not all(isinstance(line, str) for line in found):
        fields.wrong.append(
            f"install_config.{key}: {show(value)} is neither a command nor a list of commands"
        )
        return ()
    return tuple(line for line in found if line.strip())


def _log_parser(fields: _Fields, config: Mapping[str, Any]) -> str | None:
    for value in (
        fields.text("log_parser"),
        _value(config, "log_parser"),
        *(_plain_list(_value(config, "log_parsers")) or ()),
    ):
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _parser_or_default(
    fields: _Fields, config: Mapping[str, Any], language: str, repo: str | None
) -> str | None:
    """The row's log parser; that of pytest for Python, unless the repository runs its tests by a
    program of its own."""
    log_parser = _log_parser(fields, config)
    if log_parser is None:
        if language != "python":
            fields.wrong.append(
                f"install_config.log_parser: missing; rows in {language} must name theirs"
            )
        log_parser = None if own_program(repo) else DEFAULT_LOG_PARSER
    return log_parser


def _environment(config: Mapping[str, Any], fields: _Fields) -> tuple[tuple[str, str], ...]:
    value = _value(config, "env_vars")
    found = _plain_mapping(value)
    if found is None:
        fields.wrong.append(
            f"install_config.env_vars: {show(value)} is neither a mapping nor one written as JSON"
        )
        return ()
    pairs = []
    for name, content in found.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            fields.wrong.append(
                f"install_config.env_vars: {show(name)} is not the name of a variable"
            )
        elif isinstance(content, Mapping | list):
            fields.wrong.append(
                f"install_config.env_vars: {show(content)} is no value of a variable; write a text"
            )
        elif _value(found, name) is not None:
            pairs.append((name, _number_or_text(content)))
    return tuple(sorted(pairs))


def _patch_problems(patch: str) -> Iterator[str]:
    """What keeps a text from being a unified diff of files below one directory."""
    if not re.search(r"^diff --git \S", patch, re.MULTILINE) or not _CHANGE.search(patch):
        yield "it is not a unified diff with git's headers; write what `git diff` prints"
        return
    headers = diff_headers.read(patch)
    for path in dict.fromkeys(name for header in headers for name in header.names):
        if path.startswith("/") or ".." in path.split("/"):
            yield f"{show(path)} is outside of the repository; write paths below its root"


def _value(mapping: Mapping[str, Any], key: str) -> Any:
    """What is there, None for what is as good as nothing: null and NaN, which is not itself."""
    value = mapping.get(key)
    return None if value is None or (isinstance(value, float) and value != value) else value


def _plain_mapping(value: Any) -> dict[str, Any] | None:
    """A mapping from one, from its JSON text or from pairs; {} for nothing, None for no mapping."""
    if isinstance(value, str):
        if not value.strip():
            return {}
        value = _json(value)
        if value is None:
            return None
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list) and all(isinstance(p, tuple | list) and len(p) == 2 for p in value):
        return {str(name): content for name, content in value}
    return None


def _plain_list(value: Any) -> list[Any] | None:
    if isinstance(value, str):
        value = _json(value)
    return list(value) if isinstance(value, list | tuple) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number_or_text(value: Any) -> str:
    """One spelling, because a column of whole numbers with a gap is one of decimals in Parquet."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
