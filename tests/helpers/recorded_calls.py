"""What the gateway notes of the calls of a recording."""


def recorded(text="out", **more):
    """A recorded call that was sent on under the same name, and ended well."""
    return {
        "id": "t1",
        "name": "Bash",
        "sent_name": "Bash",
        "offered": True,
        "has_result": True,
        "is_error": False,
        "exit_code": 0,
        "timed_out": False,
        "killed": False,
        "text": text,
        **more,
    }
