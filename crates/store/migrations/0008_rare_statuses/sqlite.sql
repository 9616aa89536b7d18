-- The list of messages by a rare status has a column of its own, as in PostgreSQL (where it saves index entries).
ALTER TABLE messages ADD COLUMN rare INTEGER GENERATED ALWAYS AS (CASE WHEN status >= 40 AND status <> 60 THEN status END) VIRTUAL;
DROP INDEX messages_status;
CREATE INDEX messages_status ON messages (tenant_id, rare, seq) WHERE rare IS NOT NULL;
