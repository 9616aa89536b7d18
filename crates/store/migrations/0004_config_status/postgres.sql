-- Why a provider config's credentials don't work.

ALTER TABLE provider_configs ADD COLUMN status_reason text;

GRANT UPDATE (label, public, secret, status, status_reason) ON provider_configs TO raven_tenant;
