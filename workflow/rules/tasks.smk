"""What the sweep's tasks are.

REQUIRES nothing but the configuration and the files with rows that it names.
PROVIDES <results>/tasks.json: each task with the hash of its row, each set with its source.
"""


localrules:
    tasks,


rule tasks:
    """Write down which tasks the sweep has, and where they are from."""
    input:
        tasks_file.sources(SWEEP.config),
    output:
        "<results>/tasks.json",
    log:
        "<logs>/tasks.log",
    retries: RETRIES
    conda:
        "../envs/runner.yaml"
    params:
        # All that the file says but the hashes of its sources, so that no hash of code is needed.
        tasks=tasks_file.digest(SWEEP.config),
        config=whole_config,
    shell:
        "agentsweep tasks --config - --out {output:q} < {params.config:q} > {log:q} 2>&1"
