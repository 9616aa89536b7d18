// The connection pool, the schema and every statement. No HTTP and no queue here.

import pg from 'pg';
import { shared } from './config.js';

/**
 * `messages_idempotency` is what makes an idempotency key count once: whoever inserts second waits for the first to commit.
 * `messages_of_tenant` is what a list of messages would be read by.
 */
const SCHEMA = `
CREATE TABLE tenants (
  id uuid PRIMARY KEY,
  name text NOT NULL,
  daily_quota bigint NOT NULL
);
CREATE TABLE api_keys (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  hash bytea NOT NULL UNIQUE,
  rate_limit_rpm integer NOT NULL,
  revoked_at timestamptz
);
CREATE TABLE messages (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  channel text NOT NULL,
  recipient text NOT NULL,
  body text NOT NULL,
  external_id text,
  idempotency_key text,
  fingerprint bytea,
  status text NOT NULL CHECK (status IN ('queued', 'sending', 'sent', 'failed')),
  provider_message_id text,
  failure_reason text,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX messages_idempotency ON messages (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX messages_of_tenant ON messages (tenant_id, created_at);
CREATE TABLE message_events (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id uuid NOT NULL REFERENCES messages (id),
  type text NOT NULL,
  started_at timestamptz NOT NULL,
  occurred_at timestamptz NOT NULL,
  payload jsonb NOT NULL
);
CREATE INDEX message_events_of_message ON message_events (message_id);
`;

/** Who calls: a key, its tenant, and how much they may do. */
export interface Caller {
  keyId: string;
  tenantId: string;
  /** Requests a minute. */
  rateLimit: number;
  /** Messages a day. */
  dailyQuota: number;
}

/** A message as it is accepted. */
export interface NewMessage {
  id: string;
  tenantId: string;
  channel: string;
  recipient: string;
  body: string;
  externalId: string | null;
  idempotencyKey: string | null;
  /** Of what the request said; there when the key is. */
  fingerprint: Buffer | null;
  createdAt: Date;
}

/** What an idempotency key was used for. */
export interface Earlier {
  id: string;
  fingerprint: Buffer;
  status: string;
  createdAt: Date;
}

/** How a call to the provider ended. */
export interface Outcome {
  status: 'sent' | 'failed';
  providerMessageId: string | null;
  failureReason: string | null;
  /** The provider's own words. */
  payload: unknown;
}

/** The database. Statements are prepared once for each connection; each is a transaction of its own. */
export class Database {
  private readonly pool: pg.Pool;

  constructor() {
    const { databaseUrl, databasePool } = shared();
    // A 202 promises that the message is on the disk, whatever the server's default is.
    const options = '-c synchronous_commit=on';
    this.pool = new pg.Pool({ connectionString: databaseUrl, max: databasePool, idleTimeoutMillis: 0, options });
    // An idle connection that breaks is replaced by the pool; without a listener it would end the process.
    this.pool.on('error', (error) => console.error(error.message));
  }

  async migrate(): Promise<void> {
    await this.pool.query(SCHEMA);
  }

  async addTenant(caller: Caller, name: string, hash: Buffer): Promise<void> {
    await this.pool.query('INSERT INTO tenants (id, name, daily_quota) VALUES ($1, $2, $3)', [caller.tenantId, name, caller.dailyQuota]);
    await this.pool.query('INSERT INTO api_keys (id, tenant_id, hash, rate_limit_rpm) VALUES ($1, $2, $3, $4)', [
      caller.keyId,
      caller.tenantId,
      hash,
      caller.rateLimit,
    ]);
  }

  async ping(): Promise<void> {
    await this.pool.query('SELECT 1');
  }

  async callerOf(hash: Buffer): Promise<Caller | undefined> {
    const { rows } = await this.pool.query<Caller>({
      name: 'caller',
      text: `SELECT k.id AS "keyId", k.tenant_id AS "tenantId", k.rate_limit_rpm AS "rateLimit", t.daily_quota::float8 AS "dailyQuota"
             FROM api_keys k JOIN tenants t ON t.id = k.tenant_id WHERE k.hash = $1 AND k.revoked_at IS NULL`,
      values: [hash],
    });
    return rows[0];
  }

  /** Stores a message; `false` if its idempotency key was used before. */
  async insert(message: NewMessage): Promise<boolean> {
    const { rowCount } = await this.pool.query({
      name: 'insert',
      text: `INSERT INTO messages
               (id, tenant_id, channel, recipient, body, external_id, idempotency_key, fingerprint, status, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', $9, $9)
             ON CONFLICT (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING`,
      values: [
        message.id,
        message.tenantId,
        message.channel,
        message.recipient,
        message.body,
        message.externalId,
        message.idempotencyKey,
        message.fingerprint,
        message.createdAt,
      ],
    });
    return rowCount === 1;
  }

  async earlier(tenantId: string, idempotencyKey: string): Promise<Earlier | undefined> {
    const { rows } = await this.pool.query<Earlier>({
      name: 'earlier',
      text: `SELECT id, fingerprint, status, created_at AS "createdAt" FROM messages WHERE tenant_id = $1 AND idempotency_key = $2`,
      values: [tenantId, idempotencyKey],
    });
    return rows[0];
  }

  /** Marks a message as being sent; `undefined` if it has an outcome already. */
  async start(id: string): Promise<{ recipient: string; body: string } | undefined> {
    const { rows } = await this.pool.query<{ recipient: string; body: string }>({
      name: 'start',
      text: `UPDATE messages SET status = 'sending', updated_at = now() WHERE id = $1 AND status IN ('queued', 'sending')
             RETURNING recipient, body`,
      values: [id],
    });
    return rows[0];
  }

  /** Stores an outcome and its event. */
  async settle(id: string, startedAt: Date, outcome: Outcome): Promise<void> {
    await this.pool.query({
      name: 'settle',
      text: `WITH settled AS (
               UPDATE messages SET status = $2, provider_message_id = $3, failure_reason = $4, updated_at = now()
               WHERE id = $1 AND status = 'sending' RETURNING id)
             INSERT INTO message_events (message_id, type, started_at, occurred_at, payload)
             SELECT id, $2, $5, now(), $6 FROM settled`,
      values: [id, outcome.status, outcome.providerMessageId, outcome.failureReason, startedAt, JSON.stringify(outcome.payload)],
    });
  }

  async close(): Promise<void> {
    await this.pool.end();
  }
}
