-- Routing: which of a tenant's configs a message goes through, and what waits for one of them.

ALTER TABLE provider_configs ADD COLUMN priority INTEGER NOT NULL DEFAULT 100;
ALTER TABLE provider_configs ADD COLUMN weight INTEGER NOT NULL DEFAULT 100;
-- JSON: which recipients it takes. NULL: all.
ALTER TABLE provider_configs ADD COLUMN rules TEXT;
ALTER TABLE provider_configs ADD COLUMN rate_per_second INTEGER;
ALTER TABLE provider_configs ADD COLUMN burst INTEGER;
ALTER TABLE provider_configs ADD COLUMN concurrency INTEGER;

-- Which configs were tried in this round, and how often each.
ALTER TABLE jobs ADD COLUMN tried TEXT;
-- A number made of the config that the job is expected to go through; 0: not known. What waits for one config stands before
-- nothing that waits for another one.
ALTER TABLE jobs ADD COLUMN outlet INTEGER NOT NULL DEFAULT 0;
-- When it was due, where no config takes it at present: it waits for a change until it is too old.
ALTER TABLE jobs ADD COLUMN parked INTEGER;
DROP INDEX jobs_due;
CREATE INDEX jobs_due ON jobs (tenant_id, environment, channel, urgency, outlet, due_at, seq) WHERE epoch IS NULL;
CREATE INDEX jobs_parked ON jobs (tenant_id, channel, parked, seq) WHERE parked IS NOT NULL;
