"""What a run's gateway is started with, from the run's job: settings, and what it needs of the
host's environment. A credential is read here, in the runner, and goes to the gateway through a
pipe."""

import os
from typing import Any

from agentsweep.gateway import credentials

# How the host reaches other machines; only a gateway that has to do so gets it.
_WAYS_OUT = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"),
)


def gateway_settings(job: dict[str, Any]) -> dict[str, Any]:
    """The gateway's settings for a job, but for where it listens and writes; may hold a secret.

    Raises ConfigError where the credential of a live model cannot be read.
    """
    model = dict(job["model"])
    if model["mode"] == "live":
        reference, header = model.pop("credential"), model.pop("credential_header")
        credential = credentials.read(reference, model["base_url"], header)
        model["credential"] = credential.to_message() if credential is not None else None
    return model | {"budget": job["budget"]} | job.get("rules", {})


def gateway_environment(job: dict[str, Any]) -> dict[str, str]:
    """The host's proxies and certificates for a live model, nothing for the others."""
    if job["model"]["mode"] != "live":
        return {}
    return {name: os.environ[name] for name in _WAYS_OUT if name in os.environ}
