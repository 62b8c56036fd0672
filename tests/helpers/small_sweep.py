"""The files of a small valid sweep, for tests that load, change or break one."""

DIGEST = "sha256:" + "a" * 64
REFERENCE = "oci-archive:images/fix.tar"

CONFIG = """\
dataset: test
sweep:
  tasks: [fix]
  agents: [claude]
  memory: [512MiB, 1GiB]
  cpus: [0.5, 2]
  replicates: 2
tasks:
  fix: fix.yaml
agents:
  claude: {model: scripted, model_id: claude-haiku-4-5-20251001, version: "2.1.330"}
"""
TASK = """\
kind: swe
image: oci-archive:images/fix.tar
problem_statement: It is broken {here}.
scenario: scenario.yaml
"""
SCENARIO = "description: a test\nturns:\n  - text: Done.\n"
IMAGES_LOCK = f"""\
images:
  {REFERENCE}: {{digest: "{DIGEST}", config_digest: "{DIGEST}", platform: linux/amd64}}
"""
AGENTS_LOCK = 'claude: {"2.1.330": {binary_sha256: "' + "b" * 64 + '"}}\n'
FILES = {
    "config.yaml": CONFIG,
    "fix.yaml": TASK,
    "scenario.yaml": SCENARIO,
    "config/images.lock.yaml": IMAGES_LOCK,
    "config/agents.lock.yaml": AGENTS_LOCK,
}


def write(folder):
    """Write all files below a directory."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
