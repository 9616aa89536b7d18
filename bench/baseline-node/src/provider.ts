// Africa's Talking, bulk SMS: <https://developers.africastalking.com/docs/sms/sending/bulk>. One request, and what it answered.

import { Pool } from 'undici';
import type { Outcome } from './database.js';
import { concurrency, provider } from './config.js';

/** How long an answer may take, in milliseconds. */
const PATIENCE = 12_000;

interface Answer {
  SMSMessageData?: { Message?: string; Recipients?: { statusCode: number; status: string; messageId: string }[] };
}

/** The provider could not take the message now; it is worth another try. */
export class Unavailable extends Error {}

export class Provider {
  private readonly settings = provider();
  private readonly url = new URL(`${this.settings.baseUrl}/messaging`);
  /** Connections are kept, one for each job that a worker has in hand. */
  private readonly http = new Pool(this.url.origin, { connections: concurrency(), headersTimeout: PATIENCE, bodyTimeout: PATIENCE });

  async send(recipient: string, text: string): Promise<Outcome> {
    const form = new URLSearchParams({ username: this.settings.username, to: recipient, message: text, bulkSMSMode: '1' });
    const { statusCode, body } = await this.http.request({
      path: this.url.pathname,
      method: 'POST',
      headers: { apikey: this.settings.apiKey, accept: 'application/json', 'content-type': 'application/x-www-form-urlencoded' },
      body: form.toString(),
    });
    const said = await body.text();
    if (statusCode === 429 || statusCode >= 500) throw new Unavailable(`the provider answered ${statusCode}`);
    if (statusCode >= 300) return refused(`the provider answered ${statusCode}`, null);
    const answer = JSON.parse(said) as Answer;
    const first = answer.SMSMessageData?.Recipients?.[0];
    if (!first) return refused(answer.SMSMessageData?.Message ?? 'the provider named no recipient', answer);
    if (first.statusCode >= 500) throw new Unavailable(first.status);
    // 100 processed, 101 sent, 102 queued.
    if (first.statusCode < 100 || first.statusCode > 102) return refused(first.status, answer);
    return { status: 'sent', providerMessageId: first.messageId, failureReason: null, payload: answer };
  }

  async close(): Promise<void> {
    await this.http.close();
  }
}

function refused(reason: string, payload: unknown): Outcome {
  return { status: 'failed', providerMessageId: null, failureReason: reason, payload };
}
