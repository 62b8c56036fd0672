"""A paper's claims and figures, from the data sets of the configuration, in two modes.

REQUIRES the tables of the sweep, if it has cells, and of the imported data sets.
PROVIDES <results>/paper/: claims.{csv,json,md,tex} and each figure as published and corrected.
"""


rule claims:
    """Every claim for every data set, as published and corrected."""
    input:
        tables=paper_tables,
        published=filter(None, [SWEEP.config.paper.published]),
        environment=ENVIRONMENT,
    output:
        expand("<results>/paper/claims.{format}", format=CLAIMS),
    log:
        "<logs>/paper/claims.log",
    retries: RETRIES
    conda:
        "../envs/analysis.yaml"
    params:
        code=codehash.digest("agentsweep.analysis.claims"),
        tables=tables_options,
        published=published_option,
        out=subpath(output[0], parent=True),
    shell:
        "agentsweep claims {params.tables:q} {params.published:q} --out {params.out:q}"
        " > {log:q} 2>&1"


# One rule each, because the caption in a report has to be named when the rule is defined.
for figure in PAPER_FIGURES:

    rule:
        name:
            f"paper_{figure}"
        input:
            tables=paper_tables,
            environment=ENVIRONMENT,
        output:
            expand(
                f"<results>/paper/{figure}_{{mode}}.{{format}}",
                mode=("paper", "corrected"),
                format=("pdf", "json"),
            ),
            f"<results>/paper/{figure}_paper.svg",
            f"<results>/paper/{figure}_paper.rst",
            caption=f"<results>/paper/{figure}_corrected.rst",
            svg=report(
                f"<results>/paper/{figure}_corrected.svg",
                caption=f"../report/paper_{figure}.rst",
                category="Paper",
                labels={"figure": figure.replace("_", " ")},
            ),
        log:
            f"<logs>/paper/{figure}.log",
        retries: RETRIES
        conda:
            "../envs/analysis.yaml"
        params:
            code=codehash.digest(PAPER_SCRIPTS / f"{figure}.py"),
            script=paper_script(figure),
            tables=tables_options,
            out=subpath(output.svg, strip_suffix="_corrected.svg"),
        shell:
            "python {params.script:q} {params.tables:q} --out {params.out:q}"
            " > {log:q} 2>&1"
