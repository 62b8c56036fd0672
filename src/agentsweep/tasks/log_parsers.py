"""The benchmark's names of what reads the output of tests, and the repositories with their own.

The benchmark's package cannot be had without engines and cloud clients, so that none of its other
parsers are there.
"""

# The three that read pytest's output, and the names that the benchmark has for them by repository.
PYTEST_PARSERS = (
    *("parse_log_pytest", "parse_log_pytest_options", "parse_log_pytest_v2"),
    *("parse_log_astroid", "parse_log_flask", "parse_log_marshmallow", "parse_log_pvlib"),
    *("parse_log_pyvista", "parse_log_sqlfluff", "parse_log_xarray"),
    *("parse_log_pydicom", "parse_log_requests", "parse_log_pylint"),
    *("parse_log_astropy", "parse_log_scikit", "parse_log_sphinx"),
    # These two have parsers of their own, which read what pytest prints.
    *("parse_log_matplotlib", "parse_log_seaborn"),
)

# Repositories whose tests in the benchmark are not pytest's, in small letters.
OWN_PROGRAMS = {
    "django/django": "tests/runtests.py",
    "sympy/sympy": "bin/test",
}


def own_program(repo: str | None) -> str | None:
    """The program of its own that runs a repository's tests; None where pytest does."""
    return OWN_PROGRAMS.get((repo or "").lower())
