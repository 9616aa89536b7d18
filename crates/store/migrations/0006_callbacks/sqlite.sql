-- Callbacks: kept raw before anything is made of them, what they tell of messages, and messages from outside.

-- state: 1 waiting, 2 applied, 3 names messages that are not known, 4 unreadable. One that waits is nobody's until due_at; whoever
-- takes it moves that on.
CREATE TABLE callbacks (
  seq INTEGER NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL,
  config_id BLOB NOT NULL,
  is_trusted INTEGER NOT NULL,
  once TEXT,
  method TEXT NOT NULL,
  query TEXT NOT NULL,
  headers TEXT NOT NULL,
  body BLOB NOT NULL,
  state INTEGER NOT NULL,
  tries INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  problem TEXT
) STRICT;
CREATE INDEX callbacks_due ON callbacks (due_at, seq) WHERE state = 1;
CREATE INDEX callbacks_tenant ON callbacks (tenant_id, seq);
-- What a signature that does not cover the body was used with.
CREATE UNIQUE INDEX callbacks_once ON callbacks (config_id, once) WHERE once IS NOT NULL;

-- Messages by the id of their provider, where its callbacks know no other. Buckets are hours, so inserts stay together.
CREATE TABLE provider_ids (
  bucket INTEGER NOT NULL,
  digest INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY (bucket, digest, seq)
) STRICT, WITHOUT ROWID;

-- What tells a report from others of its kind about the same message; NULL: a line of our own.
ALTER TABLE events ADD COLUMN report TEXT;

-- Soft bounces of an address since the last delivery, within the last days.
CREATE TABLE soft_bounces (
  tenant_id BLOB NOT NULL,
  environment INTEGER NOT NULL,
  channel INTEGER NOT NULL,
  lookup TEXT NOT NULL,
  bounces INTEGER NOT NULL,
  since INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, environment, channel, lookup)
) STRICT, WITHOUT ROWID;

CREATE TABLE inbound_messages (
  seq INTEGER NOT NULL PRIMARY KEY,
  tenant_id BLOB NOT NULL,
  environment INTEGER NOT NULL,
  channel INTEGER NOT NULL,
  config_id BLOB NOT NULL,
  provider TEXT NOT NULL,
  provider_message_id TEXT NOT NULL,
  sender TEXT NOT NULL,
  recipient TEXT NOT NULL,
  body TEXT NOT NULL,
  media TEXT NOT NULL,
  keyword INTEGER,
  message_seq INTEGER,
  sent_at INTEGER
) STRICT;
CREATE UNIQUE INDEX inbound_messages_once ON inbound_messages (config_id, provider_message_id);
CREATE INDEX inbound_messages_tenant ON inbound_messages (tenant_id, environment, seq);

-- Are callbacks taken that nothing proves to be the provider's?
ALTER TABLE provider_configs ADD COLUMN allow_unsigned INTEGER NOT NULL DEFAULT 0;
