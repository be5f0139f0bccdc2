"""How a project describes the files of a table in ``config/sources.yaml``. Nothing here touches a file."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PLATFORM_COLUMNS = ("_source_file", "_loaded_at", "_run_id")
# What Airbyte's rows can be: the types of its protocol.
AIRBYTE_TYPES = ("BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "JSON")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CsvOptions(_Model):
    """How a CSV file is written. ``header: false`` needs declared columns, which are then taken in their order."""

    delimiter: str = Field(default=",", min_length=1, max_length=4)
    quote: str = Field(default='"', max_length=1)
    escape: str = Field(default='"', max_length=1)
    header: bool = True
    null_strings: tuple[str, ...] = Field(default=("",), description="unquoted values that mean NULL")
    date_format: str | None = Field(default=None, description="strptime format of DATE columns; default ISO 8601")
    timestamp_format: str | None = Field(default=None, description="strptime format of TIMESTAMP columns")
    decimal_separator: Literal[".", ","] = "."
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"
    strict: bool = Field(default=True, description="false also reads mixed line ends and unescaped quotes")


class FileTable(_Model):
    """The files that one raw table is made of.

    ``mode: append`` adds the rows of new files; ``mode: table`` replaces all rows by those of the files that are
    there now, when these changed. ``format: airbyte`` is what Airbyte's S3 destination writes: Parquet or JSON lines
    with its ``_airbyte_`` columns.
    """

    path: str = Field(
        min_length=1,
        description="glob relative to the project's folder, or s3://bucket/glob; ** crosses folders",
    )
    format: Literal["csv", "jsonl", "parquet", "airbyte"]
    columns: dict[str, str] | None = Field(
        default=None, min_length=1, description="name to DuckDB type; default: inferred from the file"
    )
    max_rejects_share: float = Field(default=0.0, ge=0.0, le=1.0, description="share of a file's rows")
    mode: Literal["append", "table"] = "append"
    csv: CsvOptions = CsvOptions()

    @field_validator("path")
    @classmethod
    def _refuse_urls(cls, path: str) -> str:
        if "://" in path and not re.match(r"s3://[a-z0-9][a-z0-9.-]+/.", path):
            raise ValueError("only files of a folder and s3://bucket/glob are supported")
        return path

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str] | None, info: object) -> dict[str, str] | None:
        if taken := sorted(set(columns or ()) & set(PLATFORM_COLUMNS)):
            raise ValueError(f"the platform adds {taken} itself")
        kinds = set(map(str.upper, (columns or {}).values()))
        if getattr(info, "data", {}).get("format") == "airbyte" and (other := sorted(kinds - set(AIRBYTE_TYPES))):
            raise ValueError(f"{', '.join(other)}: Airbyte has only {', '.join(AIRBYTE_TYPES)}; cast in staging")
        return columns

    @field_validator("csv")
    @classmethod
    def _check_header(cls, csv: CsvOptions, info: object) -> CsvOptions:
        if not csv.header and not getattr(info, "data", {}).get("columns"):
            raise ValueError("header: false needs declared columns")
        return csv
