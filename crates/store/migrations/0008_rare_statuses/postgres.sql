-- The list of messages by a rare status has a column of its own, which stays NULL on a message's usual way. An index that names the
-- status, were it only in its terms, would make every change of a status write all index entries of the message anew: PostgreSQL
-- keeps them only where no column that any index looks at has changed (a heap-only update).
ALTER TABLE messages ADD COLUMN rare smallint GENERATED ALWAYS AS (CASE WHEN status >= 40 AND status <> 60 THEN status END) STORED;
DROP INDEX messages_status;
CREATE INDEX messages_status ON messages (tenant_id, rare, seq) WHERE rare IS NOT NULL;
