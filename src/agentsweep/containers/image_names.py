"""Image references as tasks and rows of benchmarks write them."""

import re
from collections.abc import Iterator

from agentsweep.errors import show

TRANSPORTS = ("docker://", "oci-archive:", "docker-archive:")

# Where the benchmarks' published images lie, by instance.
_BENCHMARK_IMAGE = "docker://docker.io/{namespace}/sweb.eval.x86_64.{name}"
_REGISTRY = re.compile(r"localhost|[^/]*[.:][^/]*|\[[0-9a-f:]+\](:\d+)?")


def benchmark_image(instance_id: str, namespace: str = "swerebench") -> str:
    """The reference of a benchmark's image: `__` is written `_1776_` there, in lower case.

    Docker Hub allows no double underscore. SWE-bench itself publishes in `swebench`.
    """
    name = instance_id.lower().replace("__", "_1776_")
    return _BENCHMARK_IMAGE.format(namespace=namespace, name=name)


def qualified(image: str) -> str:
    """A reference with transport and registry from a name as Docker takes it.

    What has a transport stays as it is; `swebench/a` is on Docker Hub, `debian` is in `library`
    there. Podman would ask which registry is meant, or guess.
    """
    if image.startswith(TRANSPORTS):
        return image
    registry, slash, _ = image.partition("/")
    if slash and _REGISTRY.fullmatch(registry):
        return f"docker://{image}"
    return f"docker://docker.io/{image}" if slash else f"docker://docker.io/library/{image}"


def image_problems(image: str) -> Iterator[str]:
    """What is wrong with a task's image reference, a sentence each."""
    transport = next((known for known in TRANSPORTS if image.startswith(known)), None)
    if transport is None:
        yield (
            f"{show(image)} has no known transport; write one of {', '.join(TRANSPORTS)} before it"
        )
        return
    registry, slash, name = image.removeprefix(transport).partition("/")
    if re.search(r"\s", image) or image == transport:
        yield f"{show(image)} is not an image reference"
    elif transport == "docker://" and not (slash and name and _REGISTRY.fullmatch(registry)):
        yield (
            f"{show(image)} names no registry; write it out, as in "
            "docker://docker.io/library/debian:12"
        )


def is_loopback(reference: str) -> bool:
    """Whether a registry is on this machine, where nobody serves TLS."""
    host = reference.removeprefix("docker://").split("/")[0].rsplit(":", 1)[0]
    return reference.startswith("docker://") and (
        host in ("localhost", "[::1]") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None
    )
