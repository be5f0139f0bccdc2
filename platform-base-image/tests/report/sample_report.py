"""The document of a small real project, on a bad day."""

from __future__ import annotations

from sample_builder import COMMIT, NOW, SALES, SHOP, Builder, iso

from dml_platform.core.document import (
    Consumer,
    Document,
    Figure,
    Pipeline,
    Test,
)


def sales_document() -> Document:
    """What `dml demo` makes, on a day when a test fails, one warns and a source is late."""
    b = Builder(
        "sales",
        days=24,
        failing={
            4: ("blocking test failed: unique_fct_purchases_purchase_id (3 rows).\nNothing was published."),
            17: "killed",
        },
    )
    file = b.table(
        "source:",
        "cdnow.purchases",
        "file",
        "customer_id:BIGINT|date:DATE|units:BIGINT|dollars:DECIMAL(10,2)",
        path="config/sources.yaml",
        description="Files data/drop/cdnow/*.csv.gz, csv.",
        owner=SALES,
    )
    users = b.table("source:", "shop.users", "stream", "id|name|address", owner=SHOP)
    raw = b.table(
        "raw",
        "cdnow__purchases",
        "raw",
        rows=69659,
        owner=SALES,
        max_age_hours=8784,
        fresh_as_of=iso(5),
        columns=(
            "customer_id:bigint=Number of the customer in the file.|date:date=Day "
            "of the purchase.|units:bigint=How many CDs.|"
            "dollars:decimal(10,2)=What was paid for all of them; US dollars.|_source_file:varcha"
            "r=File that the row came from.|_loaded_at:timestamp with time zone=When "
            "the row was landed (UTC)."
        ),
        description=(
            "One row per line of the CDNOW purchase files. There is no key: rows may equal each other in every column."
        ),
        tags=("raw",),
    )
    raw_users = b.table(
        "raw",
        "shop__users",
        "raw",
        "id:bigint|address:json|_loaded_at:timestamp",
        rows=1000,
        owner=SHOP,
        max_age_hours=168,
        fresh_as_of=iso(200),
        tags=("personal",),
    )
    b.edge(file, raw, "~customer_id>customer_id ~date>date ~units>units ~dollars>dollars")
    b.edge(users, raw_users, "~id>id ~address>address")
    stg = b.table(
        "staging",
        "stg_cdnow__purchases",
        "staging",
        (
            "customer_id=The CDNOW customer.|purchased_date=Day of the purchase.|"
            "units|amount_cents=What was paid; US cents.|_loaded_at"
        ),
        grain="one row per purchase line of the CDNOW files",
        path="dbt/models/staging/stg_cdnow__purchases.sql",
        sql=(
            "select customer_id, date as purchased_date, units, cast(dollars * 100 "
            "as bigint) as amount_cents, _loaded_at\nfrom sales.raw.cdnow__purchases"
        ),
    )
    stg_users = b.table("staging", "stg_shop__users", "staging", "user_id|country_code|age_years", owner=SHOP)
    b.edge(
        raw,
        stg,
        ("~customer_id>customer_id ~date>purchased_date ~units>units dollars>amount_cents ~_loaded_at>_loaded_at"),
    )
    b.edge(raw_users, stg_users, "~id>user_id address>country_code ?>age_years")
    keyed = b.table(
        "intermediate",
        "int_purchases__keyed",
        "intermediate",
        "purchase_id|customer_id|purchased_date|line_number|units|amount_cents",
    )
    b.edge(
        stg,
        keyed,
        (
            "customer_id>purchase_id purchased_date>purchase_id ~customer_id>customer_id "
            "~purchased_date>purchased_date ~units>units ~amount_cents>amount_cents "
            "amount_cents>line_number"
        ),
    )
    fct = b.table(
        "marts",
        "fct_purchases",
        "mart",
        (
            "purchase_id:varchar=Customer, day and running number within them, joined "
            "with a slash.|customer_id:bigint=Who bought.|purchased_date:date=Day "
            "of the purchase.|units:bigint=How many CDs.|amount_cents:bigint=What "
            "was paid for all of them; US cents, 0 for a free purchase.|is_repeat:boolean=Whether"
            " the day is later than the customer's first day."
        ),
        rows=69659,
        owner=SALES,
        grain="one row per CDNOW purchase line",
        unique_key=("purchase_id",),
        description="Every purchase of the CDNOW cohort.",
        path="dbt/models/marts/fct_purchases.sql",
    )
    b.edge(
        keyed,
        fct,
        (
            "~purchase_id>purchase_id ~customer_id>customer_id ~purchased_date>purchased_date "
            "~units>units ~amount_cents>amount_cents purchased_date>is_repeat"
        ),
    )
    daily = b.table(
        "marts",
        "fct_daily_revenue",
        "mart",
        rows=546,
        owner=SALES,
        unique_key=("revenue_date",),
        columns=(
            "revenue_date:date=The day.|purchase_count:bigint=Purchase lines of "
            "the day.|customer_count:bigint=Different customers who bought on the "
            "day.|units:bigint=How many CDs.|revenue_cents:bigint=What was paid "
            "on the day; US cents.|repeat_revenue_cents:bigint=The part of it that "
            "customers paid after their first day; US cents.|revenue_7d_cents:bigint=What "
            "was paid on the day and the six days before it; US cents."
        ),
        grain="one row per day of the CDNOW history, days without a sale included",
        tags=("finance", "daily"),
        description="Revenue by day.",
        path="dbt/models/marts/fct_daily_revenue.sql",
        max_age_hours=48,
        fresh_as_of=iso(5),
        sql=(
            "with purchases as (\n    select * from sales.marts.fct_purchases\n"
            "),\n\ndaily as (\n    select purchased_date, count(*) as purchase_count, "
            "sum(amount_cents) as revenue_cents\n    from purchases\n"
            "    where units < 1e6 and '<b>' <> '&'\n    group by purchased_date\n"
            ")\n\nselect * from daily"
        ),
    )
    b.edge(
        fct,
        daily,
        (
            "purchased_date>revenue_date #>purchase_count customer_id>customer_count "
            "units>units amount_cents>revenue_cents amount_cents>repeat_revenue_cents "
            "is_repeat>repeat_revenue_cents amount_cents>revenue_7d_cents"
        ),
    )
    customers = b.table(
        "marts",
        "dim_customers",
        "mart",
        "customer_id:bigint|first_purchased_date:date|revenue_cents:bigint",
        rows=23570,
        owner=SALES,
        grain="one row per CDNOW customer",
    )
    b.edge(fct, customers, ("~customer_id>customer_id purchased_date>first_purchased_date amount_cents>revenue_cents"))
    segments = b.table(
        "seeds",
        "rfm_segments",
        "seed",
        "recency_score:bigint|frequency_score:bigint|segment:varchar",
        rows=25,
        path="dbt/seeds/rfm_segments.csv",
    )
    rfm = b.table(
        "marts",
        "customer_rfm",
        "mart",
        "customer_id:bigint|recency_days:bigint|segment:varchar|revenue_cents:bigint",
        rows=23570,
        owner=SALES,
    )
    b.edge(customers, rfm, ("~customer_id>customer_id ~revenue_cents>revenue_cents first_purchased_date>recency_days"))
    b.edge(segments, rfm, "~segment>segment")
    forecast = b.table(
        "marts",
        "customer_forecast",
        "mart",
        "customer_id:bigint|expected_purchases:double",
        rows=23570,
        owner=SALES,
        description="Purchases expected in the 12 weeks after the history ends.",
    )
    b.edge(fct, forecast, "?>customer_id ?>expected_purchases")
    shop_users = b.table(
        "marts", "dim_shop_users", "mart", "user_id:bigint|country_code:varchar|age_years:bigint", rows=1000, owner=SHOP
    )
    b.edge(stg_users, shop_users, "~user_id>user_id ~country_code>country_code ~age_years>age_years")
    for column in ("purchase_id", "customer_id", "amount_cents"):
        b.test(
            f"not_null_fct_purchases_{column}",
            fct,
            column,
            sql=f"select {column}\nfrom sales.marts.fct_purchases\nwhere {column} is null",
        )
    b.test(
        "unique_fct_purchases_purchase_id",
        fct,
        "purchase_id",
        bad={4: "Got 3 results, configured to fail if != 0"},
        sql=("select purchase_id, count(*)\nfrom sales.marts.fct_purchases\ngroup by 1\nhaving count(*) > 1"),
    )
    b.test("unique_fct_daily_revenue_revenue_date", daily, "revenue_date")
    b.test("not_null_fct_daily_revenue_revenue_cents", daily, "revenue_cents")
    b.test(
        "days_without_sales_are_zero",
        daily,
        kind="unit",
        description=("A gap in the purchases is a row of zeros, and the seven-day sum runs through it."),
    )
    b.test(
        "volume_anomalies_fct_daily_revenue",
        daily,
        kind="anomaly",
        severity="warn",
        bad={0: "546 rows are 2.9 standard deviations below the last 14 days.", 9: "551 rows are unusual."},
    )
    b.test(
        "relationships_customer_rfm_customer_id",
        rfm,
        "customer_id",
        bad={0: "Got 3 results, configured to fail if != 0"},
        sql=(
            "select customer_id from sales.marts.customer_rfm where customer_id "
            "not in (select customer_id from sales.marts.dim_customers)"
        ),
    )
    b.test("forecast_is_close", forecast, kind="check", severity="warn")
    b.tests.append(Test(id="test.sales.never", name="assert_revenue_adds_up_everywhere", kind="data", table=None))
    days = [f"1997-{1 + day // 30:02d}-{1 + day % 30:02d}" for day in range(0, 360)]
    wave = [(day, 4000 + 2500 * ((at * 7919) % 97) / 97 + max(0, 120 - at) * 60) for at, day in enumerate(days)]
    return Document(
        project="sales",
        description=("Purchases of the CDNOW cohort and of the demo shop, from raw files to marts and a forecast."),
        owner=SALES,
        generated_at=NOW.isoformat(),
        git_commit=COMMIT,
        platform_version="0.1.0",
        image="registry.example.com/sales@sha256:" + "5" * 64,
        dagster_url="http://dagster.example.com",
        tables=tuple(b.tables),
        tests=tuple(b.tests),
        table_edges=tuple(b.edges),
        column_edges=tuple(b.columns),
        consumers=(
            Consumer(
                name="sales_review",
                kind="notebook",
                label="Sales review",
                description="Revenue, retention and the forecast.",
                owner=SALES,
                url="https://notebooks.example.com/sales_review",
                depends_on=(daily, rfm, forecast),
            ),
        ),
        pipelines=(
            Pipeline(
                name="daily",
                description="Everything, once a day.",
                schedule="0 5 * * *",
                sensors=("new_files",),
                tables=(raw, fct, daily),
            ),
            Pipeline(name="by_hand"),
        ),
        runs=b.runs(),
        figures=(
            Figure(table=daily, title="Revenue by day", unit="US dollars", points=tuple(wave)),
            Figure(
                table=rfm,
                title="Customers by segment",
                unit="customers",
                points=(("champion", 1830), ("loyal", 2410), ("promising", 905), ("at risk", 3120), ("lost", 9800)),
            ),
        ),
        notices=(
            (
                "Elementary's dbt package is not installed here: its anomaly tests are "
                "absent from this project, not passed."
            ),
            ("Column lineage of customer_forecast is declared by nobody: it is a pandas asset."),
        ),
    )
