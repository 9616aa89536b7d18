-- Times are milliseconds since 1970 (UTC); ids are 16 bytes; codes are those of raven-core.

CREATE TABLE secrets (
  name TEXT NOT NULL PRIMARY KEY,
  wrapped BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per life of one process. Epochs are never used twice, so the counter outlives its rows.
CREATE TABLE nodes (
  epoch INTEGER PRIMARY KEY AUTOINCREMENT,
  node_id TEXT NOT NULL,
  slot INTEGER NOT NULL UNIQUE,
  beat_at INTEGER NOT NULL
) STRICT;

-- The last beat of whoever held a slot: ids of the next holder start after it.
CREATE TABLE slots (
  slot INTEGER NOT NULL PRIMARY KEY,
  last_beat_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tenants (
  id BLOB NOT NULL PRIMARY KEY,
  slug TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  status INTEGER NOT NULL,
  plan TEXT NOT NULL,
  country_code TEXT,
  default_locale TEXT NOT NULL,
  default_tz TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  data_key BLOB NOT NULL,
  retry_unknown INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tenants_created ON tenants (created_at, id);

CREATE TABLE users (
  id BLOB NOT NULL PRIMARY KEY,
  email TEXT NOT NULL,
  name TEXT,
  avatar_url TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE members (
  user_id BLOB NOT NULL REFERENCES users (id),
  tenant_id BLOB NOT NULL REFERENCES tenants (id),
  role INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (user_id, tenant_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_tenant ON members (tenant_id);

CREATE TABLE api_keys (
  id BLOB NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL REFERENCES tenants (id),
  environment INTEGER NOT NULL,
  prefix TEXT NOT NULL UNIQUE,
  last_four TEXT NOT NULL,
  secret_hash TEXT NOT NULL,
  secret_mac BLOB NOT NULL,
  scopes INTEGER NOT NULL,
  name TEXT NOT NULL,
  rate_limit_rpm INTEGER,
  expires_at INTEGER,
  created_at INTEGER NOT NULL,
  revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, created_at, id);

CREATE TABLE provider_configs (
  id BLOB NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL REFERENCES tenants (id),
  provider TEXT NOT NULL,
  channel INTEGER NOT NULL,
  label TEXT NOT NULL,
  status TEXT NOT NULL,
  public TEXT NOT NULL,
  secret BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX provider_configs_tenant ON provider_configs (tenant_id, created_at, id);

-- Indexed by the caller's key text, not a hash of it: callers' keys are mostly sequential, so inserts stay local.
-- Either the message (message_seq, accepted_status) or the stored body (response) answers a replay.
CREATE TABLE idempotency (
  owner_id BLOB NOT NULL,
  environment INTEGER NOT NULL,
  operation INTEGER NOT NULL,
  key TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  message_seq INTEGER,
  accepted_status INTEGER,
  response TEXT,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (owner_id, environment, operation, key)
) STRICT, WITHOUT ROWID;

-- A status code is its rank (raven-core), so a status rises with max(). The time of acceptance is in the seq.
CREATE TABLE messages (
  seq INTEGER NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL,
  environment INTEGER NOT NULL,
  channel INTEGER NOT NULL,
  source INTEGER NOT NULL,
  status INTEGER NOT NULL,
  large INTEGER NOT NULL,
  segments INTEGER,
  encoding INTEGER,
  cost_micros INTEGER,
  cost_currency TEXT,
  provider TEXT,
  config_id BLOB,
  provider_message_id TEXT,
  external_id TEXT,
  failure_reason TEXT,
  recipient TEXT NOT NULL,
  content TEXT NOT NULL
) STRICT;
CREATE INDEX messages_tenant ON messages (tenant_id, environment, seq);
CREATE INDEX messages_external ON messages (tenant_id, external_id, seq) WHERE external_id IS NOT NULL;
-- Only statuses that few messages ever reach: expired, canceled, suppressed, failed, bounced, unsubscribed, complained.
CREATE INDEX messages_status ON messages (tenant_id, status, seq) WHERE status >= 40 AND status <> 60;

CREATE TABLE contents (
  seq INTEGER NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL,
  content TEXT NOT NULL
) STRICT;

-- The outcome of an attempt also tells its start, so "sending" needs no row; "queued" neither.
CREATE TABLE events (
  message_seq INTEGER NOT NULL,
  n INTEGER NOT NULL,
  tenant_id BLOB NOT NULL,
  kind INTEGER NOT NULL,
  at INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  started_at INTEGER,
  detail TEXT,
  payload TEXT,
  PRIMARY KEY (message_seq, n)
) STRICT, WITHOUT ROWID;

-- One row for every message that something is still to be done for.
CREATE TABLE jobs (
  seq INTEGER NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL,
  environment INTEGER NOT NULL,
  channel INTEGER NOT NULL,
  action INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  epoch INTEGER,
  started_at INTEGER,
  config_id BLOB
) STRICT;
CREATE INDEX jobs_due ON jobs (tenant_id, environment, channel, due_at, seq) WHERE epoch IS NULL;
