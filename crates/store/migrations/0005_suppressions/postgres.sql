-- Suppressions: addresses that a tenant does not write to any more.

-- The address as it is shown, and what stands for it in the index: itself, or a digest where it is too long.
CREATE TABLE suppressions (
  id uuid NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  environment smallint NOT NULL,
  channel smallint NOT NULL,
  lookup text COLLATE "C" NOT NULL,
  address text COLLATE "C" NOT NULL,
  reason smallint NOT NULL,
  source smallint NOT NULL,
  message_seq bigint,
  detail text COLLATE "C",
  created_at bigint NOT NULL
);
CREATE UNIQUE INDEX suppressions_lookup ON suppressions (tenant_id, environment, channel, lookup);
CREATE INDEX suppressions_tenant ON suppressions (tenant_id, environment, created_at, id);

ALTER TABLE suppressions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON suppressions TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
GRANT SELECT, INSERT, DELETE ON suppressions TO raven_tenant;

-- Of the accepted messages those whose recipient was suppressed: they count against no quota.
ALTER TABLE usage_accepted ADD COLUMN suppressed bigint NOT NULL DEFAULT 0;
