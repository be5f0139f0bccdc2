"""Telling a project's owner what broke, once, and when it works again.

``config`` is what a project says in ``config/project.yaml``; ``watch`` finds what is wrong; ``ledger`` decides what
is worth a message; ``outbox`` keeps messages until they are delivered; ``channels`` delivers; ``sensor`` is Dagster's
part.
"""
