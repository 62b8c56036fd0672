"""Which secret a live run uses, and that it shows up nowhere."""

import base64
import html
import itertools
import json
import os
import re
import signal
import stat
import traceback
import urllib.parse

import pytest

from agentsweep.errors import ConfigError
from agentsweep.gateway.credentials import ANTHROPIC, REDACTED, Credential, Redactor, forms, read

KEY = "sk-ant-api03-canary-6d1f"
OAUTH = "sk-ant-oat01-canary-77aa"


@pytest.fixture
def secret_file(tmp_path):
    """Makes a file that holds these bytes; a mode that only its owner may use unless said."""

    def make(content: bytes = KEY.encode() + b"\n", mode: int = 0o600):
        path = tmp_path / "key"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return make


def refusal(*arguments, **more) -> str:
    """The sentence with which `read` refuses; it and the traceback hold no secret."""
    with pytest.raises(ConfigError) as caught:
        read(*arguments, **more)
    (sentence,) = caught.value.problems
    assert "\n" not in sentence
    for text in (sentence, repr(caught.value), *traceback.format_exception(caught.value)):
        assert "canary" not in text
    return sentence


# Which one


def test_the_default_is_the_first_of_anthropics_variables_that_is_set():
    environ = {
        "ANTHROPIC_API_KEY": "a-canary",
        "ANTHROPIC_AUTH_TOKEN": "b-canary",
        "CLAUDE_CODE_OAUTH_TOKEN": "c-canary",
    }
    assert read(None, None, environ=environ) == Credential("x-api-key", "a-canary")
    environ["ANTHROPIC_API_KEY"] = ""
    assert read(None, None, environ=environ) == Credential("bearer", "b-canary")
    del environ["ANTHROPIC_AUTH_TOKEN"]
    assert read(None, None, environ=environ) == Credential("bearer", "c-canary")


def test_the_default_takes_the_process_environment(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert read(None, None) == Credential("x-api-key", KEY)


@pytest.mark.parametrize("base_url", [ANTHROPIC, ANTHROPIC + "/"])
def test_anthropics_own_address_is_the_default_one(base_url):
    assert read(None, base_url, environ={"ANTHROPIC_API_KEY": KEY}).secret == KEY


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:8000", "https://api.anthropic.com.example.org"]
)
def test_no_key_goes_to_another_server_by_default(base_url):
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_AUTH_TOKEN": KEY}
    assert read(None, base_url, environ=environ) is None
    assert read("env:ANTHROPIC_API_KEY", base_url, environ=environ).secret == KEY


def test_none_is_none_whatever_is_set():
    assert read("none", None, environ={"ANTHROPIC_API_KEY": KEY}) is None


def test_a_missing_key_says_what_was_looked_for():
    sentence = refusal(None, None, environ={"ANTHROPIC_API_KEY": ""})
    for said in (
        "no key for the live model: set ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "agents.<name>.credential",
    ):
        assert said in sentence


@pytest.mark.parametrize("environ", [{}, {"MY_KEY": ""}])
def test_a_named_variable_must_be_set(environ):
    assert "MY_KEY is not set" in refusal("env:MY_KEY", None, environ=environ)


@pytest.mark.parametrize(
    "value", [KEY + "\n" + KEY, "a canary", "canary\N{EURO SIGN}", "\x7fcanary"]
)
def test_a_variable_holds_one_line_of_printable_ascii(value):
    assert "the variable MY_KEY" in refusal("env:MY_KEY", None, environ={"MY_KEY": value})


@pytest.mark.parametrize(
    "reference",
    [KEY, f"env:{KEY}", f"file:{KEY}", f"key:{KEY}", "env:", "file:", "", "None", "file:~/canary"],
)
def test_a_key_in_the_place_of_a_reference_is_refused_and_not_repeated(reference):
    assert "write env:NAME, file:/absolute/path or none" in refusal(reference, None, environ={})


# Which header


@pytest.mark.parametrize(
    ("reference", "secret", "header", "kind"),
    [
        ("env:ANTHROPIC_API_KEY", KEY, "auto", "x-api-key"),
        ("env:OTHER", KEY, "auto", "x-api-key"),
        ("env:OTHER", OAUTH, "auto", "bearer"),
        ("env:ANTHROPIC_API_KEY", OAUTH, "auto", "bearer"),
        ("env:ANTHROPIC_AUTH_TOKEN", KEY, "auto", "bearer"),
        ("env:CLAUDE_CODE_OAUTH_TOKEN", KEY, "auto", "bearer"),
        ("env:ANTHROPIC_AUTH_TOKEN", KEY, "x-api-key", "x-api-key"),
        ("env:OTHER", KEY, "bearer", "bearer"),
        ("env:OTHER", OAUTH, "x-api-key", "x-api-key"),
    ],
)
def test_the_kind_of_header(reference, secret, header, kind):
    variable = reference.removeprefix("env:")
    assert read(reference, None, header, {variable: secret}) == Credential(kind, secret)


def test_an_unknown_kind_of_header_is_refused():
    assert "write auto, x-api-key, bearer" in refusal("env:K", None, "canary", {"K": KEY})


def test_headers():
    sent = {"anthropic-beta": "one, two", "x-other": "1"}
    assert Credential("x-api-key", KEY).headers(sent) == {"x-api-key": KEY}
    assert Credential("bearer", KEY).headers(sent) == {"authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("sent", "given"),
    [
        ({}, "oauth-2025-04-20"),
        ({"anthropic-beta": ""}, "oauth-2025-04-20"),
        ({"anthropic-beta": "one, two"}, "one,two,oauth-2025-04-20"),
        ({"anthropic-beta": "oauth-2025-04-20,one"}, "one,oauth-2025-04-20"),
    ],
)
def test_an_oauth_token_says_that_it_is_one_once(sent, given):
    assert Credential("bearer", OAUTH).headers(sent) == {
        "authorization": f"Bearer {OAUTH}",
        "anthropic-beta": given,
    }


# From a file


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_file_gives_its_line(secret_file, mode, end):
    path = secret_file(KEY.encode() + end, mode)
    assert read(f"file:{path}", None) == Credential("x-api-key", KEY)


def test_a_file_may_hold_an_oauth_token(secret_file):
    assert read(f"file:{secret_file(OAUTH.encode())}", None).kind == "bearer"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o601, 0o620, 0o602, 0o644])
def test_a_file_that_others_may_use_is_refused(secret_file, mode):
    path = secret_file(mode=mode)
    sentence = refusal(f"file:{path}", None)
    assert f"{path} is open to other users (mode {mode:04o}); run chmod 600 {path}" in sentence


def test_a_file_of_another_user_is_refused(secret_file, monkeypatch):
    path = secret_file()
    if os.getuid() == 0:
        os.chown(path, 1, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    sentence = refusal(f"file:{path}", None)
    assert f"{path} belongs to another user" in sentence
    assert f"chmod 600 {path}" in sentence


def test_a_file_of_root_is_good_for_everybody(secret_file, monkeypatch):
    path = secret_file()
    status = os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, 0, 0, len(KEY), 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda descriptor: status)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert read(f"file:{path}", None).secret == KEY


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"canary\nmore\n", "more than one line"),
        (b"canary more", "a space or a character"),
        (b"canary\x00", "a space or a character"),
        ("canary\N{EURO SIGN}".encode(), "a space or a character"),
        (b"canary" * 11000, "is larger than 65536 bytes"),
    ],
)
def test_a_file_holds_one_line_of_printable_ascii(secret_file, content, said):
    path = secret_file(content)
    sentence = refusal(f"file:{path}", None)
    assert f"{path} {said}" in sentence or f"{path} has {said}" in sentence
    assert f"chmod 600 {path}" in sentence


@pytest.fixture
def seconds_only():
    """Ends a test that waits, by an exception."""

    def waited(number, frame):
        raise TimeoutError("the test took too long")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("seconds_only")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder"):
        sentence = refusal(f"file:{tmp_path / name}", None)
        assert f"{tmp_path / name} is not a regular file" in sentence
        assert f"chmod 600 {tmp_path / name}" in sentence


def test_a_link_is_followed_and_its_target_checked(secret_file, tmp_path):
    path = secret_file()
    (tmp_path / "link").symlink_to(path)
    assert read(f"file:{tmp_path / 'link'}", None).secret == KEY
    path.chmod(0o644)
    assert "is open to other users" in refusal(f"file:{tmp_path / 'link'}", None)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "a key"
    sentence = refusal(f"file:{path}", None)
    assert f"{path} cannot be read: No such file or directory" in sentence
    assert f"chmod 600 '{path}'" in sentence


# To the gateway


@pytest.mark.parametrize("credential", [Credential("x-api-key", KEY), Credential("bearer", OAUTH)])
def test_a_message_holds_all_of_it(credential):
    message = json.loads(json.dumps(credential.to_message()))
    assert all(isinstance(value, str) for value in message.values())
    assert Credential.from_message(message) == credential


@pytest.mark.parametrize(
    "message",
    [
        None,
        KEY,
        {},
        {"kind": "bearer"},
        {"kind": "auto", "secret": KEY},
        {"kind": KEY, "secret": KEY},
        {"kind": "bearer", "secret": 1},
        {"kind": "bearer", "secret": ""},
        {"kind": "bearer", "secret": KEY + "\r\nx: y"},
        {"kind": "bearer", "secret": KEY, "more": "1"},
    ],
)
def test_another_message_is_refused(message):
    with pytest.raises(ConfigError) as caught:
        Credential.from_message(message)
    assert "canary" not in str(caught.value)


# Out of sight


@pytest.mark.parametrize("kind", ["x-api-key", "bearer"])
def test_no_representation_shows_the_secret(kind):
    credential = Credential(kind, KEY)
    for text in (repr(credential), str(credential), f"{credential}", "%s %r" % ((credential,) * 2)):
        assert "canary" not in text
    assert kind in repr(credential)
    assert credential.secrets == forms(KEY.encode())


def lower_escapes(text: str) -> str:
    return re.sub("%..", lambda found: found[0].lower(), text)


# With what JSON, URLs and base64 write in another way.
ODD_KEY = b'sk-ant-"a\\b/c+d%e?f>~~~0123456789'
CODED = {
    "plain": bytes,
    "hexadecimal": lambda text: text.hex().encode(),
    "upper hexadecimal": lambda text: text.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 for URLs": base64.urlsafe_b64encode,
    "URL": lambda text: urllib.parse.quote(text, safe="").encode(),
    "URL with slashes": lambda text: urllib.parse.quote(text).encode(),
    "URL in lower case": lambda text: lower_escapes(urllib.parse.quote(text, safe="")).encode(),
    "JSON": lambda text: json.dumps(text.decode()).encode(),
    "JSON of PHP": lambda text: json.dumps(text.decode()).replace("/", "\\/").encode(),
    "percents": lambda text: "".join(f"%{byte:02X}" for byte in text).encode(),
    "JSON escapes": lambda text: "".join(f"\\u{byte:04x}" for byte in text).encode(),
    "Python escapes": lambda text: "".join(f"\\x{byte:02x}" for byte in text).encode(),
    "HTML": lambda text: "".join(f"&#{byte};" for byte in text).encode(),
    "hexadecimal HTML": lambda text: "".join(f"&#x{byte:x};" for byte in text).encode(),
    "upper hexadecimal HTML": lambda text: "".join(f"&#x{byte:X};" for byte in text).encode(),
    "text in HTML": lambda text: html.escape(text.decode()).encode(),
}


@pytest.mark.parametrize("key", [KEY.encode(), ODD_KEY, b"sk-123456789"])
@pytest.mark.parametrize("how", CODED)
def test_a_secret_that_somebody_coded_is_replaced_too(key, how):
    """With what stands around it, of any length: base64 writes it in another way each time."""
    redactor = Redactor(Credential("x-api-key", key.decode()).secrets)
    for before, behind in itertools.product(range(5), range(5)):
        coded = CODED[how](b"~" * before + key + b"?" * behind)
        clean = redactor.whole(coded)
        # Of base64, at most a character at either end is left.
        around = len(coded) - len(CODED[how](key)) + 4
        assert clean.count(REDACTED) == 1 and len(clean) - len(REDACTED) <= around, clean
        middle = len(coded) // 2
        assert fed(redactor, (coded[:middle], coded[middle:])) == clean


def test_what_is_no_secret_stays():
    redactor = Redactor(Credential("x-api-key", KEY).secrets)
    for text in (KEY[:-1], KEY[1:], KEY.upper(), "sk-ant-", "&#115;&#107;"):
        assert redactor.whole(text.encode()) == text.encode()


def fed(redactor: Redactor, chunks) -> bytes:
    return b"".join([*map(redactor.feed, chunks), redactor.end()])


STREAM = b"data: abcabc, abcd and bcde; abcabab abc"


@pytest.mark.parametrize(
    ("secrets", "clean"),
    [
        ([b"abcd"], b"data: abcabc, # and bcde; abcabab abc"),
        ([b"abcab"], b"data: #c, abcd and bcde; #ab abc"),
        # The longest of those that begin in one place; the first of those that overlap.
        ([b"abc", b"abcd"], b"data: ##, # and bcde; #abab #"),
        ([b"abcabx", b"bca"], b"data: a#bc, abcd and bcde; a#bab abc"),
        ([b"bcd", b"abc", b"cde"], b"data: ##, #d and #e; #abab #"),
        ([b"c"], b"data: ab#ab#, ab#d and b#de; ab#abab ab#"),
        ([STREAM], b"#"),
        ([], STREAM),
    ],
)
def test_secrets_are_replaced_wherever_a_stream_is_cut(secrets, clean):
    clean = clean.replace(b"#", REDACTED)
    assert Redactor(secrets).whole(STREAM) == clean
    redactor = Redactor(secrets)
    for first, second in itertools.combinations_with_replacement(range(len(STREAM) + 1), 2):
        chunks = (STREAM[:first], STREAM[first:second], STREAM[second:])
        assert fed(redactor, chunks) == clean, (first, second)
    assert fed(redactor, (bytes([byte]) for byte in STREAM)) == clean


def test_only_what_may_be_a_secret_is_held_back():
    redactor = Redactor([b"secret"])
    assert redactor.feed(b"nothing here") == b"nothing here"
    assert redactor.feed(b"a seesec") == b"a see"
    assert redactor.feed(b"re") == b""
    assert redactor.feed(b"d!") == b"secred!"
    assert redactor.feed(b"secret") == REDACTED
    assert redactor.feed(b"secre") == b""
    assert redactor.end() == b"secre"
    assert redactor.end() == b""


def test_a_whole_secret_is_not_held_back_for_a_longer_one():
    assert Redactor([b"secret", b"another one"]).feed(b"a secret") == b"a " + REDACTED


def test_an_empty_secret_is_an_error():
    with pytest.raises(ValueError, match="empty secret"):
        Redactor([b"secret", b""])


def test_a_secret_with_signs_of_patterns_is_taken_literally():
    assert Redactor([b"a.c", b"x|y\\1"]).whole(b"abc a.c x x|y\\1") == b"abc # x #".replace(
        b"#", REDACTED
    )
