"""`python -m dml_infra` is `dml-infra`."""

from dml_infra.cli import main

main()
