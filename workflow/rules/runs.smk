"""Runs: one agent, in one container, under one pair of limits.

REQUIRES the image's record.
PROVIDES <results>/runs/<cell>/: what the run said and what was measured. An agent that is killed,
times out or fails is data and ends this job well; only a host, engine or endpoint that fails ends
it badly. The store keeps every run: a job whose spec it has sealed recalls it and runs nothing.
"""


# Sessions are counted over all nodes; `at_once`, where a profile caps it, in each cluster job.
resource_scopes:
    agent_sessions="global",
    at_once="local",


# Snakemake calls it before the first job, and neither in dry runs nor in the processes of jobs.
onstart:
    # Snakemake knows it only now. Jobs inherit it.
    os.environ[retries.RETRIES] = str(workflow.execution_settings.retries)
    if not workflow.touch:
        refuse_beforehand()


onsuccess:
    shutil.rmtree(NOTES, ignore_errors=True)
    say_coverage()


onerror:
    shutil.rmtree(NOTES, ignore_errors=True)
    report_failures()


rule agent_run:
    """Measure a cell, or recall its run from the store."""
    input:
        image=image_record,
    output:
        "<results>/runs/<cell>/trace.jsonl",
        "<results>/runs/<cell>/api.jsonl",
        "<results>/runs/<cell>/marks.jsonl",
        "<results>/runs/<cell>/patch.diff",
        "<results>/runs/<cell>/session.tar",
        samples=ensure("<results>/runs/<cell>/samples.arrow", non_empty=True),
        result=ensure("<results>/runs/<cell>/result.json", non_empty=True),
    log:
        "<logs>/agent_run/<cell>.log",
    # Extraction and plotting share the machine with what is measured: runs go first.
    priority: 10
    retries: RETRIES
    conda:
        "../envs/runner.yaml"
    threads: cell_cores
    resources:
        mem_mb=cell_mem_mb,
        runtime=cell_minutes,
        agent_sessions=1,
        # What profiles/slurm packs by: how many runs one of its jobs makes at a time.
        at_once=1,
    params:
        cell=cell_id,
        spec=cell_spec,
        spec_sha256=cell_spec_sha256,
        run=cell_run,
        config=cell_config,
        reservation=reservation,
        out=subpath(output.result, parent=True),
    shell:
        "agentsweep run {params.cell:q} --config - --spec {params.spec_sha256}"
        " --image {input.image:q} --out {params.out:q} < {params.config:q} > {log:q} 2>&1"
