-- Times are milliseconds since 1970 (UTC); codes are those of raven-core. Text compares bytewise (COLLATE "C").

CREATE TABLE secrets (
  name text COLLATE "C" NOT NULL PRIMARY KEY,
  wrapped bytea NOT NULL
);

-- One row per life of one process. Epochs are never used twice.
CREATE TABLE nodes (
  epoch bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node_id text COLLATE "C" NOT NULL,
  slot smallint NOT NULL UNIQUE,
  beat_at bigint NOT NULL
);

-- The last beat of whoever held a slot: ids of the next holder start after it.
CREATE TABLE slots (
  slot smallint NOT NULL PRIMARY KEY,
  last_beat_at bigint NOT NULL
);

CREATE TABLE tenants (
  id uuid NOT NULL PRIMARY KEY,
  slug text COLLATE "C" NOT NULL UNIQUE,
  name text COLLATE "C" NOT NULL,
  status smallint NOT NULL,
  plan text COLLATE "C" NOT NULL,
  country_code text COLLATE "C",
  default_locale text COLLATE "C" NOT NULL,
  default_tz text COLLATE "C" NOT NULL,
  created_at bigint NOT NULL,
  data_key bytea NOT NULL,
  retry_unknown boolean NOT NULL
);
CREATE INDEX tenants_created ON tenants (created_at, id);

CREATE TABLE users (
  id uuid NOT NULL PRIMARY KEY,
  email text COLLATE "C" NOT NULL,
  name text COLLATE "C",
  avatar_url text COLLATE "C"
);

CREATE TABLE members (
  user_id uuid NOT NULL REFERENCES users (id),
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  role smallint NOT NULL,
  created_at bigint NOT NULL,
  PRIMARY KEY (user_id, tenant_id)
);
CREATE INDEX members_tenant ON members (tenant_id);

CREATE TABLE api_keys (
  id uuid NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  environment smallint NOT NULL,
  prefix text COLLATE "C" NOT NULL UNIQUE,
  last_four text COLLATE "C" NOT NULL,
  secret_hash text COLLATE "C" NOT NULL,
  secret_mac bytea NOT NULL,
  scopes smallint NOT NULL,
  name text COLLATE "C" NOT NULL,
  rate_limit_rpm integer,
  expires_at bigint,
  created_at bigint NOT NULL,
  revoked_at bigint
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, created_at, id);

CREATE TABLE provider_configs (
  id uuid NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  provider text COLLATE "C" NOT NULL,
  channel smallint NOT NULL,
  label text COLLATE "C" NOT NULL,
  status text COLLATE "C" NOT NULL,
  public text COLLATE "C" NOT NULL,
  secret bytea NOT NULL,
  created_at bigint NOT NULL
);
CREATE INDEX provider_configs_tenant ON provider_configs (tenant_id, created_at, id);

-- Indexed by the caller's key text, not a hash of it: callers' keys are mostly sequential, so inserts stay local.
-- Either the message (message_seq, accepted_status) or the stored body (response) answers a replay.
CREATE TABLE idempotency (
  owner_id uuid NOT NULL,
  environment smallint NOT NULL,
  operation smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  fingerprint bytea NOT NULL,
  message_seq bigint,
  accepted_status smallint,
  response text COLLATE "C",
  expires_at bigint NOT NULL,
  PRIMARY KEY (owner_id, environment, operation, key)
);

-- A status code is its rank (raven-core), so a status rises with GREATEST(). The time of acceptance is in the seq.
-- Weekly partitions on seq are made ahead; what falls outside all of them lands in the default one, so nothing is refused.
CREATE TABLE messages (
  seq bigint NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL,
  cost_micros bigint,
  environment smallint NOT NULL,
  channel smallint NOT NULL,
  source smallint NOT NULL,
  status smallint NOT NULL,
  segments smallint,
  encoding smallint,
  large boolean NOT NULL,
  config_id uuid,
  cost_currency text COLLATE "C",
  provider text COLLATE "C",
  provider_message_id text COLLATE "C",
  external_id text COLLATE "C",
  failure_reason text COLLATE "C",
  recipient text COLLATE "C" NOT NULL,
  content text COLLATE "C" NOT NULL
) PARTITION BY RANGE (seq);
CREATE INDEX messages_tenant ON messages (tenant_id, environment, seq);
CREATE INDEX messages_external ON messages (tenant_id, external_id, seq) WHERE external_id IS NOT NULL;
-- Only statuses that few messages ever reach: expired, canceled, suppressed, failed, bounced, unsubscribed, complained.
CREATE INDEX messages_status ON messages (tenant_id, status, seq) WHERE status >= 40 AND status <> 60;
CREATE TABLE messages_default PARTITION OF messages DEFAULT WITH (fillfactor = 70);

CREATE TABLE contents (
  seq bigint NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL,
  content text COLLATE "C" NOT NULL
);

-- The outcome of an attempt also tells its start, so "sending" needs no row; "queued" neither.
-- Their order is told by one sequence for all: an identity column can't be shared by partitions.
CREATE SEQUENCE events_n_seq;
CREATE TABLE events (
  message_seq bigint NOT NULL,
  n bigint NOT NULL DEFAULT nextval('events_n_seq'),
  at bigint NOT NULL,
  started_at bigint,
  tenant_id uuid NOT NULL,
  kind smallint NOT NULL,
  attempt smallint NOT NULL,
  detail text COLLATE "C",
  payload text COLLATE "C",
  PRIMARY KEY (message_seq, n)
) PARTITION BY RANGE (message_seq);
ALTER SEQUENCE events_n_seq OWNED BY events.n;
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- One row for every message that something is still to be done for.
CREATE TABLE jobs (
  seq bigint NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL,
  due_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  epoch bigint,
  started_at bigint,
  environment smallint NOT NULL,
  channel smallint NOT NULL,
  action smallint NOT NULL,
  attempt smallint NOT NULL,
  config_id uuid
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX jobs_due ON jobs (tenant_id, environment, channel, due_at, seq) WHERE epoch IS NULL;
-- When the next waiting job is due, in one look-up. A job that is leased from the start stands in neither index.
CREATE INDEX jobs_waiting ON jobs (due_at) WHERE epoch IS NULL;
