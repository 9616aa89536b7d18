-- Callbacks: kept raw before anything is made of them, what they tell of messages, and messages from outside.

-- state: 1 waiting, 2 applied, 3 names messages that are not known, 4 unreadable. One that waits is nobody's until due_at; whoever
-- takes it moves that on.
CREATE TABLE callbacks (
  seq bigint NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL,
  config_id uuid NOT NULL,
  is_trusted boolean NOT NULL,
  once text COLLATE "C",
  method text COLLATE "C" NOT NULL,
  query text COLLATE "C" NOT NULL,
  headers text COLLATE "C" NOT NULL,
  body bytea NOT NULL,
  state smallint NOT NULL,
  tries smallint NOT NULL,
  due_at bigint NOT NULL,
  problem text COLLATE "C"
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX callbacks_due ON callbacks (due_at, seq) WHERE state = 1;
CREATE INDEX callbacks_tenant ON callbacks (tenant_id, seq);
-- What a signature that does not cover the body was used with.
CREATE UNIQUE INDEX callbacks_once ON callbacks (config_id, once) WHERE once IS NOT NULL;

-- Messages by the id of their provider, where its callbacks know no other. Buckets are hours, so inserts stay together.
CREATE TABLE provider_ids (
  bucket integer NOT NULL,
  digest bigint NOT NULL,
  seq bigint NOT NULL,
  PRIMARY KEY (bucket, digest, seq)
);

-- What tells a report from others of its kind about the same message; NULL: a line of our own.
ALTER TABLE events ADD COLUMN report text COLLATE "C";

-- Soft bounces of an address since the last delivery, within the last days.
CREATE TABLE soft_bounces (
  tenant_id uuid NOT NULL,
  environment smallint NOT NULL,
  channel smallint NOT NULL,
  lookup text COLLATE "C" NOT NULL,
  bounces bigint NOT NULL,
  since bigint NOT NULL,
  PRIMARY KEY (tenant_id, environment, channel, lookup)
);

CREATE TABLE inbound_messages (
  seq bigint NOT NULL PRIMARY KEY,
  tenant_id uuid NOT NULL,
  environment smallint NOT NULL,
  channel smallint NOT NULL,
  config_id uuid NOT NULL,
  provider text COLLATE "C" NOT NULL,
  provider_message_id text COLLATE "C" NOT NULL,
  sender text COLLATE "C" NOT NULL,
  recipient text COLLATE "C" NOT NULL,
  body text COLLATE "C" NOT NULL,
  media text COLLATE "C" NOT NULL,
  keyword smallint,
  message_seq bigint,
  sent_at bigint
);
CREATE UNIQUE INDEX inbound_messages_once ON inbound_messages (config_id, provider_message_id);
CREATE INDEX inbound_messages_tenant ON inbound_messages (tenant_id, environment, seq);

-- Are callbacks taken that nothing proves to be the provider's?
ALTER TABLE provider_configs ADD COLUMN allow_unsigned boolean NOT NULL DEFAULT false;
GRANT UPDATE (allow_unsigned) ON provider_configs TO raven_tenant;

ALTER TABLE callbacks ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON callbacks TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE soft_bounces ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON soft_bounces TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
ALTER TABLE inbound_messages ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON inbound_messages TO raven_tenant USING (tenant_id = NULLIF(current_setting('raven.tenant', true), '')::uuid);
GRANT SELECT ON callbacks, soft_bounces, inbound_messages TO raven_tenant;
