-- Why a provider config's credentials don't work.

ALTER TABLE provider_configs ADD COLUMN status_reason TEXT;
