// Makes the tables in an empty database, and one tenant whose key is `API_KEY`, with limits that no load reaches.

import { v7 as uuid } from 'uuid';
import { keySecret } from './config.js';
import { Database } from './database.js';
import { hashOf } from './keys.js';

const key = process.env.API_KEY;
if (!key) throw new Error('API_KEY is not set');
const database = new Database();
await database.migrate();
const caller = { keyId: uuid(), tenantId: uuid(), rateLimit: 100_000_000, dailyQuota: 1_000_000_000 };
await database.addTenant(caller, 'Bench', hashOf(key, keySecret()));
await database.close();
