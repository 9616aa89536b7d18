// Settings, all from the environment. Nothing else reads it.

function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function positive(name: string, otherwise: number): number {
  const value = Number(process.env[name] ?? otherwise);
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name} must be a whole number of at least 1`);
  return value;
}

/** What API, worker and migration share. */
export const shared = () => ({
  databaseUrl: required('DATABASE_URL'),
  /** Connections that a process keeps to PostgreSQL. */
  databasePool: positive('DATABASE_POOL', 20),
});

/** Where Redis is. */
export const redisUrl = () => required('REDIS_URL');

/** The secret that API keys are hashed with. */
export const keySecret = () => required('KEY_SECRET');

/** Where the API listens. */
export const listen = () => ({ host: process.env.HOST ?? '127.0.0.1', port: positive('PORT', 8080) });

/** What the worker needs to know of the provider. */
export const provider = () => ({
  baseUrl: required('PROVIDER_BASE_URL'),
  username: process.env.PROVIDER_USERNAME ?? 'acme',
  apiKey: process.env.PROVIDER_API_KEY ?? 'atsk_0000000000000000',
});

/** Jobs that a worker has in hand at once, and its connections to the provider. */
export const concurrency = () => positive('CONCURRENCY', 100);
