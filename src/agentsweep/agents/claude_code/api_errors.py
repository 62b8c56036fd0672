"""Failed requests as a session tells of them: given up or retried."""

from typing import Any

from agentsweep.agents.claude_code.records import ApiError, as_text

# A year; what is longer is no wait.
_LONGEST_WAIT_MS = 366 * 86_400_000
_TEXT_CHARS = 500


def fatal(record: dict[str, Any], text: str, utc_ns: int | None, agent_id: str | None) -> ApiError:
    """The error that ended a turn, of the assistant's record that says so and its text."""
    status = record.get("apiErrorStatus")
    status = status if type(status) is int else None
    said = as_text(text[:_TEXT_CHARS]) or ""
    return ApiError(utc_ns, True, status, said, agent_id=agent_id)


def retried(record: dict[str, Any], utc_ns: int | None, agent_id: str | None) -> ApiError:
    """The error after which the CLI asked again, of the system's record that says so."""
    detail = record.get("error")
    detail = detail if isinstance(detail, dict) else {}
    status = detail.get("status")
    connection = detail.get("connection") or detail.get("cause")
    code = connection.get("code") if isinstance(connection, dict) else None
    text = as_text(detail.get("formatted")) or as_text(detail.get("message")) or as_text(code) or ""
    status = status if type(status) is int else None
    error = ApiError(utc_ns, False, status, text[:_TEXT_CHARS], agent_id=agent_id)
    attempt, wait = record.get("retryAttempt"), record.get("retryInMs")
    error.retry_attempt = attempt if type(attempt) is int else None
    if (type(wait) is int or type(wait) is float) and 0 <= wait <= _LONGEST_WAIT_MS:
        error.retry_in_ms = float(wait)
    return error
