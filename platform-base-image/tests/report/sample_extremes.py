"""Documents that are big, empty, or that nobody would wish for."""

from __future__ import annotations

import random

from sample_builder import COMMIT, NOW, Builder, iso

from dml_platform.core.document import (
    Column,
    ColumnEdge,
    Consumer,
    Document,
    Figure,
    Owner,
    Pipeline,
    Run,
    Step,
    Table,
    TableEdge,
    TablePoint,
    Test,
    TestResult,
)

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>'\"&amp;{{DATA}}\u2028"


def big_document(models: int = 300, *, days: int = 40, tests_each: int = 4) -> Document:
    """As many models as a big team has, in layers, with wide tables and long histories."""
    dice = random.Random(7)
    b = Builder("warehouse", days=days, failing={3: "out of memory", 21: "source is gone"})
    made: dict[str, list[str]] = {"raw": [], "staging": [], "intermediate": [], "mart": []}
    folders = {"raw": "raw", "staging": "staging", "intermediate": "intermediate", "mart": "marts"}
    shares = {"raw": 0.2, "staging": 0.2, "intermediate": 0.25, "mart": 0.35}
    for kind, share in shares.items():
        for at in range(round(models * share)):
            columns = "|".join(f"column_{c}_cents:bigint=What column {c} of it holds; US cents." for c in range(12))
            lines = "\n".join(
                (f"    sum(source_{c}.amount_cents) filter (where source_{c}.is_open) as column_{c},")
                for c in range(22)
            )
            name = b.table(
                folders[kind],
                f"{kind[:3]}_area{at % 17}__entity_{at}",
                kind,
                columns,
                rows=10_000 + at if kind in ("raw", "mart") else 0,
                owner=Owner(name=f"Team {at % 9}"),
                sql=f"select\n{lines}\nfrom it" if kind != "raw" else None,
                description=(f"Grain: one row per thing number {at}, with what the teams agreed on in spring."),
                grain=f"one row per thing number {at}",
                max_age_hours=30 + at % 50 if kind == "raw" else None,
                fresh_as_of=iso(at % 77) if kind == "raw" else None,
                tags=(f"area{at % 17}",),
            )
            before = {
                "raw": [],
                "staging": made["raw"],
                "intermediate": made["staging"] + made["intermediate"],
                "mart": made["intermediate"] + made["mart"],
            }[kind]
            near = [n for n in before if n.rsplit("__", 1)[0].endswith(f"area{at % 17}")] or before
            for source in dice.sample(near, min(len(near), 1 if kind == "staging" else 2)):
                words = " ".join(
                    f"column_{c}_cents>column_{c}_cents" if c < 11 else f"?>column_{c}_cents" for c in range(12)
                )
                b.edge(source, name, words)
            for test in range(tests_each):
                bad = (
                    {0: "Got 3 results, configured to fail if != 0"}
                    if dice.random() < 0.02
                    else {dice.randrange(1, days): "Got 3 results"}
                )
                sql = (
                    f"select column_{test}_cents as unique_field, count(*) as n_records\n"
                    f"from {name}\nwhere column_{test}_cents is not null\n"
                    "group by 1\nhaving count(*) > 1"
                )
                b.test(f"unique_{kind}_{at}_column_{test}_cents", name, f"column_{test}_cents", bad=bad, sql=sql)
            made[kind].append(name)
    return Document(
        project="warehouse",
        generated_at=NOW.isoformat(),
        git_commit=COMMIT,
        tables=tuple(b.tables),
        tests=tuple(b.tests),
        table_edges=tuple(b.edges),
        column_edges=tuple(b.columns),
        runs=b.runs(),
        owner=Owner(name="Platform"),
    )


def evil_document() -> Document:
    """Every text is an attack, every name is long, every reference hangs, time and numbers are none."""
    name, endless = f"sales.marts.{EVIL}", "x" * 4000
    address = "javascript:window.hacked=1"
    return Document(
        project=EVIL,
        description=EVIL,
        owner=Owner(name=EVIL, email=EVIL),
        generated_at="yesterday",
        git_commit=EVIL,
        image=EVIL,
        dagster_url=address,
        tables=(
            Table(
                name=name,
                kind="mart",
                description=EVIL,
                grain=EVIL,
                owner=Owner(name=EVIL),
                tags=(EVIL,),
                path=EVIL,
                sql=EVIL,
                unique_key=(EVIL,),
                snapshot_id=2**63 - 1,
                published_at=EVIL,
                run_id=EVIL,
                git_commit=EVIL,
                max_age_hours=0.0,
                fresh_as_of=EVIL,
                columns=(
                    Column(
                        name=EVIL,
                        type=EVIL,
                        description=EVIL,
                        tags=(EVIL,),
                        profile={EVIL: EVIL, "mean": float("nan"), "sum": 2**70},
                    ),
                ),
                history=(TablePoint(snapshot_id=2**63 - 1, published_at=EVIL, run_id=EVIL),),
            ),
            Table(name=endless, kind="raw", columns=(Column(name=endless),)),
            Table(name="", kind="raw"),
        ),
        tests=(
            Test(
                id=EVIL,
                name=EVIL,
                kind="data",
                table=name,
                column=EVIL,
                description=EVIL,
                sql=EVIL,
                results=(TestResult(run_id=EVIL, at=EVIL, status="error", message=EVIL),),
            ),
            Test(id="t2", name="of no table", kind="data", table="gone"),
        ),
        table_edges=(
            TableEdge(source=name, target=endless),
            TableEdge(source=endless, target=name),
            TableEdge(source=name, target=name),
            TableEdge(source="gone", target=name),
        ),
        column_edges=(
            ColumnEdge(source=name, source_column=EVIL, target=name, target_column=EVIL),
            ColumnEdge(source="gone", source_column=None, target=name, target_column=EVIL, via="unknown"),
        ),
        consumers=(Consumer(name=EVIL, kind=EVIL, label=EVIL, url=address, depends_on=(name, "gone too")),),
        pipelines=(Pipeline(name=EVIL, description=EVIL, schedule="not cron", sensors=(EVIL,), tables=("gone", name)),),
        runs=(
            Run(
                run_id=EVIL,
                status="failed",
                started_at=EVIL,
                duration_s=float("nan"),
                url=address,
                steps=(
                    Step(name=EVIL, status="failed", started_at=EVIL, duration_s=0, error=EVIL, inputs={"gone": 1}),
                ),
            ),
        ),
        figures=(
            Figure(table="gone", title=EVIL, unit=EVIL, points=((EVIL, 1.0), ("", -5.0))),
            Figure(table=name, title="no points"),
            Figure(table=name, title="not a number", points=(("a", float("nan")), ("b", float("inf")))),
        ),
        notices=(EVIL, endless),
    )


def empty_document() -> Document:
    return Document(project="bare", generated_at=NOW.isoformat())
