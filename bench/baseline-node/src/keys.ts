// Who calls: the API key's hash, looked up and remembered for a minute, and the count of its requests.

import { createHmac } from 'node:crypto';
import { CanActivate, ExecutionContext, HttpException, HttpStatus, Inject, Injectable, UnauthorizedException } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { keySecret } from './config.js';
import { Caller, Database } from './database.js';
import { Limiter } from './limiter.js';

/** How long a key that was found is trusted, in milliseconds. */
const TRUST = 60_000;
/** Keys that are remembered at most. */
const MOST = 10_000;

/** What is stored of a key. */
export function hashOf(key: string, secret: string): Buffer {
  return createHmac('sha256', secret).update(key).digest();
}

/** A request whose key was proven. */
export interface Authenticated extends FastifyRequest {
  caller: Caller;
}

@Injectable()
export class KeyGuard implements CanActivate {
  private readonly known = new Map<string, { caller: Caller; until: number }>();
  private readonly secret = keySecret();
  private readonly limiter = new Limiter();

  constructor(@Inject(Database) private readonly database: Database) {}

  canActivate(context: ExecutionContext): boolean | Promise<boolean> {
    const http = context.switchToHttp();
    const [request, reply] = [http.getRequest<Authenticated>(), http.getResponse<FastifyReply>()];
    const key = request.headers['x-raven-key'];
    if (typeof key !== 'string') throw new UnauthorizedException('An API key is needed');
    const hash = hashOf(key, this.secret);
    const name = hash.toString('base64');
    const known = this.known.get(name);
    if (known && known.until > Date.now()) return this.admit(known.caller, request, reply);
    return this.lookUp(hash, name).then((caller) => this.admit(caller, request, reply));
  }

  private async lookUp(hash: Buffer, name: string): Promise<Caller> {
    const caller = await this.database.callerOf(hash);
    if (!caller) {
      this.known.delete(name);
      throw new UnauthorizedException('Invalid API key');
    }
    if (this.known.size >= MOST) this.known.clear();
    this.known.set(name, { caller, until: Date.now() + TRUST });
    return caller;
  }

  private admit(caller: Caller, request: Authenticated, reply: FastifyReply): boolean {
    const verdict = this.limiter.take(caller.keyId, caller.rateLimit, Date.now());
    void reply.headers({ 'ratelimit-limit': caller.rateLimit, 'ratelimit-remaining': verdict.remaining, 'ratelimit-reset': verdict.reset });
    if (!verdict.allowed) {
      void reply.header('retry-after', verdict.retryAfter);
      throw new HttpException('Too many requests', HttpStatus.TOO_MANY_REQUESTS);
    }
    request.caller = caller;
    return true;
  }
}
