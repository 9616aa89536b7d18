// The process that takes requests. It opens its connections, listens, and closes all in order when it is told to end.

import 'reflect-metadata';
import { Controller, Get, Inject, Injectable, Module, OnApplicationShutdown, StandardSchemaValidationPipe } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { Redis } from 'ioredis';
import { listen } from './config.js';
import { Database } from './database.js';
import { Messages, MessagesController } from './messages.js';
import { connect, Outgoing, Quota } from './redis.js';

/** Answers 200 when requests can be served. */
@Controller('readyz')
class ReadyController {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Quota) private readonly quota: Quota,
  ) {}

  @Get()
  async ready(): Promise<{ status: 'ready' }> {
    await Promise.all([this.database.ping(), this.quota.ping()]);
    return { status: 'ready' };
  }
}

/** Closes what was opened. */
@Injectable()
class Connections implements OnApplicationShutdown {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Outgoing) private readonly outgoing: Outgoing,
    @Inject(Redis) private readonly redis: Redis,
  ) {}

  async onApplicationShutdown(): Promise<void> {
    await this.outgoing.close();
    await Promise.all([this.database.close(), this.redis.quit()]);
  }
}

@Module({
  controllers: [MessagesController, ReadyController],
  providers: [
    { provide: Database, useFactory: () => new Database() },
    { provide: Redis, useFactory: connect },
    { provide: Outgoing, useFactory: (redis: Redis) => new Outgoing(redis), inject: [Redis] },
    { provide: Quota, useFactory: (redis: Redis) => new Quota(redis), inject: [Redis] },
    Messages,
    Connections,
  ],
})
class ApiModule {}

const app = await NestFactory.create<NestFastifyApplication>(ApiModule, new FastifyAdapter({ logger: false }), { logger: ['error', 'warn'] });
app.useGlobalPipes(new StandardSchemaValidationPipe());
// Otherwise it would end by the signal, as if it had been killed.
app.enableShutdownHooks(['SIGTERM', 'SIGINT'], { useProcessExit: true });
const { host, port } = listen();
await app.listen(port, host);
