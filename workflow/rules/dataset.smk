"""The data set: all runs' tables, one file each.

REQUIRES the extracted tables of every cell (with `partial: true`, of the cells that have a run),
the gradings of their patches, and the validations of their tasks.
PROVIDES <results>/dataset/: runs, tool_calls, api_calls, messages, samples, tests, hosts (Parquet),
and cells.json, which says how many cells are wanted and how many have a run.
"""


rule dataset:
    """Aggregate the tables of all runs."""
    input:
        tables=extracted_tables,
        patches=patch_list,
        grades=grades,
        validations=dataset_validations,
        # Other versions of the libraries may write other files.
        environment=ENVIRONMENT,
    output:
        expand("<results>/dataset/{table}.parquet", table=DATASET_TABLES),
        "<results>/dataset/cells.json",
    log:
        "<logs>/dataset.log",
    retries: RETRIES
    conda:
        "../envs/analysis.yaml"
    params:
        code=codehash.digest(
            "agentsweep.extraction.aggregate", "agentsweep.grading.run_grades"
        ),
        directories=extracted_directories,
        patches=patch_list_option,
        # Tracked: with `partial`, one more wanted cell changes captions and no input.
        cells=len(SWEEP.cells),
        ungradable=ungradable_digest(),
        keep_invalid=SWEEP.config.grading.keep_invalid,
        judged=judged_tasks,
        out=subpath(output[0], parent=True),
    shell:
        "agentsweep dataset --list {params.directories:q} {params.patches:q}"
        " --judged {params.judged:q} --cells {params.cells} --out {params.out:q} > {log:q} 2>&1"
