// The process that delivers: takes jobs from the queue, calls the provider, records what became of it.
// It prints `ready` when it takes jobs.

import { Job, Worker } from 'bullmq';
import { concurrency } from './config.js';
import { Database, type Outcome } from './database.js';
import { Provider } from './provider.js';
import { connect, QUEUE } from './redis.js';

const database = new Database();
const provider = new Provider();
const redis = connect();

async function deliver(job: Job<{ id: string }>): Promise<void> {
  const { id } = job.data;
  const startedAt = new Date();
  const message = await database.start(id);
  // Its outcome is stored already: the job came a second time.
  if (!message) return;
  let outcome: Outcome;
  try {
    outcome = await provider.send(message.recipient, message.body);
  } catch (error) {
    if (job.attemptsMade + 1 < (job.opts.attempts ?? 1)) throw error;
    const reason = error instanceof Error ? error.message : 'unknown';
    outcome = { status: 'failed', providerMessageId: null, failureReason: reason, payload: null };
  }
  await database.settle(id, startedAt, outcome);
}

const worker = new Worker<{ id: string }>(QUEUE, deliver, { connection: redis, concurrency: concurrency() });
worker.on('error', (error) => console.error(error.message));
worker.on('failed', (_, error) => console.error(error.message));

async function end(): Promise<void> {
  await worker.close();
  await Promise.all([provider.close(), database.close(), redis.quit()]);
}
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void end());

await Promise.all([worker.waitUntilReady(), database.ping()]);
console.log('ready');
