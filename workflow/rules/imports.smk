"""Imports: runs that others made, in our own tables.

REQUIRES the files of a data set that `imports` names.
PROVIDES <results>/imported/<name>/: runs, tool_calls, messages, samples (Parquet).
"""


rule import_run:
    """Import all attempts of a data set; one job for all, because each takes milliseconds."""
    input:
        files=import_files,
    output:
        expand("<results>/imported/{{imported}}/{table}.parquet", table=IMPORTED_TABLES),
    log:
        "<logs>/import_run/{imported}.log",
    retries: RETRIES
    conda:
        "../envs/analysis.yaml"
    params:
        layout=import_setting("layout"),
        attempts=import_setting("attempts"),
        places=import_places,
        code=codehash.digest("agentsweep.extraction.importer"),
        # Untracked as a path: the files are the input.
        directory=lambda wildcards, input: IMPORTS[wildcards.imported].directory,
        out=subpath(output[0], parent=True),
    shell:
        "agentsweep import {params.directory:q} --name {wildcards.imported:q}"
        " --layout {params.layout:q} --attempts {params.attempts:q} --out {params.out:q}"
        " > {log:q} 2>&1"
