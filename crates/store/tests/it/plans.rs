//! How PostgreSQL plans our statements: that each is prepared, reads by index, and costs the same however many messages there are.

#![expect(clippy::unwrap_used, reason = "a test that cannot look at its database must fail")]

use raven_core::{Status, TenantId};
use raven_store::{
    conformance::fixture::{self, at, seq},
    postgres::statements,
};
use raven_testkit::database::postgres_store as fresh;
use tokio_postgres::{Client, error::SqlState};

use crate::postgres::{DAY, look};

#[tokio::test]
async fn every_statement_prepares() {
    let database = fresh().await;
    let client = look(&database.url).await;
    for sql in statements() {
        client.prepare(sql).await.unwrap_or_else(|e| panic!("{e:?}\n{sql}"));
    }
}

/// The plan of a statement with the settings that our connections ask for.
async fn plan(client: &Client, sql: &str, explain: &str, arguments: &str) -> String {
    try_plan(client, sql, explain, arguments).await.unwrap_or_else(|| panic!("not permitted: {sql}"))
}

/// The same; `None` when the role may not run the statement.
async fn try_plan(client: &Client, sql: &str, explain: &str, arguments: &str) -> Option<String> {
    client.batch_execute(&format!("PREPARE planned AS {sql}")).await.unwrap_or_else(|e| panic!("{e:?}\n{sql}"));
    let call = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
    let plan = match client.query(&format!("{explain} EXECUTE planned{call}"), &[]).await {
        Ok(rows) => Some(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")),
        Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => None,
        Err(e) => panic!("{e:?}\n{sql}"),
    };
    client.batch_execute("DEALLOCATE planned").await.unwrap();
    plan
}

#[tokio::test]
async fn no_kept_plan_reads_a_whole_table() {
    let database = fresh().await;
    let client = look(&database.url).await;
    client.batch_execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off").await.unwrap();
    // For metrics, now and then; after a claim whose answer was lost; the purge of counters, which are few; and that of keys
    // reads stretches of blocks.
    let rare = [
        "AS oldest",
        "started_at IS NULL AND seq <> ALL",
        "quotas WHERE day < $1",
        "rate_limits WHERE tat < $1",
        "soft_bounces WHERE since < $1",
    ];
    let whole = |sql: &str| rare.iter().any(|part| sql.contains(part));
    let tables = [
        "messages",
        "events",
        "jobs",
        "idempotency",
        "contents",
        "tenants",
        "users",
        "members",
        "invitations",
        "api_keys",
        "provider_configs",
        "suppressions",
        "callbacks",
        "provider_ids",
        "inbound_messages",
        "audit_log",
        "quotas",
        "usage_accepted",
        "usage_outcomes",
        "rate_limits",
    ];
    let mut within = 0;
    for sql in statements().into_iter().filter(|sql| !whole(sql)) {
        let parameters = client.prepare(sql).await.unwrap().params().len();
        let arguments = vec!["NULL"; parameters].join(", ");
        let mut plans = vec![plan(&client, sql, "EXPLAIN", &arguments).await];
        // The verbs of one tenant are planned with its policies, which must not keep them from their indexes.
        client.batch_execute("SET ROLE raven_tenant").await.unwrap();
        if let Some(plan) = try_plan(&client, sql, "EXPLAIN", &arguments).await {
            within += 1;
            plans.push(plan);
        }
        client.batch_execute("RESET ROLE").await.unwrap();
        for (plan, table) in plans.iter().flat_map(|plan| tables.iter().map(move |table| (plan, table))) {
            assert!(!plan.contains(&format!("Seq Scan on {table} ")), "{sql}\n{plan}");
        }
        // Nodes are few.
        for plan in plans.iter().filter(|_| !sql.contains("FROM nodes ")) {
            assert!(!reads_an_index_whole(plan), "{sql}\n{plan}");
        }
    }
    assert!(within > 25, "statements that a tenant's role may run: {within}");
}

#[tokio::test]
async fn acceptance_finds_the_rows_of_a_quota_by_their_whole_key() {
    let database = fresh().await;
    let client = look(&database.url).await;
    client.batch_execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_nestloop = off").await.unwrap();
    let sql = statements().into_iter().find(|sql| sql.contains("INSERT INTO quotas") && sql.contains("INSERT INTO messages")).unwrap();
    let parameters = client.prepare(sql).await.unwrap().params().len();
    let plan = plan(&client, sql, "EXPLAIN", &vec!["NULL"; parameters].join(", ")).await;
    // A tenant's counters may be in many rows, so a condition on a part of the key would go over all of them.
    let by_all = "Index Cond: ((tenant_id = s.tenant_id) AND (day = s.day) AND (slot = s.slot))";
    let lines: Vec<&str> = plan.lines().map(str::trim).collect();
    let scans: Vec<&[&str]> = lines.windows(2).filter(|pair| pair[0].contains("Scan") && pair[0].contains(" on quotas")).collect();
    assert!(matches!(scans[..], [scan] if scan[1].replace("s_1.", "s.") == by_all), "{plan}");
}

#[tokio::test]
async fn claims_look_into_a_lane_however_many_jobs_wait() {
    let database = fresh().await;
    let client = look(&database.url).await;
    let fill = format!(
        "INSERT INTO jobs (seq, tenant_id, environment, channel, action, attempt, due_at, expires_at)
         SELECT n, '{}', 1, 1, 1, 0, n, n + 1000000 FROM generate_series(1, 50000) AS n; ANALYZE jobs",
        fixture::tenant_record(1).id
    );
    client.batch_execute(&fill).await.unwrap();
    client.batch_execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off").await.unwrap();
    let mut of_all = 0;
    for sql in statements().into_iter().filter(|sql| sql.contains("due_at") && sql.contains("FROM jobs")) {
        let parameters = client.prepare(sql).await.unwrap().params().len();
        let plan = plan(&client, sql, "EXPLAIN", &vec!["NULL"; parameters].join(", ")).await;
        of_all += usize::from(plan.contains("jobs_waiting"));
        if sql.contains("SKIP LOCKED") && sql.contains("l.since") {
            assert!(
                plan.contains("Index Scan using jobs_due") && plan.contains("(due_at >= l_1.since) AND (due_at <= l_1.until))"),
                "{plan}"
            );
        }
        assert!(!plan.contains("jobs_waiting") || sql.contains("FROM jobs WHERE epoch IS NULL AND due_at >= 0"), "{sql}\n{plan}");
    }
    assert_eq!(of_all, 1, "the look at the first ones of all");
}

/// Does a plan read an index from end to end? (A scan under a limit may begin at an end.)
fn reads_an_index_whole(plan: &str) -> bool {
    let lines: Vec<&str> = plan.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let scans = |line: &str| line.contains("Index Scan ") || line.contains("Index Only Scan ");
    let limited = |at: usize| {
        let mut least = depth(lines[at]);
        lines[..at].iter().rev().any(|line| {
            let above = depth(line) < least;
            least = least.min(depth(line));
            above && line.contains("Limit")
        })
    };
    let bounded = |at: usize| lines.get(at + 1).is_some_and(|next| next.trim_start().starts_with("Index Cond"));
    (0..lines.len()).any(|at| scans(lines[at]) && !bounded(at) && !limited(at))
}

/// Fills a table of messages of tenant 1 over the three weeks after the beginning, every tenth one with a rare status.
async fn fill(client: &Client, first: i64, rows: i64) {
    let step = 21 * DAY / 200_000;
    let sql = format!(
        "INSERT INTO messages (seq, tenant_id, environment, channel, source, status, large, external_id, recipient, content)
         SELECT ({} + n * {step}) << 21, '{}', 1 + n % 2, 1 + n % 4, 1, CASE WHEN n % 10 = 0 THEN 50 ELSE 30 END, false,
           'order-' || n % 100, '+254' || n, '{{}}'
         FROM generate_series({first}::bigint, {}::bigint) AS n",
        at(0).millis(),
        fixture::tenant_record(1).id,
        first + rows - 1
    );
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute("ANALYZE messages").await.unwrap();
}

/// Pages read: each statement with its way in as an argument, and the index that it must take.
const PAGES: [(&str, &str, &str); 3] = [
    ("(environment, seq) <", "'{1,2}'", "tenant_id_environment_seq_idx"),
    ("(external_id, seq) <", "'order-7'", "tenant_id_external_id_seq_idx"),
    ("(rare, seq) <", "50::smallint", "tenant_id_rare_seq_idx"),
];

async fn page_plan(client: &Client, marker: &str, way_in: &str, from: i64, until: i64, explain: &str) -> String {
    page_plan_of(fixture::tenant_record(1).id, client, marker, way_in, from, until, explain).await
}

async fn page_plan_of(tenant: TenantId, client: &Client, marker: &str, way_in: &str, from: i64, until: i64, explain: &str) -> String {
    let sql = statements().into_iter().find(|sql| sql.contains(marker)).unwrap();
    let arguments = format!("'{tenant}', {from}, {until}, 50, 50, NULL, NULL, NULL, NULL, NULL, NULL, {way_in}");
    // With the rights that the verb runs it with.
    client.batch_execute(&format!("SET ROLE raven_tenant; SET raven.tenant = '{tenant}'")).await.unwrap();
    let plan = plan(client, sql, explain, &arguments).await;
    client.batch_execute("RESET ROLE").await.unwrap();
    plan
}

/// Blocks that a page touched.
fn blocks(plan: &str) -> i64 {
    let (_, rest) = plan.split_once("Buffers: shared hit=").unwrap();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_page_reads_by_index_and_costs_the_same_however_many_messages_there_are() {
    let database = fresh().await;
    let client = look(&database.url).await;
    fill(&client, 0, 2_000).await;
    let mut before = Vec::new();
    for (marker, way_in, index) in PAGES {
        let plan = page_plan(&client, marker, way_in, 0, i64::MAX, "EXPLAIN (ANALYZE, BUFFERS)").await;
        assert!(plan.contains(index), "{plan}");
        before.push(blocks(&plan));
    }
    fill(&client, 2_000, 98_000).await;
    // Read once, so that what was never looked at since it was written is not counted.
    client.batch_execute("VACUUM messages").await.unwrap();
    for mode in ["auto", "force_generic_plan"] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}; SET enable_seqscan = off")).await.unwrap();
        for ((marker, way_in, index), before) in PAGES.iter().zip(&before) {
            let plan = page_plan(&client, marker, way_in, 0, i64::MAX, "EXPLAIN (ANALYZE, BUFFERS)").await;
            assert!(plan.contains(index) && !plan.contains("Seq Scan on messages"), "{mode}\n{plan}");
            // Fifty times the rows: a deeper index and more weeks, and rows of one page's worth further apart.
            assert!(blocks(&plan) < before + 150, "{mode}: {before} blocks, then {}\n{plan}", blocks(&plan));
        }
    }
}

#[tokio::test]
async fn a_message_that_moves_on_its_usual_way_costs_no_index_entry() {
    let database = fresh().await;
    let client = look(&database.url).await;
    fill(&client, 1, 1).await;
    // Of this session, until it reports them.
    let seen = async || -> i64 {
        let updates = "SELECT sum(n_tup_hot_upd)::bigint FROM pg_stat_xact_user_tables WHERE relname LIKE 'messages%'";
        client.query_one(updates, &[]).await.unwrap().get(0)
    };
    let heap_only = async |status: i16| -> i64 {
        client.batch_execute("BEGIN").await.unwrap();
        let before = seen().await;
        let change = "UPDATE messages SET status = $1, provider = 'twilio', provider_message_id = 'SM1', segments = 1";
        assert_eq!(client.execute(change, &[&status]).await.unwrap(), 1);
        let updates = seen().await - before;
        client.batch_execute("COMMIT").await.unwrap();
        updates
    };
    for usual in [Status::Sending, Status::Sent, Status::Delivered] {
        assert_eq!(heap_only(usual.code()).await, 1, "{usual}");
    }
    assert_eq!(heap_only(Status::Bounced.code()).await, 0, "it is listed among those that bounced");
}

#[tokio::test]
async fn a_small_tenant_does_not_pay_for_a_large_one() {
    let database = fresh().await;
    let client = look(&database.url).await;
    fill(&client, 0, 50_000).await;
    let small = fixture::tenant_record(2).id;
    let few = format!(
        "INSERT INTO messages (seq, tenant_id, environment, channel, source, status, large, external_id, recipient, content)
         SELECT (({} + n) << 21) + 7, '{small}', 1, 1, 1, 50, false, 'order-7', '+254', '{{}}' FROM generate_series(1, 3) AS n",
        at(0).millis()
    );
    client.batch_execute(&few).await.unwrap();
    client.batch_execute("VACUUM ANALYZE messages").await.unwrap();
    for mode in ["auto", "force_generic_plan"] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}; SET enable_seqscan = off")).await.unwrap();
        for (marker, way_in, index) in PAGES {
            let plan = page_plan_of(small, &client, marker, way_in, 0, i64::MAX, "EXPLAIN (ANALYZE, BUFFERS)").await;
            assert!(plan.contains(index) && blocks(&plan) < 150, "{mode}\n{plan}");
        }
    }
}

#[tokio::test]
async fn a_page_of_one_week_reads_next_to_nothing_of_the_others() {
    let database = fresh().await;
    let client = look(&database.url).await;
    fill(&client, 0, 100_000).await;
    client.batch_execute("VACUUM messages").await.unwrap();
    client.batch_execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off").await.unwrap();
    // A moment in which nothing was accepted, between two messages of the first week.
    let (from, until) = (seq(DAY).0 + 1, seq(DAY).0 + 2);
    for (marker, way_in, index) in PAGES {
        let plan = page_plan(&client, marker, way_in, from, until, "EXPLAIN (ANALYZE, BUFFERS)").await;
        // It is 44, 73 and 25: two of each other week's index, and the first page of the week asked for.
        assert!(plan.contains(index) && blocks(&plan) < 100, "{plan}");
    }
}
