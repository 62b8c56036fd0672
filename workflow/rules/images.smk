"""Task images: pulled by the digest in the lock file, then made ready for the agent's user.

REQUIRES nothing but the configuration: the digest is a source, in git.
PROVIDES <results>/images/<image>~<key>/image.json, where <key> stands for the reference, its
digest, the agent's user, the work tree and the recipe. A new digest is a new path.
"""

# Of use on a cluster alone, whose nodes may lack the way to a registry, or the login node an engine.
if SWEEP.config.images.prepare == "here":
    IMAGE_GROUP = None

    localrules:
        image_pull,
        image_fix,

else:
    # One job on one node, because what is fixed must be in the storage to which it was pulled.
    IMAGE_GROUP = "image"


rule image_pull:
    """Pull an image by its locked digest."""
    output:
        "<results>/images/{image}~{key}/pulled.json",
    log:
        "<logs>/image_pull/{image}~{key}.log",
    retries: RETRIES
    group:
        IMAGE_GROUP
    conda:
        "../envs/runner.yaml"
    params:
        reference=lambda wildcards: image_of(wildcards).reference,
        digest=lambda wildcards: image_of(wildcards).digest or "unlocked",
        config_digest=lambda wildcards: image_of(wildcards).config_digest or "unlocked",
        engine=engine_options,
    shell:
        "agentsweep image-pull --reference {params.reference:q} --digest {params.digest:q}"
        " --config-digest {params.config_digest:q} {params.engine:q} --out {output:q}"
        " > {log:q} 2>&1"


rule image_fix:
    """Give the work tree of an image to the agent's user, without later git history, once."""
    input:
        pulled="<results>/images/{image}~{key}/pulled.json",
    output:
        "<results>/images/{image}~{key}/image.json",
    log:
        "<logs>/image_fix/{image}~{key}.log",
    retries: RETRIES
    group:
        IMAGE_GROUP
    conda:
        "../envs/runner.yaml"
    params:
        workdir=lambda wildcards: image_of(wildcards).workdir,
        uid=lambda wildcards: image_of(wildcards).uid,
        gid=lambda wildcards: image_of(wildcards).gid,
        tag=lambda wildcards: image_of(wildcards).tag,
        base_commit=base_commit_option,
        engine=engine_options,
    shell:
        "agentsweep image-fix --pulled {input.pulled:q} --workdir {params.workdir:q}"
        " --uid {params.uid} --gid {params.gid} --tag {params.tag:q}"
        " {params.base_commit:q} {params.engine:q} --out {output:q} > {log:q} 2>&1"
