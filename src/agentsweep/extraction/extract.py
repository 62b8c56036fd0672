"""One published run directory to its rows in the five tables.

Every file of the run is read as far as it is readable; what was lost is said in the run's row.
"""

from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from agentsweep import seal
from agentsweep.extraction.linked_run import Curve, Run, message_row
from agentsweep.extraction.run_directory import Damage, SampleReader, read_result
from agentsweep.extraction.run_row import run_row

if TYPE_CHECKING:
    import pyarrow as pa


def extract(
    run_dir: Path | str, run_id: str, out_dir: Path | str, dataset: str | None = None
) -> dict[str, int]:
    """Write runs, tool_calls, api_calls, messages and samples as Parquet; returns rows by table.

    `dataset` is the name of the data set that the run is extracted for: a run recalled from the
    store carries the name under which it was first made, which is the default.

    Raises nothing for the content of the run's files: a missing or damaged one leaves its columns
    empty, and `runs.trace_status`, `trace_bad_lines` and `damage` say what was lost. Raises
    OSError where the tables cannot be written.
    """
    from agentsweep.tables import parquet

    run_dir, out_dir = Path(run_dir), Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    damage, curve = Damage(), Curve()
    result = read_result(run_dir, damage)
    sealed = seal.check(run_dir, is_copy=True)
    for name, why in sealed.wrong.items():
        damage.add(name, f"{why}, so it is not what was sealed")
    with parquet.Writer("samples", out_dir / "samples.parquet") as writer:
        for batch in SampleReader(run_dir / "samples.arrow", damage).batches():
            conformed = conform_samples(batch, run_id, writer.schema)
            if conformed is None:
                damage.add("samples.arrow", "has no times")
                break
            curve.add(conformed)
            writer.write(conformed)
    run = Run(run_id, run_dir, result, curve, damage)
    row = run_row(run, writer.rows) | {"seal": sealed.state}
    rows = {
        "tool_calls": run.tool_rows,
        "api_calls": run.api_call_rows(),
        "messages": [message_row(run_id, message) for message in run.trace.messages],
        "runs": [row | {"dataset": dataset} if dataset else row],
    }
    for name, table_rows in rows.items():
        parquet.write(name, table_rows, out_dir / f"{name}.parquet")
    return {"samples": writer.rows, **{name: len(made) for name, made in rows.items()}}


def conform_samples(
    batch: "pa.RecordBatch", run_id: str, schema: "pa.Schema"
) -> "pa.RecordBatch | None":
    """A batch of samples under the table's schema; None without its times.

    A counter that is missing, or of another type, is null.
    """
    import pyarrow as pa

    columns = []
    for wanted in schema:
        if wanted.name == "run_id":
            columns.append(_repeated(run_id, batch.num_rows))
            continue
        place = batch.schema.get_field_index(wanted.name)
        known = place >= 0 and batch.schema.field(place).type == wanted.type
        column = batch.column(place) if known else pa.nulls(batch.num_rows, wanted.type)
        if not wanted.nullable and column.null_count:
            return None
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _repeated(text: str, rows: int) -> "pa.Array":
    """A column with the same text in each row, made from buffers (pa.array imports pandas)."""
    import pyarrow as pa

    data = text.encode()
    ends = array("i", range(0, (rows + 1) * len(data), len(data) or 1))[: rows + 1]
    return pa.Array.from_buffers(
        pa.string(), rows, [None, pa.py_buffer(ends), pa.py_buffer(data * rows)], 0
    )
