-- Counters of a node come in parts: the rows of slot s, s + 256, s + 512 and so on belong to the node of slot s.
ALTER TABLE quotas ALTER COLUMN slot TYPE integer;
ALTER TABLE usage_accepted ALTER COLUMN slot TYPE integer;
ALTER TABLE usage_outcomes ALTER COLUMN slot TYPE integer;
