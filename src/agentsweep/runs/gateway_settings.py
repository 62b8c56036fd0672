"""What a run's gateway is started with, from the run's job: settings, and what it needs of the
host's environment. A credential is read here, in the runner, and goes to the gateway through a
pipe."""

import os
from typing import Any

from agentsweep.gateway import credentials
from agentsweep.runs.job import Job, LiveModel
from agentsweep.typed_json import to_json

# How the host reaches other machines; only a gateway that has to do so gets it.
_WAYS_OUT = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"),
)


def gateway_settings(job: Job) -> dict[str, Any]:
    """The gateway's settings for a job, but for where it listens and writes; may hold a secret.

    Raises ConfigError where the credential of a live model cannot be read.
    """
    settings: dict[str, Any] = to_json(job.model)
    if isinstance(job.model, LiveModel):
        del settings["credential_header"]
        credential = credentials.read(
            job.model.credential, job.model.base_url, job.model.credential_header
        )
        settings["credential"] = credential.to_message() if credential is not None else None
    rules = {} if job.rules is None else to_json(job.rules)
    return settings | {"budget": to_json(job.budget)} | rules


def gateway_environment(job: Job) -> dict[str, str]:
    """The host's proxies and certificates for a live model, nothing for the others."""
    if not job.is_live:
        return {}
    return {name: os.environ[name] for name in _WAYS_OUT if name in os.environ}
