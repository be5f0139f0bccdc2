"""Elementary's own program, ``edr``: its report, in an environment of its own. Its dbt package is ``dbt``'s matter."""
