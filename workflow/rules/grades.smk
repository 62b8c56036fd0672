"""Grades: did the patch of a run resolve its task?

REQUIRES the runs of tasks that have a benchmark row, and nothing of other tasks.
PROVIDES <results>/grades/<task>/<patch sha256>/: the evidence of each distinct patch's grading,
made once, however many runs left the patch. The store keeps it: a patch whose grading it has sealed
needs no container. What the evidence amounts to is decided where the data set is made.
<results>/validation/<row>~<key>.json: whether the row's own patch resolves its task and no patch
does not, made once for each row and image, whatever the tasks of it are called.
"""


localrules:
    patches,
    validate_tasks,


checkpoint patches:
    """List the distinct patches that the runs left."""
    input:
        results=graded_results,
    output:
        list="<results>/grades/patches.json",
    log:
        "<logs>/patches.log",
    retries: RETRIES
    conda:
        "../envs/analysis.yaml"
    params:
        code=codehash.digest("agentsweep.grading.patches"),
        runs=graded_runs,
    shell:
        "agentsweep patches --list {params.runs:q} --out {output.list:q} > {log:q} 2>&1"


rule grade:
    """Run a task's tests on a patch in a fresh container, or recall its grading."""
    output:
        "<results>/grades/{graded}/{patch}/evidence.tar.gz",
        grade=ensure("<results>/grades/{graded}/{patch}/grade.json", non_empty=True),
    log:
        "<logs>/grade/{graded}/{patch}.log",
    retries: RETRIES
    conda:
        "../envs/runner.yaml"
    threads: grading_plan.cores(GRADER)
    resources:
        mem_mb=grading_plan.mem_mb(GRADER),
        runtime=grading_plan.minutes(GRADER),
    params:
        spec=grading_spec,
        patch=patch_file,
        config=task_config,
        out=subpath(output.grade, parent=True),
    shell:
        "agentsweep grade {wildcards.graded:q} --patch {params.patch:q}"
        " --config - --out {params.out:q} < {params.config:q} > {log:q} 2>&1"


rule validate_task:
    """See whether a task's gold patch resolves it and no patch does not."""
    output:
        "<results>/validation/{validated}.json",
    log:
        "<logs>/validate_task/{validated}.log",
    # Whoever looks on sees early that runs of a task are for nothing.
    priority: 20
    retries: RETRIES
    conda:
        "../envs/runner.yaml"
    threads: grading_plan.cores(GRADER)
    resources:
        mem_mb=grading_plan.mem_mb(GRADER),
        runtime=grading_plan.minutes(GRADER, 2 * VALIDATIONS),
    params:
        spec=validation_spec,
        repeats=VALIDATIONS,
        code=codehash.digest("agentsweep.grading.evidence"),
        task=validation_name,
        config=validation_config,
    shell:
        "agentsweep validate-task {params.task:q} --config -"
        " --out {output:q} < {params.config:q} > {log:q} 2>&1"


rule validate_tasks:
    """Say which tasks of the sweep are valid, and why the others are not."""
    input:
        validation_records(),
    log:
        "<logs>/validate_tasks.log",
    retries: RETRIES
    conda:
        "../envs/analysis.yaml"
    params:
        records=validation_list,
    shell:
        "agentsweep validations --list {params.records:q} 2>&1 | tee {log:q}"
