-- Suppressions: addresses that a tenant does not write to any more.

-- The address as it is shown, and what stands for it in the index: itself, or a digest where it is too long.
CREATE TABLE suppressions (
  id BLOB NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL REFERENCES tenants (id),
  environment INTEGER NOT NULL,
  channel INTEGER NOT NULL,
  lookup TEXT NOT NULL,
  address TEXT NOT NULL,
  reason INTEGER NOT NULL,
  source INTEGER NOT NULL,
  message_seq INTEGER,
  detail TEXT,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX suppressions_lookup ON suppressions (tenant_id, environment, channel, lookup);
CREATE INDEX suppressions_tenant ON suppressions (tenant_id, environment, created_at, id);

-- Of the accepted messages those whose recipient was suppressed: they count against no quota.
ALTER TABLE usage_accepted ADD COLUMN suppressed INTEGER NOT NULL DEFAULT 0;
