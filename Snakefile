"""agentsweep: what memory and CPU limits do to coding agents, measured.

    snakemake -n                 what would be done (offline, no engine, no key)
    snakemake --cores 8          everything: images, runs, tables, figures
    snakemake --cores 8 runs     the measurements alone, with nothing else on the machine

Other targets: images, extracted, dataset, figures, paper, validate_tasks, lock, doctor. Settings: config/README.md.
"""

from snakemake.utils import min_version

min_version("9.21.1")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/traces.smk"
include: "workflow/rules/grades.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/imports.smk"
include: "workflow/rules/paper.smk"


localrules:
    all,
    images,
    runs,
    extracted,
    figures,
    paper,
    lock,
    doctor,


rule all:
    """Figures and the tables that they are drawn from; the paper's, where runs are imported."""
    default_target: True
    input:
        [*rules.tasks.output, *rules.dataset.output, *figure_files()]
        if SWEEP.cells
        else [],
        paper_files() if IMPORTS else [],


rule images:
    """Every task's image, pulled and fixed."""
    input:
        image_records(),


rule runs:
    """Every cell's run: measured, or recalled from the store."""
    input:
        run_results,


rule extracted:
    """Every cell's run and its tables: all that cluster jobs can be packed of, and no grading."""
    input:
        extracted_tables,


rule figures:
    """Every figure, as PDF, SVG and PNG."""
    input:
        figure_files(),


rule paper:
    """The claims and figures of a paper, from the sweep's runs and the imported ones."""
    input:
        paper_files(),


rule lock:
    """Look every image reference up and write its digest to the lock file."""
    log:
        "<logs>/lock.log",
    retries: RETRIES
    conda:
        "workflow/envs/runner.yaml"
    params:
        config=whole_config,
    shell:
        "agentsweep lock --config - < {params.config:q} 2>&1 | tee {log:q}"


rule doctor:
    """Check this host, and say how to mend it."""
    log:
        "<logs>/doctor.log",
    retries: RETRIES
    conda:
        "workflow/envs/runner.yaml"
    params:
        config=whole_config,
    shell:
        "agentsweep doctor --config - < {params.config:q} 2>&1 | tee {log:q}"
