"""Reader of Parquet files."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ownlm.errors import DataError
from ownlm.filesystem import check_regular
from ownlm.history.values import Unreadable, check_columns, is_time_like


def read_parquet(
    path: Path, names: Collection[str], required: Collection[str], *, at_once: int = 65_536
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a Parquet file, each with "file, row N".

    Args:
        names: columns to read where present; columns that may hold a time are read too.
        required: columns that the file must have.
        at_once: number of rows in memory at a time.

    Returns:
        Rows; a value that Python cannot represent, such as a time in the year 12000, is `Unreadable`.

    Raises:
        DataError: the file is damaged, lacks a column, or has two columns of one name.
        OSError: the file cannot be read.
    """
    import pyarrow as pa  # imported here: slow, and seldom needed
    import pyarrow.parquet as pq

    number = 0
    check_regular(path)
    try:
        # INT96 times come in microseconds: in nanoseconds, those before 1677 or after 2262 would wrap around
        with pq.ParquetFile(path, page_checksum_verification=True, coerce_int96_timestamp_unit="us") as file:
            there = set(file.schema_arrow.names)
            check_columns(path, file.schema_arrow.names, names, required)
            wanted = [name for name in there if name in names or is_time_like(name)]
            for batch in file.iter_batches(at_once, columns=wanted):
                columns = [_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield f"{path}, row {number}", dict(zip(batch.schema.names, values, strict=True))
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        raise DataError(f"The Parquet file {path} is damaged, after row {number}", hint="fetch it again") from None


def _values(column: Any) -> list[Any]:
    """A column's values as Python objects; nanoseconds are truncated to microseconds."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, KeyError):  # a time out of Python's range, a time zone that is not known here
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, KeyError):
        return Unreadable(f"is a {scalar.type} that is not within the years 1 to 9999, or of an unknown time zone")
