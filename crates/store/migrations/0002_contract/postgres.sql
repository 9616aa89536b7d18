-- Tenants' states, members and invitations, keys' last use, daily quota, usage, rate limits, the audit log.

ALTER TABLE tenants ADD COLUMN suspended_by smallint;
ALTER TABLE tenants ADD COLUMN archived_at bigint;
-- What is to be deleted for good is found by when it was archived.
CREATE INDEX tenants_archived ON tenants (archived_at) WHERE archived_at IS NOT NULL;

DROP INDEX members_tenant;
CREATE INDEX members_tenant ON members (tenant_id, created_at, user_id);

CREATE TABLE invitations (
  id uuid NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  email text COLLATE "C" NOT NULL,
  role smallint NOT NULL,
  status smallint NOT NULL,
  invited_by uuid NOT NULL,
  created_at bigint NOT NULL,
  expires_at bigint NOT NULL
);
CREATE INDEX invitations_tenant ON invitations (tenant_id, created_at, id);
CREATE INDEX invitations_email ON invitations (email, created_at, id);
-- At most one open invitation of an address.
CREATE UNIQUE INDEX invitations_pending ON invitations (tenant_id, email) WHERE status = 1;

ALTER TABLE api_keys ADD COLUMN last_used_at bigint;

-- Append-only. The entry is JSON: who, what, on which resource, before and after, from where.
CREATE TABLE audit_log (
  tenant_id uuid NOT NULL,
  seq bigint NOT NULL,
  entry text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, seq)
);

-- Live messages of a day (days since 1970, UTC). Slot -1 is the central row: what was granted of the limit in all. The
-- other slots are nodes' slices of it, which they debit without meeting each other. (SQLite, with one server, uses the
-- central row alone.)
CREATE TABLE quotas (
  tenant_id uuid NOT NULL,
  day integer NOT NULL,
  slot smallint NOT NULL,
  granted bigint NOT NULL,
  used bigint NOT NULL,
  PRIMARY KEY (tenant_id, day, slot),
  CONSTRAINT quotas_used_check CHECK (used <= granted)
);

-- Accepted messages by day, channel and key (all zeros: a human), counted by each node in rows of its own.
CREATE TABLE usage_accepted (
  tenant_id uuid NOT NULL,
  day integer NOT NULL,
  environment smallint NOT NULL,
  channel smallint NOT NULL,
  key_id uuid NOT NULL,
  slot smallint NOT NULL,
  messages bigint NOT NULL,
  PRIMARY KEY (tenant_id, day, environment, channel, key_id, slot)
);

-- Messages that reached a status, by the day of their acceptance.
CREATE TABLE usage_outcomes (
  tenant_id uuid NOT NULL,
  day integer NOT NULL,
  environment smallint NOT NULL,
  channel smallint NOT NULL,
  status smallint NOT NULL,
  slot smallint NOT NULL,
  messages bigint NOT NULL,
  PRIMARY KEY (tenant_id, day, environment, channel, status, slot)
);

-- GCRA: the theoretical arrival time of each bucket's next request (nanoseconds since 1970), and how many were granted last.
CREATE TABLE rate_limits (
  bucket uuid NOT NULL PRIMARY KEY,
  tat bigint NOT NULL,
  granted bigint NOT NULL
);

-- Row-level security: whoever acts for one tenant takes on the role raven_tenant and names the tenant in a setting, both
-- for one transaction (SET LOCAL), and sees and writes that tenant's rows only. Without the setting there is nothing to see.
-- The role is made before this step, for roles belong to the whole cluster.
--
-- It is not forced on the owner of the tables: acceptance, the queue, sign-in and housekeeping look across tenants by their
-- nature, and pay nothing for it this way. Partitions need no policy of their own: the role has no right to them, and a
-- partition that is reached through its parent goes by the parent's policy.
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON tenants TO raven_tenant USING (id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON members TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
-- Humans belong to no tenant; whoever is a member is seen. The members that this looks at go by their own policy.
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON users TO raven_tenant USING (EXISTS (SELECT FROM members m WHERE m.user_id = users.id
  AND m.tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid));
ALTER TABLE invitations ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON invitations TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON api_keys TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE provider_configs ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON provider_configs TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
-- Records whose owner is a human are out of reach.
ALTER TABLE idempotency ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON idempotency TO raven_tenant USING (owner_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON messages TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE contents ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON contents TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON events TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON jobs TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON audit_log TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE quotas ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON quotas TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE usage_accepted ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON usage_accepted TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE usage_outcomes ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON usage_outcomes TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);

-- What the verbs of one tenant do, and no more: the audit log can't be rewritten, keys and messages can't be moved to others.
GRANT SELECT ON tenants, users, members, invitations, api_keys, provider_configs, idempotency, messages, contents, events, jobs,
  audit_log, quotas, usage_accepted, usage_outcomes TO raven_tenant;
GRANT UPDATE (name, country_code, default_locale, default_tz, plan, retry_unknown) ON tenants TO raven_tenant;
GRANT UPDATE (role), DELETE ON members TO raven_tenant;
GRANT INSERT, UPDATE (status) ON invitations TO raven_tenant;
GRANT INSERT, UPDATE (name, rate_limit_rpm, expires_at, revoked_at) ON api_keys TO raven_tenant;
GRANT INSERT, DELETE ON provider_configs TO raven_tenant;
GRANT INSERT ON idempotency, audit_log TO raven_tenant;
GRANT UPDATE (granted) ON quotas TO raven_tenant;
