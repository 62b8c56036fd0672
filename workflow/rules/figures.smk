"""Figures: one script each, below workflow/scripts/figures.

REQUIRES the data set.
PROVIDES <results>/figures/<name>.{pdf,svg,png}, the numbers of its caption
(.json) and the caption itself (.rst).
"""

# One rule each, because the caption in a report has to be named when the rule is defined.
for figure in FIGURES:

    rule:
        name:
            f"figure_{figure}"
        input:
            rules.dataset.output,
            environment=ENVIRONMENT,
        output:
            f"<results>/figures/{figure}.pdf",
            f"<results>/figures/{figure}.png",
            numbers=f"<results>/figures/{figure}.json",
            caption=f"<results>/figures/{figure}.rst",
            svg=report(
                f"<results>/figures/{figure}.svg",
                caption=f"../report/{figure}.rst",
                category="Figures",
                labels={"figure": figure.replace("_", " ")},
            ),
        log:
            f"<logs>/figures/{figure}.log",
        retries: RETRIES
        conda:
            "../envs/analysis.yaml"
        resources:
            # A cluster job draws all of them, and must not ask for room for all at once.
            at_once=1,
            runtime=10,
        params:
            code=figure_code(figure),
            script=figure_script(figure),
            dataset=subpath(input[0], parent=True),
            out=subpath(output.svg, strip_suffix=".svg"),
        shell:
            "python {params.script:q} --dataset {params.dataset:q} --out {params.out:q}"
            " > {log:q} 2>&1"
