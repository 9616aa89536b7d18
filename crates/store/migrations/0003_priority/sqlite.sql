-- Priority: of messages, of what a key sends by default, and of waiting work.

ALTER TABLE api_keys ADD COLUMN priority INTEGER;
ALTER TABLE messages ADD COLUMN priority INTEGER NOT NULL DEFAULT 1;
-- Transactional, bulk, and both again for what was tried before: each waits in a lane of its own.
ALTER TABLE jobs ADD COLUMN urgency INTEGER NOT NULL DEFAULT 1;
DROP INDEX jobs_due;
CREATE INDEX jobs_due ON jobs (tenant_id, environment, channel, urgency, due_at, seq) WHERE epoch IS NULL;
