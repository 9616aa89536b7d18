-- Tenants' states, members and invitations, keys' last use, daily quota, usage, rate limits, the audit log.

ALTER TABLE tenants ADD COLUMN suspended_by INTEGER;
ALTER TABLE tenants ADD COLUMN archived_at INTEGER;
-- What is to be deleted for good is found by when it was archived.
CREATE INDEX tenants_archived ON tenants (archived_at) WHERE archived_at IS NOT NULL;

DROP INDEX members_tenant;
CREATE INDEX members_tenant ON members (tenant_id, created_at, user_id);

CREATE TABLE invitations (
  id BLOB NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL REFERENCES tenants (id),
  email TEXT NOT NULL,
  role INTEGER NOT NULL,
  status INTEGER NOT NULL,
  invited_by BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX invitations_tenant ON invitations (tenant_id, created_at, id);
CREATE INDEX invitations_email ON invitations (email, created_at, id);
-- At most one open invitation of an address.
CREATE UNIQUE INDEX invitations_pending ON invitations (tenant_id, email) WHERE status = 1;

ALTER TABLE api_keys ADD COLUMN last_used_at INTEGER;

-- Append-only. The entry is JSON: who, what, on which resource, before and after, from where.
CREATE TABLE audit_log (
  tenant_id BLOB NOT NULL,
  seq INTEGER NOT NULL,
  entry TEXT NOT NULL,
  PRIMARY KEY (tenant_id, seq)
) STRICT, WITHOUT ROWID;

-- Live messages of a day (days since 1970, UTC). Slot -1 is the central row: what was granted of the limit in all. The
-- other slots are nodes' slices of it, which they debit without meeting each other. (SQLite, with one server, uses the
-- central row alone.)
CREATE TABLE quotas (
  tenant_id BLOB NOT NULL,
  day INTEGER NOT NULL,
  slot INTEGER NOT NULL,
  granted INTEGER NOT NULL,
  used INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, day, slot),
  CONSTRAINT quotas_used_check CHECK (used <= granted)
) STRICT, WITHOUT ROWID;

-- Accepted messages by day, channel and key (all zeros: a human), counted by each node in rows of its own.
CREATE TABLE usage_accepted (
  tenant_id BLOB NOT NULL,
  day INTEGER NOT NULL,
  environment INTEGER NOT NULL,
  channel INTEGER NOT NULL,
  key_id BLOB NOT NULL,
  slot INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, day, environment, channel, key_id, slot)
) STRICT, WITHOUT ROWID;

-- Messages that reached a status, by the day of their acceptance.
CREATE TABLE usage_outcomes (
  tenant_id BLOB NOT NULL,
  day INTEGER NOT NULL,
  environment INTEGER NOT NULL,
  channel INTEGER NOT NULL,
  status INTEGER NOT NULL,
  slot INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, day, environment, channel, status, slot)
) STRICT, WITHOUT ROWID;

-- GCRA: the theoretical arrival time of each bucket's next request (nanoseconds since 1970), and how many were granted last.
CREATE TABLE rate_limits (
  bucket BLOB NOT NULL PRIMARY KEY,
  tat INTEGER NOT NULL,
  granted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
