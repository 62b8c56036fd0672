"""A run in a locale whose encoding is not UTF-8: the agent gets the text as it was written."""

import hashlib
import json

import engine_in_use
import locales

from conftest import Lab, agentsweep, bash

# Line ends of all kinds, what some take for one, marks, and characters of one to four bytes.
TEXT = (
    "Größe in Straße → 日本 🙂 e\N{COMBINING ACUTE ACCENT}\r\nx\r\n\r"
    "y\u2028z\x85\x0c\ufeff\t\\n $(x) `y`\n"
)
WRITTEN = "größe → 日本 🙂"


def test_the_agent_gets_the_text_as_written_and_its_text_comes_back(tmp_path, images):
    """Also in folders whose names are not ASCII; any other locale recalls the run."""
    folder = tmp_path / "größe →"
    folder.mkdir()
    lab = Lab(folder, images)
    prompt = f"In {engine_in_use.NAME}: {TEXT}"
    scenario = {
        "turns": [
            bash(f"printf %s '{WRITTEN}' > '{WRITTEN}.txt'; cat *.txt"),
            {"text": TEXT},
        ]
    }
    task = {"prompt": prompt, "environment": f"export GREETING='{WRITTEN}'"}
    result = lab.run(scenario, env=locales.environment("ISO-8859-1"), task=task)
    assert result["outcome"] == "completed"
    records = lab.lines("trace.jsonl")
    first = next(record for record in records if record["type"] == "user")
    assert first["message"]["content"] == prompt
    said = hashlib.sha256(first["message"]["content"].encode()).hexdigest()
    assert result["spec"]["prompt_sha256"] == said
    answers = json.dumps(records[records.index(first) + 1 :], ensure_ascii=False)
    assert WRITTEN in answers and "\ufffd" not in answers
    patch = (lab.out / "patch.diff").read_bytes()
    assert f"+{WRITTEN}".encode() in patch
    # git writes names that are not ASCII in octal, whatever the locale.
    assert b'"b/gr\\303\\266\\303\\237e ' in patch
    for locale in locales.NAMES:
        again = agentsweep(*lab.arguments(folder / "config.yaml"), env=locales.environment(locale))
        assert "recalled sealed attempt" in again.stdout and "garbled" not in again.stdout
    assert lab.attempts() == ["attempt-1"]
