"""Extraction: one run's files to tables, once for each run and version of the parser.

REQUIRES a run's files.
PROVIDES <results>/extracted/<cell>/: runs, tool_calls, api_calls, messages, samples (Parquet).
"""


rule trace_extract:
    """Extract a run's tables."""
    input:
        rules.agent_run.output,
    output:
        expand(
            "<results>/extracted/<cell>/{table}.parquet",
            table=TABLES,
            allow_missing=True,
        ),
    log:
        "<logs>/trace_extract/<cell>.log",
    retries: RETRIES
    conda:
        "../envs/analysis.yaml"
    resources:
        # As for the run: a cluster job that packs many must not ask for room for all at once.
        at_once=1,
    params:
        cell=cell_id,
        dataset=SWEEP.config.dataset,
        code=codehash.digest("agentsweep.extraction.extract"),
        run=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
    shell:
        "agentsweep extract {params.run:q} --run-id {params.cell:q} --out {params.out:q}"
        " --dataset {params.dataset:q} > {log:q} 2>&1"
