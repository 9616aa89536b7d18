// Accepting a message: what a request may say, and what happens before it is answered with 202.

import { createHash } from 'node:crypto';
import {
  BadRequestException,
  Body,
  ConflictException,
  Controller,
  Headers,
  HttpCode,
  HttpException,
  HttpStatus,
  Inject,
  Injectable,
  Post,
  Req,
  Res,
  UseGuards,
} from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { v7 as uuid } from 'uuid';
import { z } from 'zod';
import { Caller, Database, Earlier } from './database.js';
import { type Authenticated, KeyGuard } from './keys.js';
import { Outgoing, Quota } from './redis.js';

const IdempotencyKey = z.string().min(1).max(255).regex(/^[^\p{Cc}]*$/u);

const SendRequest = z.strictObject({
  channel: z.literal('sms'),
  to: z.string().regex(/^\+[1-9]\d{6,14}$/),
  body: z.string().min(1).max(4096).refine((text) => !text.includes('\0')),
  externalId: z.string().min(1).max(255).optional(),
  idempotencyKey: IdempotencyKey.optional(),
});
type SendRequest = z.infer<typeof SendRequest>;

/** What the caller is told. */
interface Accepted {
  id: string;
  status: 'queued';
  channel: string;
  to: string;
  enqueuedAt: string;
}

@Injectable()
export class Messages {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Quota) private readonly quota: Quota,
    @Inject(Outgoing) private readonly outgoing: Outgoing,
  ) {}

  async accept(caller: Caller, request: SendRequest, idempotencyKey: string | null): Promise<{ accepted: Accepted; replayed: boolean }> {
    const now = new Date();
    const fingerprint = idempotencyKey === null ? null : fingerprintOf(request);
    if (!(await this.quota.take(caller.tenantId, caller.dailyQuota, now))) {
      // A replay is answered even when the quota is spent.
      const earlier = idempotencyKey === null ? undefined : await this.database.earlier(caller.tenantId, idempotencyKey);
      if (!earlier) throw new QuotaSpent(now);
      return this.replay(earlier, request, fingerprint);
    }
    const message = {
      id: uuid(),
      tenantId: caller.tenantId,
      channel: request.channel,
      recipient: request.to,
      body: request.body,
      externalId: request.externalId ?? null,
      idempotencyKey,
      fingerprint,
      createdAt: now,
    };
    let fresh: boolean;
    try {
      fresh = await this.database.insert(message);
    } catch (error) {
      await this.quota.giveBack(caller.tenantId, now);
      throw error;
    }
    if (!fresh && idempotencyKey !== null) {
      await this.quota.giveBack(caller.tenantId, now);
      const earlier = await this.database.earlier(caller.tenantId, idempotencyKey);
      if (!earlier) throw new ConflictException('The first request with this idempotency key is gone: try again');
      return this.replay(earlier, request, fingerprint);
    }
    await this.outgoing.add(message.id);
    return { accepted: view(message.id, request, now), replayed: false };
  }

  private async replay(earlier: Earlier, request: SendRequest, fingerprint: Buffer | null): Promise<{ accepted: Accepted; replayed: boolean }> {
    if (fingerprint === null || !earlier.fingerprint.equals(fingerprint)) {
      throw new ConflictException('This idempotency key was used for another request');
    }
    // The first request may have failed between the table and the queue.
    if (earlier.status === 'queued') await this.outgoing.add(earlier.id);
    return { accepted: view(earlier.id, request, earlier.createdAt), replayed: true };
  }
}

/** The day's messages are spent. */
class QuotaSpent extends HttpException {
  readonly retryAfter: number;

  constructor(now: Date) {
    super('The daily quota is spent', HttpStatus.TOO_MANY_REQUESTS);
    this.retryAfter = Math.ceil((Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate() + 1) - now.getTime()) / 1000);
  }
}

/** Of what a request says, whatever the order in which it says it. */
function fingerprintOf(request: SendRequest): Buffer {
  const said = [request.channel, request.to, request.body, request.externalId ?? null];
  return createHash('sha256').update(JSON.stringify(said)).digest();
}

/** A replay gets the same answer, since only equal requests are replayed. */
function view(id: string, request: SendRequest, createdAt: Date): Accepted {
  return { id, status: 'queued', channel: request.channel, to: request.to, enqueuedAt: createdAt.toISOString() };
}

@Controller('v1/messages')
@UseGuards(KeyGuard)
export class MessagesController {
  constructor(@Inject(Messages) private readonly messages: Messages) {}

  @Post()
  @HttpCode(HttpStatus.ACCEPTED)
  async create(
    @Body({ schema: SendRequest }) request: SendRequest,
    @Headers('idempotency-key') header: string | undefined,
    @Req() { caller }: Authenticated,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<Accepted> {
    if (header !== undefined && !IdempotencyKey.safeParse(header).success) throw new BadRequestException('Idempotency-Key is malformed');
    if (header !== undefined && request.idempotencyKey !== undefined && header !== request.idempotencyKey) {
      throw new BadRequestException('Idempotency-Key and idempotencyKey differ');
    }
    try {
      const { accepted, replayed } = await this.messages.accept(caller, request, request.idempotencyKey ?? header ?? null);
      if (replayed) void reply.header('idempotent-replayed', 'true');
      return accepted;
    } catch (error) {
      if (error instanceof QuotaSpent) void reply.header('retry-after', error.retryAfter);
      throw error;
    }
  }
}
