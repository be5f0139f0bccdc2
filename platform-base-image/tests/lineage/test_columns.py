"""SQL shapes and what each output column is made of, written by hand; DuckDB itself confirms the columns' names."""

from __future__ import annotations

import duckdb
import pytest

from dml_platform.lineage import trace_columns

SCHEMAS = {
    "t": {"a": "INTEGER", "b": "INTEGER", "c": "VARCHAR"},
    "n": {
        "id": "INTEGER",
        "s": "STRUCT(f INTEGER, g STRUCT(h INTEGER))",
        "l": "INTEGER[]",
        "ls": "STRUCT(p INTEGER, q VARCHAR)[]",
    },
    "t1": {"id": "INTEGER", "k": "INTEGER", "x": "INTEGER"},
    "t2": {"id": "INTEGER", "k": "INTEGER", "y": "INTEGER"},
    "Odd Name": {"A b": "INTEGER", "a.b": "INTEGER"},
}
DDL = [
    "create table t(a int, b int, c varchar)",
    "create table n(id int, s struct(f int, g struct(h int)), l int[], ls struct(p int, q varchar)[])",
    "create table t1(id int, k int, x int)",
    "create table t2(id int, k int, y int)",
    'create table "Odd Name"("A b" int, "a.b" int)',
]


def show(sql: str) -> dict[str, str]:
    """Edges in short: ``t.a`` a copy, ``~t.a`` transformed, ``?t`` unknown, ``#t`` rows; under ``*`` also ``|t.a``."""
    marks = {"copy": "", "transform": "~", "filter": "|", "unknown": "?"}
    found = {}
    for column, edges in trace_columns(sql, SCHEMAS).items():
        parts = [
            f"#{e.table}" if e.column is None and e.via == "transform" else
            f"{marks[e.via]}{e.table}" + (f".{e.column}" if e.column else "")
            for e in edges
        ]  # fmt: skip
        found[column] = " ".join(parts)
    return found


CASES = {
    # names, expressions
    "select a, b as z, a + b as s, 1 as one from t": {"a": "t.a", "z": "t.b", "s": "~t.a ~t.b", "one": ""},
    "select A, T.B from T": {"A": "t.a", "B": "t.b"},
    'select "A b" as x, "a.b", "odd name"."a B" as z from "Odd Name"': {
        "x": "Odd Name.A b", "a.b": "Odd Name.a.b", "z": "Odd Name.A b"
    },
    "select x: a + 1, a::varchar as v from t": {"x": "~t.a", "v": "~t.a"},
    "select a + 1 as d, d * 2 as e, b as a from t": {"d": "~t.a", "e": "~t.a", "a": "t.b"},
    "select count(*) as n, count(a) as m, sum(b) filter (where c = 'x') as f from t": {
        "n": "#t", "m": "~t.a", "f": "~t.b ~t.c"
    },
    "select case when a > 1 then b else 0 end as v, coalesce(c, 'x') as w from t where b > 0": {
        "v": "~t.a ~t.b", "w": "~t.c", "*": "|t.b"
    },
    "select t as whole from t": {"whole": "~t.a ~t.b ~t.c"},
    "select #2 as second from t": {"second": "t.b"},
    "select arg_max(a, b) as m, array_agg(a order by b) as l from t": {"m": "~t.a ~t.b", "l": "~t.a ~t.b"},
    # star
    "from t": {"a": "t.a", "b": "t.b", "c": "t.c"},
    "select * exclude (a) replace (b + 1 as b) rename (c as d) from t": {"b": "~t.b", "d": "t.c"},
    "select t.* exclude a, a as z from t": {"b": "t.b", "c": "t.c", "z": "t.a"},
    "select columns('[ab]') from t": {"a": "t.a", "b": "t.b"},
    "select max(columns(* exclude (c))) + 1 from t": {"a": "~t.a", "b": "~t.b"},
    "select * like 'a%' from t": {"a": "t.a"},
    "select columns(['a', 'c']) from t": {"a": "t.a", "c": "t.c"},
    # subqueries, CTEs
    "with q as (select a as z, b from t), r as (select * from q) select z, b from r": {"z": "t.a", "b": "t.b"},
    "with q(x, y) as (select a, b from t) select y, x from q": {"y": "t.b", "x": "t.a"},
    "with t1 as (select a as id from t) select id from t1": {"id": "t.a"},
    "with recursive r as (select a as n, b from t union all select n + 1, b from r where n < 5) select * from r": {
        "n": "~t.a", "b": "t.b", "*": "|t.a"
    },
    "select z.a from (select a, b from t where c = 'x') as z": {"a": "t.a", "*": "|t.c"},
    "select a, (select max(x) from t1 where t1.id = t.b) as m from t": {"a": "t.a", "m": "~t1.x", "*": "|t.b |t1.id"},
    "select exists (select 1 from t1 where t1.id = t.b) as e from t": {"e": "~t.b ~t1.id"},
    "select a in (select x from t1) as i from t": {"i": "~t.a ~t1.x"},
    "select a from t where b in (select id from t1 where x > 1)": {"a": "t.a", "*": "|t.b |t1.id |t1.x"},
    "select (select count(*) from t1) as n": {"n": "#t1"},
    # joins
    "select * from t1 join t2 on t1.id = t2.id": {
        "id": "t1.id", "k": "t1.k", "x": "t1.x", "id_1": "t2.id", "k_1": "t2.k", "y": "t2.y", "*": "|t1.id |t2.id"
    },
    "select * from t1 left join t2 using (id)": {
        "id": "t1.id", "k": "t1.k", "x": "t1.x", "k_1": "t2.k", "y": "t2.y", "*": "|t1.id |t2.id"
    },
    "select id, y from t1 right join t2 using (id)": {"id": "t2.id", "y": "t2.y", "*": "|t1.id |t2.id"},
    "select id, t2.id as other from t1 full join t2 using (id)": {
        "id": "~t1.id ~t2.id", "other": "t2.id", "*": "|t1.id |t2.id"
    },
    "select * from t1 natural join t2": {
        "id": "t1.id", "k": "t1.k", "x": "t1.x", "y": "t2.y", "*": "|t1.id |t1.k |t2.id |t2.k"
    },
    "select * exclude (id) from t1 join t2 using (id, k)": {
        "k": "t1.k", "x": "t1.x", "y": "t2.y", "*": "|t1.id |t1.k |t2.id |t2.k"
    },
    "select * from t1 semi join t2 using (id)": {
        "id": "t1.id", "k": "t1.k", "x": "t1.x", "*": "|t1.id |t2.id"
    },
    "select * from t1 anti join t2 on t1.id = t2.id and t2.y > 0": {
        "id": "t1.id", "k": "t1.k", "x": "t1.x", "*": "|t1.id |t2.id |t2.y"
    },
    "select x, y from t1 asof join t2 on t1.k >= t2.k": {"x": "t1.x", "y": "t2.y", "*": "|t1.k |t2.k"},
    "select x, y from t1 positional join t2": {"x": "t1.x", "y": "t2.y"},
    "select u.x, v.x as w from t1 as u, t1 as v": {"x": "t1.x", "w": "t1.x"},
    "select p, q from t1 as z(p, q)": {"p": "t1.id", "q": "t1.k"},
    "select t1.x, t2.*, t.a from (t1 join t2 using (id)) join t on t.a = t1.x": {
        "x": "t1.x", "id": "t2.id", "k": "t2.k", "y": "t2.y", "a": "t.a", "*": "|t.a |t1.id |t1.x |t2.id"
    },
    # set operations
    "select a, b from t union all select id, x + 1 from t1": {"a": "t.a t1.id", "b": "t.b ~t1.x"},
    "select a as p, b as q from t union by name select id as q, x as r from t1": {
        "p": "t.a", "q": "t.b t1.id", "r": "t1.x"
    },
    "select a from t except select id from t1": {"a": "t.a", "*": "|t1.id"},
    "(select a from t) intersect (select id from t1 where x > 1)": {"a": "t.a t1.id", "*": "|t1.id |t1.x"},
    # grouping, windows
    "select a, sum(b) as s from t group by a having max(c) > 'x'": {"a": "t.a", "s": "~t.b", "*": "|t.a |t.c"},
    "select a, b + 1 as g, sum(b) as s from t group by 1, g": {"a": "t.a", "g": "~t.b", "s": "~t.b", "*": "|t.a |t.b"},
    "select a, max(b) as m from t group by all": {"a": "t.a", "m": "~t.b", "*": "|t.a"},
    "select sum(a) over (partition by b order by c) as s, row_number() over () as r from t": {
        "s": "~t.a ~t.b ~t.c", "r": "#t"
    },
    "select row_number() over w as r, sum(a) over w as s from t window w as (partition by b order by c)": {
        "r": "~t.b ~t.c", "s": "~t.a ~t.b ~t.c"
    },
    "select a from t qualify row_number() over (partition by b order by c) = 1": {"a": "t.a", "*": "|t.b |t.c"},
    "select distinct on (a) a, b from t order by c": {"a": "t.a", "b": "t.b", "*": "|t.a |t.c"},
    "select a from t order by b limit 10": {"a": "t.a", "*": "|t.b"},
    "select a from t order by b": {"a": "t.a"},
    # structs, lists, lambdas
    "select s.f, n.s.g.h as deep, (s).f as p, s['f'] as q, struct_extract(s, 'f') as e from n": {
        "f": "~n.s", "deep": "~n.s", "p": "~n.s", "q": "~n.s", "e": "~n.s"
    },
    "select s.* from n": {"f": "~n.s", "g": "~n.s"},
    "select unnest(s) from n": {"f": "~n.s", "g": "~n.s"},
    "with q as (select {'p': a, 'q': b} as r from t) select r.p, r.q, r from q": {
        "p": "t.a", "q": "t.b", "r": "~t.a ~t.b"
    },
    "with q as (select struct_pack(p := a + 1, q := b) as r from t) select r.* from q": {"p": "~t.a", "q": "t.b"},
    "select id, unnest(l) as e from n": {"id": "n.id", "e": "~n.l"},
    "select n.id, u.e from n, unnest(n.l) as u(e)": {"id": "n.id", "e": "~n.l"},
    "select n.id, u.o.p as p from n cross join unnest(ls) as u(o)": {"id": "n.id", "p": "~n.ls"},
    "select id, i.q from (select id, unnest(ls) as i from n)": {"id": "n.id", "q": "~n.ls"},
    "select unnest(ls, recursive := true) from n": {"p": "~n.ls", "q": "~n.ls"},
    "select list_transform(l, v -> v + id) as m, [v + 1 for v in l if v > id] as k from n": {
        "m": "~n.id ~n.l", "k": "~n.id ~n.l"
    },
    "select list_filter(ls, lambda o: o.p > 1) as m from n": {"m": "~n.ls"},
    "select c ->> '$.x.y' as j from t": {"j": "~t.c"},
    # lateral, table functions, values
    "select t.a, z.d from t, lateral (select t.b + 1 as d) as z": {"a": "t.a", "d": "~t.b"},
    "select t.a, z.d from t join lateral (select x as d from t1 where t1.id = t.a) as z on true": {
        "a": "t.a", "d": "t1.x", "*": "|t.a |t1.id"
    },
    "select i from range(10) as r(i)": {"i": ""},
    "select t.a, g.d from t, generate_series(1, t.b) as g(d)": {"a": "t.a", "d": "~t.b"},
    "select v.p, v.q from (values (1, 'x'), (2, 'y')) as v(p, q)": {"p": "", "q": ""},
    "select col0 from (values (1), (2))": {"col0": ""},
    # pivots
    "select * from t pivot (sum(b) as s, max(b) as m for a in (1, 2) group by c)": {
        "c": "t.c", "1_s": "~t.a ~t.b", "1_m": "~t.a ~t.b", "2_s": "~t.a ~t.b", "2_m": "~t.a ~t.b", "*": "|t.c"
    },
    "select * from t pivot (sum(b) for a in (1, 2))": {"c": "t.c", "1": "~t.a ~t.b", "2": "~t.a ~t.b", "*": "|t.c"},
    "from (pivot t on a in (1, 2) using sum(b), max(b) group by c)": {
        "c": "t.c", "1_sum(b)": "~t.a ~t.b", "1_max(b)": "~t.a ~t.b", "2_sum(b)": "~t.a ~t.b", "2_max(b)": "~t.a ~t.b",
        "*": "|t.c",
    },
    "select p.c, p.one from t pivot (sum(b) for a in (1 as one)) as p": {"c": "t.c", "one": "~t.a ~t.b", "*": "|t.c"},
    "select * from t unpivot (v for k in (a, b))": {"c": "t.c", "k": "", "v": "t.a t.b"},
    "unpivot t on a, b into name k value v": {"c": "t.c", "k": "", "v": "t.a t.b"},
}  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for statement in DDL:
        connection.execute(statement)
    return connection


@pytest.mark.parametrize("sql", CASES)
def test_each_column_is_made_of_what_the_query_says(sql: str, engine: duckdb.DuckDBPyConnection) -> None:
    found = show(sql)
    assert found == CASES[sql]
    described = engine.execute(f"describe from ({sql})" if not sql.startswith("unpivot") else f"describe {sql}")
    names = [row[0] for row in described.fetchall()]
    assert [name.lower() for name in found if name != "*"] == [name.lower() for name in names]


UNKNOWN = {
    # One table whose columns nobody knows: a name in the query must be its own.
    "select x, y + 1 as z from far": {"x": "far.x", "z": "~far.y"},
    "with q as (select * from far) select q.x, y from q": {"x": "far.x", "y": "far.y"},
    "select f.x, a from far as f join t on f.id = t.a": {"x": "far.x", "a": "t.a", "*": "|far.id |t.a"},
    "select * from far": {"*": "?far"},
    "select * exclude (x) replace (y + 1 as y), t.a from far, t": {
        "a": "t.a", "b": "t.b", "c": "t.c", "y": "~far.y", "a_1": "t.a", "*": "?far"
    },
    # Two of them: a bare name may be either's.
    "select x from far, away": {"x": "?away ?far"},
    "select far.x, away.y from far, away": {"x": "far.x", "y": "away.y"},
    "select x from (select * from far union all select * from away)": {"x": "?away far.x"},
    "select a from t where exists (select 1 from far where b = 1)": {"a": "t.a", "*": "?far ?t"},
    # An alias and a table that may have a column of that name.
    "select 1 as x, x + 1 as y from far": {"x": "", "y": "?far"},
    # Names that depend on the data.
    "select * from (pivot t on a using sum(b) group by c)": {"c": "t.c", "*": "~t.a ~t.b |t.c"},
    'select c, "7" from (pivot t on a using sum(b) group by c)': {"c": "t.c", "7": "~t.a ~t.b", "*": "|t.c"},
    "select columns(k -> length(k) > 3) from t": {"*": "?t"},
    "select nowhere from t": {"nowhere": "?t"},
    "select x from query_table('t')": {"x": "?QUERY_TABLE('t')"},
    "select x from 'data/file.parquet'": {"x": "data/file.parquet.x"},
    "select x from read_csv('data/file.csv', header = true)": {"x": "data/file.csv.x"},
}  # fmt: skip


@pytest.mark.parametrize("sql", UNKNOWN)
def test_what_cannot_be_derived_is_unknown_and_never_guessed(sql: str) -> None:
    assert show(sql) == UNKNOWN[sql]
